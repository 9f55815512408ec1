"""What a gradient says an ablation would do, where measuring all of them would take too long.

For a feature j that fires at position p of a sequence, replaced by 0 (attribution patching: Nanda 2023, Syed et al.
2023):

    e = ∂m/∂x_p · (−σ·a_j·W_dec[j])      m = Σ_q max_v log p(v | x_≤q), over the positions q that are read

where x is what it writes (of several sites the sum over them), so e estimates, in nats, what ablating j there does to
the log-probability of the model's likeliest next tokens. One pass forward and one backward serve every feature of a
dictionary.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.edits import watching
from circuitcli.core.model import Model
from circuitcli.core.sites import Site

# Values that are held at once: logits, and the directions of features.
_VALUES = 2**24


def estimates(
    model: Model,
    sae: Dictionary,
    tokens: Int[Tensor, "s t"],
    read: Bool[Tensor, "s t"],
    firing: tuple[Int[Tensor, " n"], Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]],
) -> Float[Tensor, " n"] | None:
    """The estimate e of each firing, nats; None where no gradient can be had of this model.

    Args:
        model: The model.
        sae: The SAE of the site.
        tokens: Sequences, padded right, on the model's device.
        read: Where the next token is read.
        firing: Sequence (a row of `tokens`), position, feature and activation of each firing, on the same device.
    """
    seq, pos, feature, activation = firing
    seen: dict[Site, Tensor] = {}
    with torch.enable_grad():
        run = model.run(tokens, [sae.reads], final=True, edits=watching(sae.written, seen))
        assert run.final is not None
        if not run.final.requires_grad:
            return None
        towards = _towards(model, run.final.detach(), read)
        if towards is None:
            return None
        gradients = torch.autograd.grad(run.final, [seen[site] for site in sae.written], towards)
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        return None
    x, size = run.sites[sae.reads].detach(), max(1, _VALUES // sae.d_in)
    found = []
    for part in torch.arange(len(seq), device=tokens.device).split(size):
        at = seq[part], pos[part]
        deltas = sae.edit(x[at], feature[part], activation[part], torch.zeros_like(activation[part]))
        by_site = zip(deltas.values(), gradients, strict=True)
        found.append(torch.stack([(delta * gradient[at].float()).sum(-1) for delta, gradient in by_site]).sum(0))
    return torch.cat(found) if found else activation


def _towards(model: Model, final: Float[Tensor, "s t d"], read: Bool[Tensor, "s t"]) -> Float[Tensor, "s t d"] | None:
    """∂m/∂(the stream after the last block); None where the head passes no gradient."""
    towards = torch.zeros_like(final)
    rows = read.nonzero()
    for part in rows.split(max(1, _VALUES // model.shape.d_vocab)):
        at = part[:, 0], part[:, 1]
        stream = final[at].requires_grad_()
        said = model.logits(stream).log_softmax(-1).amax(-1).sum()
        if not said.requires_grad:
            return None
        (towards[at],) = torch.autograd.grad(said, stream)
    return towards
