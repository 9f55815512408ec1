"""Random dictionaries of every architecture and frame: SAEs, transcoders, and those that write several layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from circuitcli.core.activations import Activation
from circuitcli.core.activations.gated import Gated
from circuitcli.core.activations.jumprelu import JumpRelu
from circuitcli.core.activations.standard import Relu
from circuitcli.core.activations.topk import TopK
from circuitcli.core.dictionary import Decoder, Dictionary
from circuitcli.core.frame import Frame
from circuitcli.core.model import Model
from circuitcli.core.sites import Site

KINDS = ("relu", "topk", "jumprelu", "gated")
TRANSCODERS = ("relu", "topk", "jumprelu")  # the architectures that transcoders come in


def random_sae(model: Model, site: Site, kind: str, frame: Frame, d_sae: int, seed: int) -> Dictionary:
    draw = torch.Generator().manual_seed(seed)
    d_in = model.shape.width(site.name)
    w_enc, w_dec = (torch.randn(shape, generator=draw) / d_in**0.5 for shape in ((d_in, d_sae), (d_sae, d_in)))
    b_enc, b_dec = torch.randn(d_sae, generator=draw) * 0.1, torch.randn(d_in, generator=draw) * 0.1
    activation = _activation(kind, b_enc, draw)
    bias = torch.zeros(d_sae) if kind == "gated" else b_enc
    return Dictionary(site, site, activation, w_enc, bias, w_dec, b_dec, frame=frame)


def random_transcoder(
    model: Model,
    reads: Site,
    kind: str = "relu",
    *,
    skip: bool = False,
    d_sae: int = 12,
    seed: int = 0,
    centre_out: bool = False,
    further: Sequence[Site] = (),
) -> Dictionary:
    """One that reads `mlp_in` or `resid_mid` and writes its layer's `mlp_out`, and maybe `further` sites."""
    draw = torch.Generator().manual_seed(seed)
    d = model.shape.d_model
    w_enc = torch.randn(d, d_sae, generator=draw) / d**0.5
    b_enc, b_dec = torch.randn(d_sae, generator=draw) * 0.1, torch.randn(d, generator=draw) * 0.1
    activation = _activation(kind, b_enc, draw)
    writes = Site(reads.layer, "mlp_out")
    first, *others = (Decoder(site, torch.randn(d_sae, d, generator=draw) / d**0.5) for site in (writes, *further))
    w_skip = torch.randn(d, d, generator=draw) / d**0.5 if skip else None
    return Dictionary(
        reads, writes, activation, w_enc, b_enc, first.w_dec, b_dec, apply_b_dec_to_input=False, w_skip=w_skip,
        centre_out=centre_out, further=tuple(others),
    )  # fmt: skip


def random_clt(
    model: Model,
    kind: str = "relu",
    *,
    reads: str = "mlp_in",
    skip: bool = False,
    d_sae: int = 12,
    seed: int = 0,
    centre_out: bool = False,
) -> dict[Site, Dictionary]:
    """A cross-layer transcoder: a dictionary a layer, each of which writes the `mlp_out` of its layer and all later."""
    layers = range(model.shape.n_layers)
    found = {}
    for layer in layers:
        site, further = Site(layer, reads), [Site(later, "mlp_out") for later in layers[layer + 1 :]]
        found[site] = random_transcoder(
            model, site, kind, skip=skip, d_sae=d_sae, seed=1000 * seed + layer, centre_out=centre_out, further=further
        )
    return found


def _activation(kind: str, b_enc: Tensor, draw: torch.Generator) -> Activation:
    """Each draws all tensors that any has, so that what is drawn behind them is the same of every kind."""
    d_sae = len(b_enc)
    threshold, b_gate = torch.rand(d_sae, generator=draw), torch.randn(d_sae, generator=draw)
    r_mag = torch.randn(d_sae, generator=draw) * 0.1
    return {
        "relu": Relu(),
        "topk": TopK(min(5, d_sae)),
        "jumprelu": JumpRelu(threshold),
        "gated": Gated(b_gate, r_mag, b_enc),
    }[kind]
