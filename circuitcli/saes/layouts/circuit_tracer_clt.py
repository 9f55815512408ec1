"""circuit-tracer's cross-layer transcoders: config.yaml, and two files a layer.

W_enc_{i}.safetensors    W_enc_{i} [d_sae, d_in], b_enc_{i}, b_dec_{i}, perhaps threshold_{i}
W_dec_{i}.safetensors    W_dec_{i} [d_sae, layers − i, d_out]: slot j is written to the MLP's output of layer i + j
"""

from __future__ import annotations

import re

from circuitcli.errors import InputError
from circuitcli.saes._files import Files, Stated
from circuitcli.saes._place import Located, Place
from circuitcli.saes._spec import Named, Spec
from circuitcli.saes.layouts import Held, _across
from circuitcli.saes.layouts._circuit_tracer import CONFIG, config

_ENCODER = re.compile(r"W_enc_(\d{1,9})\.safetensors")
_DECODER = re.compile(r"W_dec_(\d{1,9})\.safetensors")


class CircuitTracerClt:
    """A cross-layer transcoder."""

    files = f"{CONFIG} with W_enc_0.safetensors and W_dec_0.safetensors, … (circuit-tracer)"

    def find(self, place: Place) -> list[Located]:
        found = []
        for folder in place.folders(CONFIG):
            said = config(*place.here([f"{folder}{CONFIG}"]))
            if said.kind != "cross_layer_transcoder":
                continue
            encoders, decoders = place.matching(folder, _ENCODER), place.matching(folder, _DECODER)
            halves = sorted(encoders.keys() ^ decoders.keys())
            if halves or not encoders:
                what = f"half of layer {halves[0]}" if halves else "no layer"
                raise InputError(
                    f"The cross-layer transcoder of {said.where} has {what}.",
                    hint="Each layer has two files, W_enc_0.safetensors and W_dec_0.safetensors: get it again.",
                )
            for layer in encoders:
                site = said.reads(layer)
                found.append(
                    Located(
                        site=site,
                        weights=place.files[encoders[layer]],
                        config=place.files[f"{folder}{CONFIG}"],
                        stated=Stated(site=site),
                        more=(place.files[decoders[layer]],),
                        layout="circuit-tracer-clt",
                    )
                )
        return found

    def read(self, files: Files) -> Held:
        from circuitcli.saes import _stored, _weights

        assert files.config is not None
        assert files.stated.site is not None
        said, site = config(files.config), files.stated.site
        i = site.layer
        weights, (path,) = _weights.read(files.weights), files.more
        name, writes = f"W_dec_{i}", said.writes(i)
        decoders = _weights.read(path)
        views, names = _across.slots(name, _weights.one(decoders, name, str(path)), writes, 0, str(path))
        spec = Spec(
            site=site,
            writes=writes,
            architecture="jumprelu" if f"threshold_{i}" in weights else "standard",
            transcodes=True,
            normalized=said.normalized,
            names={
                "W_enc": Named(f"W_enc_{i}", transposed=True),
                **{key: Named(f"{key}_{i}") for key in ("b_enc", "b_dec", "threshold")},
                **names,
            },
            further=_across.later(writes, len(views) - 1),
            unclipped=True,
        )
        stored = {files.weights: tuple(weights), path: (name,)}
        lies = dict(zip(views, _stored.lying(path, name), strict=False))
        lies |= _stored.turned(files.weights, f"W_enc_{i}")
        return Held(spec, {**weights, **views}, str(files.weights), stored, lies)


plugin = CircuitTracerClt()
