"""Random dictionaries of every architecture and frame."""

from __future__ import annotations

import torch

from circuitcli.core.activations.gated import Gated
from circuitcli.core.activations.jumprelu import JumpRelu
from circuitcli.core.activations.standard import Relu
from circuitcli.core.activations.topk import TopK
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.frame import Frame
from circuitcli.core.model import Model
from circuitcli.core.sites import Site

KINDS = ("relu", "topk", "jumprelu", "gated")


def random_sae(model: Model, site: Site, kind: str, frame: Frame, d_sae: int, seed: int) -> Dictionary:
    draw = torch.Generator().manual_seed(seed)
    d_in = model.shape.width(site.name)
    w_enc, w_dec = (torch.randn(shape, generator=draw) / d_in**0.5 for shape in ((d_in, d_sae), (d_sae, d_in)))
    b_enc, b_dec = torch.randn(d_sae, generator=draw) * 0.1, torch.randn(d_in, generator=draw) * 0.1
    threshold, b_gate = torch.rand(d_sae, generator=draw), torch.randn(d_sae, generator=draw)
    r_mag = torch.randn(d_sae, generator=draw) * 0.1
    activation = {
        "relu": Relu(),
        "topk": TopK(min(5, d_sae)),
        "jumprelu": JumpRelu(threshold),
        "gated": Gated(b_gate, r_mag, b_enc),
    }[kind]
    bias = torch.zeros(d_sae) if kind == "gated" else b_enc
    return Dictionary(site, site, activation, w_enc, bias, w_dec, b_dec, frame=frame)
