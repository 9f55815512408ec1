"""Transcoders of GPT-2 small in mntss/sparsecoder-sweep-gpt2, per layer and across layers, without a configuration.

    layer_{i}            W_enc [d_sae, d_in], b_enc, W_dec [d_out, d_sae], b_dec, perhaps W_skip [d_out, d_in]
    encoder_layer_{i}    W_enc [d_sae, d_in], b_enc
    decoder_layer_{i}    W_dec_from_{s} [d_out, d_sae] for s ≤ i, b_dec: what features of layer s write to the MLP's
                         output of layer i

All are ReLU's and read the stream before the MLP's norm.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.runtime.foreign import shown
from circuitcli.saes._files import Files, Stated
from circuitcli.saes._place import Located, Place
from circuitcli.saes._spec import Named, Spec, decoder
from circuitcli.saes.layouts import Held
from circuitcli.saes.layouts._circuit_tracer import CONFIG

_NAME = "sparsecoder"
_LAYER = re.compile(r"layer_(\d{1,9})\.safetensors")
_ENCODER = re.compile(r"encoder_layer_(\d{1,9})\.safetensors")
_DECODER = re.compile(r"decoder_layer_(\d{1,9})\.safetensors")


class Sparsecoder:
    """A file a layer, or two of a cross-layer transcoder."""

    files = "layer_0.safetensors, … or encoder_layer_0.safetensors and decoder_layer_0.safetensors, … (sparsecoder)"

    def find(self, place: Place) -> list[Located]:
        if CONFIG in place.files:
            return []  # circuit-tracer's, whose files of one layer have the same names
        layers, encoders, decoders = (place.matching("", pattern) for pattern in (_LAYER, _ENCODER, _DECODER))
        lacking = sorted(encoders.keys() ^ decoders.keys())
        if lacking:
            raise InputError(
                f"The cross-layer transcoder in {place.name} has half of layer {lacking[0]}.",
                hint="Each layer has two files, encoder_layer_0.safetensors and decoder_layer_0.safetensors.",
            )
        found = [self._located(place, layer, [path]) for layer, path in layers.items()]
        for layer, path in encoders.items():
            found.append(self._located(place, layer, [path, *(decoders[i] for i in decoders if i >= layer)]))
        return found

    @staticmethod
    def _located(place: Place, layer: int, paths: list[str]) -> Located:
        site, (weights, *more) = Site(layer, "resid_mid"), (place.files[path] for path in paths)
        return Located(site, weights, None, Stated(site=site), more=tuple(more), layout=_NAME)

    def read(self, files: Files) -> Held:
        from circuitcli.saes import _weights

        assert files.stated.site is not None
        layer = files.stated.site.layer
        weights, stored = _weights.read(files.weights), {}
        stored[files.weights] = tuple(weights)
        names = {"W_enc": Named("W_enc", transposed=True), "W_dec": Named("W_dec", transposed=True)}
        written = Site(layer, "mlp_out")
        sites = [written]
        if files.more:
            weights, sites = dict(weights), []
            for path in files.more:
                site = _written(path.name)
                there, name = _weights.read(path), f"W_dec_from_{layer}"
                _check_names(there, site.layer, str(path))
                taken = (name, *(["b_dec", "W_skip"] if site == written else []))
                stored[path] = tuple(tensor for tensor in taken if tensor in there)
                weights |= {_called(tensor, site): there[tensor] for tensor in stored[path]}
                sites.append(site)
            names |= {decoder(site): Named(_called(f"W_dec_from_{layer}", site), transposed=True) for site in sites[1:]}
            names |= {key: Named(_called(key, written)) for key in ("b_dec", "W_skip")}
            names["W_dec"] = Named(_called(f"W_dec_from_{layer}", written), transposed=True)
        spec = Spec(
            site=None,
            writes=written,
            architecture="standard",
            transcodes=True,
            skip=names.get("W_skip", Named("W_skip")).name in weights,
            names=names,
            further=tuple(sites[1:]),
        )
        return Held(spec, weights, str(files.weights), stored)


def _check_names(tensors: Iterable[str], layer: int, where: str) -> None:
    """Refuse what no decoder's file has: what other layers' features write is checked with these."""
    known = {"b_dec", "W_skip", *(f"W_dec_from_{source}" for source in range(layer + 1))}
    for name in tensors:
        if name not in known:
            raise InputError(
                f"{where} has {shown(name)}, which isn't of a decoder of layer {layer}.",
                hint=f"It has b_dec, perhaps W_skip, and W_dec_from_0 to W_dec_from_{layer}.",
            )


def _written(name: str) -> Site:
    """Where the decoders in a file write."""
    found = _DECODER.fullmatch(name)
    assert found is not None
    return Site(int(found[1]), "mlp_out")


def _called(tensor: str, site: Site) -> str:
    """The name of a tensor of another file than the encoder's."""
    return f"{tensor} of decoder_layer_{site.layer}"


plugin = Sparsecoder()
