"""Where SAEs read: sites, and the names of features.

A site is a place in a block, in the order in which the block computes them. `resid_post` of layer L and
`resid_pre` of layer L + 1 are one tensor under two names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from circuitcli.core.words import amount
from circuitcli.errors import InputError, UsageError, nearest

SITES = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_in", "mlp_out", "resid_post")
NEURONS = "mlp_post"  # what an MLP's second matrix reads: no dictionary does, but neurons can be kept or replaced there
ORDER = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_in", NEURONS, "mlp_out", "resid_post")

# Numbers of up to nine digits: int() takes no number of any length.
_HOOK = re.compile(r"^blocks\.(\d{1,9})\.([a-z_.]+)$")
_NAMED = {"z": "attn.hook_z", "mlp_in": "mlp.hook_in", NEURONS: "mlp.out.hook_in"}
_HOOKS = {name: f"hook_{name}" for name in SITES} | _NAMED
_NAMES = {_HOOKS[name]: name for name in SITES}
_FEATURE = re.compile(r"^(?P<layer>\d{1,9})(?:\.(?P<site>[a-z_]+)\.|:)(?P<index>\d{1,9})$")
_WRITTEN = re.compile(r"^(\d{1,9})\.([a-z_]+)\Z")
_SLICE = re.compile(r"^(?P<start>-?\d{1,9})?:(?P<stop>-?\d{1,9})?$")


class Site(NamedTuple):
    """One place where an SAE reads: a layer and the name of a site in its block."""

    layer: int
    name: str

    def __str__(self) -> str:
        return f"{self.layer}.{self.name}"

    @property
    def hook(self) -> str:
        """TransformerLens's: `blocks.{layer}.hook_{site}`, but of a few sites inside attention and the MLP."""
        return f"blocks.{self.layer}.{_HOOKS[self.name]}"

    @property
    def order(self) -> tuple[int, int]:
        """Sorts sites in the order in which the model computes them."""
        return (self.layer, ORDER.index(self.name))


@dataclass(frozen=True)
class FeatureId:
    """One latent of one SAE; its name is `layer.site.index`."""

    site: Site
    index: int

    def __str__(self) -> str:
        return f"{self.site}.{self.index}"

    @property
    def order(self) -> tuple[tuple[int, int], int]:
        """Sorts features by site, then index."""
        return (self.site.order, self.index)


def span(sites: Sequence[Site] | Sequence[str]) -> str:
    """Sites in words: `3.mlp_out`, or the first and the last of several."""
    return str(sites[0]) if len(sites) == 1 else f"{sites[0]} … {sites[-1]}"


def is_upstream(up: Site, down: Site, *, parallel: bool) -> bool:
    """Whether an edit at `up` can change `down` at the same position.

    In a parallel block (GPT-NeoX) the MLP doesn't read the attention's output, so that there neither `z` nor
    `attn_out` is upstream of `mlp_in` and `mlp_out`.
    """
    if up.order >= down.order:
        return False
    beside = up.name in ("z", "attn_out") and down.name in ("mlp_in", "mlp_out")
    return not (parallel and beside and up.layer == down.layer)


def last_block(sites: Iterable[Site]) -> int:
    """The last block that has to run so that all of these sites are there; −1 if none has.

    Of a block whose input alone is read nothing has to run.
    """
    return max((site.layer - (site.name == "resid_pre") for site in sites), default=-1)


def parse_site(text: str) -> str:
    """The name of a site, or a `UsageError` that names the nearest one."""
    if text not in SITES:
        raise UsageError(f"Unknown site `{text}`.", hint=nearest(text, SITES, what="sites"))
    return text


def parse_written(text: str) -> Site | None:
    """A site by its name, `4.mlp_out`, or None if it is none."""
    found = _WRITTEN.match(text)
    return Site(int(found[1]), found[2]) if found and found[2] in SITES else None


def parse_hook(hook: str) -> Site | None:
    """The site of a TransformerLens hook, or None if it is no site of this tool."""
    found = _HOOK.match(hook)
    site = Site(int(found[1]), _NAMES[found[2]]) if found and found[2] in _NAMES else None
    return site if site is not None and site.hook == hook else None


