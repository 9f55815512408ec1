"""EleutherAI's sparsify: SAEs, transcoders and cross-layer transcoders, a folder a module of the model.

    MODULE/cfg.json            k, num_latents, d_in, transcode, skip_connection, activation
    MODULE/sae.safetensors     encoder.weight [d_sae, d_in], encoder.bias, W_dec [d_sae, d_out], b_dec, W_skip

An SAE is of what its module gives, and subtracts b_dec; a transcoder is of what its module reads. The model is raw, and
its texts have no BOS. Across layers, `n_sources` and `n_targets` say from and to how many: W_dec of a layer then has
the features of all layers that write to it, one below the other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.runtime import foreign
from circuitcli.saes._files import Files, Stated
from circuitcli.saes._place import Located, Place
from circuitcli.saes._spec import Named, Spec, decoder
from circuitcli.saes.layouts import Held

if TYPE_CHECKING:
    from circuitcli.saes._stored import StoredMatrix

_CONFIG, _WEIGHTS = "cfg.json", "sae.safetensors"
_MODULE = re.compile(r"(?:.*\.)?(?:h|layers)\.(\d{1,9})(?:\.(\w+))?")
_SITES = {None: "resid_post", "mlp": "mlp_out", "attn": "attn_out", "self_attn": "attn_out", "attention": "attn_out"}
_UNSUPPORTED = ("signed", "embed_skip", "gram_lookup")


class Sparsify:
    """A folder a dictionary."""

    files = f"folders such as layers.3.mlp with {_CONFIG} and {_WEIGHTS} (sparsify)"

    def find(self, place: Place) -> list[Located]:
        folders = place.folders(_CONFIG, _WEIGHTS)
        configs = place.here([f"{folder}{_CONFIG}" for folder in folders])
        said = [foreign.json_object(path) for path in configs]
        names = [folder.rstrip("/").rpartition("/")[2] or Path(place.name).name for folder in folders]
        sites = [_reads(name, one, str(path)) for name, one, path in zip(names, said, configs, strict=True)]
        layers = {site.layer: folder for site, folder in zip(sites, folders, strict=True)}
        return [
            Located(
                site=site,
                weights=place.files[f"{folder}{_WEIGHTS}"],
                config=place.files[f"{folder}{_CONFIG}"],
                stated=Stated(site=site),
                more=tuple(
                    place.files[f"{layers[layer]}{_WEIGHTS}"] for layer in _targets(one, site, layers, place.name)
                ),
                layout="sparsify",
            )
            for site, folder, one in zip(sites, folders, said, strict=True)
        ]

    def read(self, files: Files) -> Held:
        from circuitcli.saes import _stored, _weights

        assert files.config is not None
        assert files.stated.site is not None
        said, site, where = foreign.json_object(files.config), files.stated.site, str(files.config)
        _check_kind(said, where)
        weights, transcodes = dict(_weights.read(files.weights)), said.get("transcode") is True
        stored = {files.weights: tuple(weights)}
        writes = Site(site.layer, "mlp_out") if transcodes else None
        d_in = _number(said, "d_in", where)
        d_sae = _number(said, "num_latents", where, missing=0) or d_in * _number(said, "expansion_factor", where)
        names = {"W_enc": Named("encoder.weight", transposed=True), "b_enc": Named("encoder.bias")}
        sites: list[Site] = []
        lies: dict[str, StoredMatrix] = {}
        if _number(said, "n_sources", where, missing=0) > 1 or files.more:
            rows = slice(site.layer * d_sae, (site.layer + 1) * d_sae)
            for step, path in enumerate((files.weights, *files.more)):
                to = Site(site.layer + step, "mlp_out")
                called = f"W_dec[{rows.start}:{rows.stop}] of layer {to.layer}"
                names[decoder(to) if step else "W_dec"] = Named(called)
                there = weights if path == files.weights else _weights.read(path)
                if "W_dec" in there:
                    _check_sources(there["W_dec"].shape, (to.layer + 1) * d_sae, str(path))
                    weights[called] = there["W_dec"][rows]
                    stored[path] = stored.get(path, ("W_dec",))
                    for one in _stored.lying(path, "W_dec"):
                        lies[called] = one.part(rows.start, rows.stop)
                sites.append(to)
            weights.pop("W_dec", None)
            lies |= _stored.turned(files.weights, "encoder.weight")
        spec = Spec(
            site=site,
            writes=writes,
            architecture="topk",
            numbers={"k": _number(said, "k", where)},
            d_in=d_in,
            d_sae=d_sae,
            apply_b_dec_to_input=not transcodes,
            prepend_bos=False,
            transcodes=transcodes,
            skip=said.get("skip_connection") is True,
            names=names,
            further=tuple(sites[1:]),
        )
        return Held(spec, weights, str(files.weights), stored, lies)


def _reads(module: str, said: Mapping[str, Any], where: str) -> Site:
    """Where the dictionary in a folder of this name reads.

    Raises:
        InputError: It is none of a site, or of a kind that isn't supported.
    """
    _check_kind(said, where)
    found, transcodes = _MODULE.fullmatch(module), said.get("transcode") is True
    name = _SITES.get(found[2]) if found else None
    if found is None or name is None or (transcodes and name != "mlp_out"):
        raise InputError(
            f"{where} is of the module {foreign.shown(module)}, which is no site of this tool.",
            hint="Supported are layers.3, layers.3.mlp and layers.3.self_attn; transcoders of layers.3.mlp.",
        )
    if said.get("skip_connection") is True and not transcodes:
        raise InputError(f"{where} is of an SAE with a skip connection.", hint="Supported are those of transcoders.")
    return Site(int(found[1]), "mlp_in" if transcodes else name)


def _check_kind(said: Mapping[str, Any], where: str) -> None:
    """Refuse what is read otherwise, whether its release is known or not.

    Raises:
        InputError: It is of a kind that isn't supported.
    """
    activation = said.get("activation", "topk")
    if activation != "topk":
        raise InputError(f"{where} has activation = {foreign.shown(activation)}.", hint="Supported: topk.")
    for key in _UNSUPPORTED:
        if said.get(key):
            raise InputError(f"{where} has {key} = {foreign.shown(said[key])}.", hint="It isn't supported.")


def _targets(said: Mapping[str, Any], site: Site, layers: Mapping[int, str], release: str) -> list[int]:
    """The later layers that a layer's features write to.

    Raises:
        InputError: One isn't there.
    """
    count = _number(said, "n_targets", release, missing=0)
    targets = list(range(site.layer + 1, site.layer + count))
    missing = [layer for layer in targets if layer not in layers]
    if missing:
        raise InputError(
            f"The cross-layer transcoder in {release} has no layer {missing[0]}, to which layer {site.layer} writes.",
            hint="Get it again: what features write to a layer lies in that layer's folder.",
        )
    return targets


def _check_sources(shape: Sequence[int], rows: int, where: str) -> None:
    if not shape or shape[0] != rows:
        raise InputError(f"{where}: W_dec has shape {tuple(shape)}.", hint=f"It should have {rows} rows.")


def _number(said: Mapping[str, Any], key: str, where: str, *, missing: int | None = None) -> int:
    found = said.get(key, missing)
    if type(found) is not int or found < (1 if missing is None else 0):
        raise InputError(f"{where} has {key} = {foreign.shown(found)}.", hint="It should be a whole number above 0.")
    return found


plugin = Sparsify()
