"""Cross-layer transcoders: a dictionary a layer, whose features write into its own MLP's output and into later ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.saes._spec import Named, decoder

if TYPE_CHECKING:
    from torch import Tensor


def slots(name: str, tensor: Tensor, site: Site, first: int, where: str) -> tuple[dict[str, Tensor], dict[str, Named]]:
    """The decoders in one tensor [d_sae, slots, d_out], as views of it: those of the first layer and of later ones.

    Args:
        name: Of the tensor.
        tensor: As its file has it.
        site: What the features write first.
        first: The slot of that site; those before it are of earlier layers, which nothing is written to.
        where: The file.

    Returns:
        The views by names of their own, and those names by SAELens's; see `Spec.names`.

    Raises:
        InputError: It isn't such a tensor, or writes to no layer.
    """
    if tensor.ndim != 3 or tensor.shape[1] <= first:
        raise InputError(
            f"{where}: {name} has shape {tuple(tensor.shape)}.",
            hint=f"It should be (features, layers that it writes to, d_model), with a slot for layer {site.layer}.",
        )
    names = {slot: f"{name}[:, {slot}]" for slot in range(first, tensor.shape[1])}
    views = {names[slot]: tensor[:, slot] for slot in names}
    sites = later(site, tensor.shape[1] - first - 1)
    keys = ["W_dec", *map(decoder, sites)]
    return views, {key: Named(part) for key, part in zip(keys, names.values(), strict=True)}


def later(site: Site, count: int) -> tuple[Site, ...]:
    """The same site of so many layers behind one."""
    return tuple(Site(site.layer + 1 + step, site.name) for step in range(count))