def parse_layers(text: str, n_layers: int) -> list[int]:
    """The layers of a Python slice over `n_layers` layers: `4:6`, `:`, `2:`, `-3:`, or one layer, `4`.

    Raises:
        UsageError: It doesn't parse, has a step, is empty, or reaches outside the model.
    """
    text = text.strip()
    if text.count(":") > 1:
        raise UsageError(f"Layers `{text}` have a step.", hint="Give start:stop without a step, such as `4:6`.")
    bounds = [int(text)] if re.fullmatch(r"-?\d{1,9}", text) else None
    found = _SLICE.match(text)
    if bounds is None and found is None:
        raise UsageError(f"Layers `{text}` are not a slice.", hint="Give `4:6`, `:`, `2:`, `-3:` or one layer, `4`.")
    if bounds is None and found is not None:
        bounds = [int(b) for b in (found["start"], found["stop"]) if b is not None]
    assert bounds is not None
    last = n_layers if ":" in text else n_layers - 1
    if any(b < -n_layers or b > last for b in bounds):
        raise UsageError(
            f"Layers `{text}` reach outside the model, which has {amount(n_layers, 'layer')}.",
            hint=f"Layers count from 0 to {n_layers - 1}.",
        )
    if ":" not in text:
        return [bounds[0] % n_layers]
    start, stop = (None if b in ("", None) else int(b) for b in text.split(":"))
    layers = list(range(n_layers)[start:stop])
    if not layers:
        raise UsageError(f"Layers `{text}` are empty.", hint=f"Layers count from 0 to {n_layers - 1}.")
    return layers


def parse_pin(text: str) -> tuple[int, str | None, int]:
    """Layer, site (None where left out) and index of a feature's name: `4.resid_post.112` or `4:112`."""
    found = _FEATURE.match(text.strip())
    if found is None or (found["site"] is not None and found["site"] not in SITES):
        raise UsageError(
            f"`{text}` doesn't name a feature.",
            hint="Give layer:index (`4:112`), or layer.site.index (`4.resid_post.112`).",
        )
    return int(found["layer"]), found["site"], int(found["index"])


def parse_feature(name: str) -> FeatureId:
    """The feature of a full name, `layer.site.index`, as this package writes it."""
    layer, site, index = name.split(".")
    return FeatureId(Site(int(layer), site), int(index))


def feature_named(node: str) -> FeatureId | None:
    """The feature of a node's name; None of what is no feature, or lies deeper than tables count layers (int16)."""
    found = _FEATURE.match(node)
    if found is None or found["site"] not in SITES or int(found["layer"]) >= 2**15:
        return None
    return FeatureId(Site(int(found["layer"]), found["site"]), int(found["index"]))


def resolve_pins(
    pins: Iterable[str], widths: dict[Site, int], *, word: str = "pin", among: str = "this run"
) -> list[FeatureId]:
    """The features that pins name, among the SAEs of a run, sorted and each once.

    Args:
        pins: Names as typed.
        widths: d_sae of each SAE of the run.
        word: What an error calls such a name.
        among: Whose SAEs they are, for errors.

    Raises:
        UsageError: A pin doesn't parse, names no SAE of the run, needs a site, or lies outside the SAE.
    """
    features = set()
    for pin in pins:
        layer, name, index = parse_pin(pin)
        sites = [s for s in widths if s.layer == layer and name in (None, s.name)]
        if not sites:
            known = ", ".join(str(s) for s in sorted(widths, key=lambda s: s.order))
            raise UsageError(f"The {word} `{pin}` is at no SAE of {among}.", hint=f"There are {known}.")
        if len(sites) > 1:
            names = ", ".join(f"`{s}.{index}`" for s in sorted(sites, key=lambda s: s.order))
            raise UsageError(f"The {word} `{pin}` could be at several sites.", hint=f"Name one: {names}.")
        if index >= widths[sites[0]]:
            raise UsageError(
                f"The {word} `{pin}` lies outside its SAE of {widths[sites[0]]} features.",
                hint=f"Indices of {sites[0]} count from 0 to {widths[sites[0]] - 1}.",
            )
        features.add(FeatureId(sites[0], index))
    return sorted(features, key=lambda f: f.order)


def check_sites(sites: Iterable[Site]) -> None:
    """Refuse both names of one tensor."""
    chosen = set(sites)
    for site in sorted(chosen, key=lambda s: s.order):
        twin = Site(site.layer + 1, "resid_pre")
        if site.name == "resid_post" and twin in chosen:
            raise UsageError(
                f"{site} and {twin} are one tensor under two names.", hint="Choose one of the two with --site."
            )


def require_layers(layers: Iterable[int], available: Iterable[int], *, site: str, release: str) -> None:
    """Every chosen layer must have an SAE of the site in the release."""
    have = sorted(set(available))
    missing = [layer for layer in layers if layer not in have]
    if missing:
        raise InputError(
            f"The release {release} has no SAE at {', '.join(f'{m}.{site}' for m in missing)}.",
            hint=f"It has {site} for layers {', '.join(map(str, have)) or 'none'}: choose among them with --layers.",
        )
