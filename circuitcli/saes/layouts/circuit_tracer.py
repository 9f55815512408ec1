"""circuit-tracer's per-layer transcoders: config.yaml, and a file a layer beside it or where its list says.

    W_enc [d_sae, d_in], b_enc, W_dec [d_sae, d_out], b_dec, perhaps W_skip [d_out, d_in] and a threshold

A list may name files of both Gemma Scopes, too, whose tensors are called otherwise.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from circuitcli.errors import InputError
from circuitcli.runtime.foreign import shown
from circuitcli.runtime.remote import RemoteFile, stays_inside
from circuitcli.saes._files import Files, Stated
from circuitcli.saes._place import SCHEME, File, Located, Place, hub, split
from circuitcli.saes._spec import Named, Spec
from circuitcli.saes.layouts import Held, _gemma
from circuitcli.saes.layouts._circuit_tracer import CONFIG, Config, config

_FILE = re.compile(r"layer_(\d{1,9})\.safetensors")
_OWN = {"W_enc": Named("W_enc", transposed=True), "threshold": Named("activation_function.threshold")}


class CircuitTracer:
    """A set of transcoders, one a layer."""

    files = f"{CONFIG} with layer_0.safetensors, … (circuit-tracer)"

    def find(self, place: Place) -> list[Located]:
        found = []
        for folder in place.folders(CONFIG):
            said = config(*place.here([f"{folder}{CONFIG}"]))
            if said.kind == "transcoder_set":
                weights = _listed(place, folder, said) or _beside(place, folder, said)
                sites, where = {layer: said.reads(layer) for layer in weights}, place.files[f"{folder}{CONFIG}"]
                found += [
                    Located(site, weights[layer], where, Stated(site=site), layout="circuit-tracer")
                    for layer, site in sites.items()
                ]
        return found

    def read(self, files: Files) -> Held:
        from circuitcli.saes import _weights

        assert files.config is not None
        assert files.stated.site is not None
        said, site = config(files.config), files.stated.site
        weights = _weights.read(files.weights)
        arrays = files.weights.suffix == ".npz"  # Gemma Scope's, whose tensors are called and turned as SAELens's
        named = {} if arrays else _gemma.named(weights) or _OWN
        architecture, numbers = _activation(said, named.get("threshold", Named("threshold")).name in weights)
        spec = Spec(
            site=site,
            writes=said.writes(site.layer),
            architecture=architecture,
            numbers=numbers,
            transcodes=True,
            skip=named.get("W_skip", Named("W_skip")).name in weights,
            normalized=said.normalized,
            names=named,
            unclipped=True,
        )
        return Held(spec, weights, str(files.weights), {} if arrays else {files.weights: tuple(weights)})


def _activation(said: Config, thresholds: bool) -> tuple[str, dict[str, int | float]]:
    """The architecture, and the number that it takes; thresholds among the weights say it where nothing else does."""
    name = said.said.get("activation", "jumprelu" if thresholds else "relu")
    if name == "topk" and not thresholds:
        k = said.said.get("k")
        if type(k) is not int or k < 1:
            raise InputError(f"{said.where} has k = {shown(k)}.", hint="It should be a whole number above 0.")
        return "topk", {"k": k}
    if name not in ("relu", "jumprelu", "jump_relu"):
        raise InputError(
            f"{said.where} has activation = {shown(name)}{' and thresholds' if name == 'topk' else ''}.",
            hint="Supported: relu, topk with k, and jumprelu, whose weights have thresholds.",
        )
    return ("jumprelu" if thresholds or name != "relu" else "standard"), {}


def _beside(place: Place, folder: str, said: Config) -> dict[int, File]:
    """The files that lie beside the configuration, by layer."""
    found = place.matching(folder, _FILE)
    if not found:
        raise InputError(
            f"{said.where} names no transcoders, and none lie beside it.",
            hint="It needs layer_0.safetensors, … beside it, or a list `transcoders:` of files.",
        )
    return {layer: place.files[path] for layer, path in found.items()}


def _listed(place: Place, folder: str, said: Config) -> dict[int, File]:
    """The files that the configuration lists, by layer; none if it has no list.

    Raises:
        InputError: One isn't there, or lies outside the folder.
        HubError: One on the hub couldn't be asked for.
    """
    listed = said.said.get("transcoders")
    if listed is None:
        return {}
    if not isinstance(listed, list) or not listed or not all(isinstance(one, str) for one in listed):
        raise InputError(f"{said.where} has transcoders = {shown(listed)}.", hint="It should be a list of files.")
    remote = _remote([one for one in listed if one.startswith(SCHEME)])
    return {
        layer: remote[one] if one.startswith(SCHEME) else _inside(place, folder, one, said)
        for layer, one in enumerate(listed)
    }


def _inside(place: Place, folder: str, path: str, said: Config) -> File:
    inside = stays_inside(path)
    name = f"{folder}{PurePosixPath(path)}"
    if not inside or name not in place.files:
        raise InputError(
            f"{said.where} lists {shown(path)}, {'which is not there' if inside else 'which leaves its folder'}.",
            hint="Files in its list lie in the folder of the configuration, or are hf://owner/repo/path?revision=….",
        )
    return place.files[name]


def _remote(addresses: list[str]) -> dict[str, RemoteFile]:
    """Files on the hub by their addresses, asked for once a repository."""
    wanted: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for address in addresses:
        repo, path, revision = split(address)
        if not path:
            raise InputError(f"`{address}` names no file.", hint="Give hf://owner/repo/path?revision=….")
        wanted.setdefault((repo, revision or "main"), []).append((address, path))
    found: dict[str, Any] = {}
    for (repo, revision), pairs in wanted.items():
        there = hub().files(repo, [path for _, path in pairs], revision)
        found |= {address: file for (address, _), file in zip(pairs, there, strict=True)}
    return found


plugin = CircuitTracer()
