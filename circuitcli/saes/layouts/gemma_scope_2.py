"""Gemma Scope 2: SAEs, transcoders and cross-layer transcoders of Gemma 3.

    FOLDER/config.json with params.safetensors              an SAE or a transcoder
    FOLDER/config.json with params_layer_{i}.safetensors    a cross-layer transcoder

`config.json` names modules of transformers; see `_gemma` for the tensors. All are JumpReLU's, of the raw model, on
sequences with BOS.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.runtime import foreign
from circuitcli.saes import _hooks
from circuitcli.saes._files import Files, Stated
from circuitcli.saes._place import Located, Place
from circuitcli.saes._spec import Spec
from circuitcli.saes.layouts import Held, _across, _gemma

if TYPE_CHECKING:
    from circuitcli.saes._stored import StoredMatrix

_CONFIG, _WEIGHTS = "config.json", "params.safetensors"
_LAYER = re.compile(r"params_layer_(\d{1,9})\.safetensors")
_IN, _OUT = "hf_hook_point_in", "hf_hook_point_out"


class GemmaScope2:
    """A folder a dictionary, or a folder a cross-layer transcoder."""

    files = f"folders with {_CONFIG} and {_WEIGHTS} or params_layer_0.safetensors, … (Gemma Scope 2)"

    def find(self, place: Place) -> list[Located]:
        found = []
        for folder in place.folders(_CONFIG):
            single = f"{folder}{_WEIGHTS}"
            layers = place.matching(folder, _LAYER)
            if single not in place.files and not layers:
                continue
            (path,) = place.here([f"{folder}{_CONFIG}"])
            said = foreign.json_object(path)
            for layer, weights in layers.items() if layers else [(None, single)]:
                site = _site(said, _IN, str(path), layer)
                stated = Stated(site=site)
                found.append(
                    Located(
                        site, place.files[weights], place.files[f"{folder}{_CONFIG}"], stated, layout="gemma-scope-2"
                    )
                )
        return found

    def read(self, files: Files) -> Held:
        from circuitcli.saes import _stored, _weights

        assert files.config is not None
        assert files.stated.site is not None
        said, site, where = foreign.json_object(files.config), files.stated.site, str(files.weights)
        weights, across = _weights.read(files.weights), _LAYER.fullmatch(files.weights.name) is not None
        stored = {files.weights: tuple(weights)}
        _check(said, str(files.config))
        names = _gemma.named(weights)
        if not names:
            raise InputError(f"{where} has no w_enc.", hint="Gemma Scope 2 has w_enc, w_dec, b_enc, b_dec, threshold.")
        writes = _site(said, _OUT, str(files.config), site.layer if across else None)
        further: tuple[Site, ...] = ()
        lies: dict[str, StoredMatrix] = {}
        if across and "w_dec" in weights:
            views, decoders = _across.slots("w_dec", weights.pop("w_dec"), writes, site.layer, where)
            further = _across.later(writes, len(views) - 1)
            lies = dict(zip(views, _stored.lying(files.weights, "w_dec")[site.layer :], strict=False))
            weights, names = {**weights, **views}, {**names, **decoders}
        transcodes = writes != site
        return Held(
            Spec(
                site=site,
                writes=writes if transcodes else None,
                architecture="jumprelu",
                transcodes=transcodes,
                skip=transcodes and _gemma.SKIP in weights,
                names=names,
                further=further,
            ),
            weights,
            where,
            stored,
            lies,
        )


def _check(said: dict[str, Any], where: str) -> None:
    if said.get("architecture") != "jump_relu":
        raise InputError(
            f"{where} has architecture = {foreign.shown(said.get('architecture'))}.", hint="It should be jump_relu."
        )


def _site(said: dict[str, Any], key: str, where: str, layer: int | None) -> Site:
    """The site of a module; of a cross-layer transcoder at a layer, whatever layer the configuration has."""
    module = said.get(key) or said.get(_IN)
    found = _hooks.module(module) if isinstance(module, str) else None
    if found is None:
        raise InputError(
            f"{where} has {key} = {foreign.shown(module)}, which is no site of this tool.",
            hint="Supported are inputs and outputs of blocks, of o_proj and of the MLP with its norms.",
        )
    return found if layer is None else Site(layer, found.name)


plugin = GemmaScope2()
