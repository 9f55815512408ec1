"""The plainest ablation: whole sequences, one ablation at a time, by the model's own hooks.

It shares nothing with `ablation` but the SAE's arithmetic. Tests compare the engine with it, and `bench` times it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.edits import adding_all
from circuitcli.core.model import Model
from circuitcli.core.sites import Site


@dataclass(frozen=True, eq=False)
class Plain:
    """What one ablation did where it is read, clean first and ablated second.

    Attributes:
        read: What the SAE of each downstream site sees.
        activations: What it makes of that.
        logprob: Log-probabilities of the next token.
    """

    read: dict[Site, Float[Tensor, "2 d_in"]]
    activations: dict[Site, Float[Tensor, "2 d_sae"]]
    logprob: Float[Tensor, "2 v"]


def ablate_one(
    model: Model,
    saes: Mapping[Site, Dictionary],
    site: Site,
    feature: int,
    sequence: Int[Tensor, " t"],
    pos: int,
    replacement: float,
    downstream: Sequence[Site],
    *,
    read: int | None = None,
) -> Plain:
    """Replace one feature at one position (−1: at every position ≥ 1), and read at it (−1: at the last), or at `read`.

    Two full passes of the model, with the edited SAE over all positions and all logits, as anybody would make them.
    """
    tokens = sequence.unsqueeze(0)
    read = read if read is not None else pos if pos >= 0 else len(sequence) - 1
    clean = model.run(tokens, [site, *downstream], final=True)
    x = clean.sites[site]
    places = [pos] if pos >= 0 else list(range(1, len(sequence)))
    sae = saes[site]
    a = sae.encode(x[0])[:, feature, None]
    deltas = {}
    for decoder in sae.decoders:
        change = sae.lands.step((replacement - a) * decoder.whole()[feature], x[0])
        deltas[decoder.site] = torch.zeros(1, *change.shape, device=x.device)
        deltas[decoder.site][0, places] = change[places]
    ablated = model.run(tokens, downstream, final=True, edits=adding_all(deltas))
    seen = {s: torch.stack([p.sites[s][0, read] for p in (clean, ablated)]) for s in downstream}
    assert clean.final is not None and ablated.final is not None
    logits = [model.logits(p.final[0])[read] for p in (clean, ablated) if p.final is not None]
    return Plain(seen, {s: saes[s].encode(x) for s, x in seen.items()}, torch.stack(logits).float().log_softmax(-1))
