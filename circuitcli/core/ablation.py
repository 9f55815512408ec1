"""Ablating features: take one feature away at one context, run the rest of the model, and see what changed.

For a batch of rows, each one feature j at one context (sequence s, position p):

1.  Run each sequence of the batch once, clean: the activations x of the edited site, of the downstream sites, and
    the stream after the last block.
2.  δ = σ·(c − a_j)·W_dec[j] at p (`top`), or at every position ≥ 1 (`all`); everything else of x stays.
3.  Resume the model at the edited site with x + δ. Nothing before the site is computed again.
4.  Encode the downstream sites with their SAEs where the row is read: at p (`top`), at the last position (`all`).
5.  effect = ablated − clean, for each downstream feature, and for the next token's log-probabilities;
    KL(clean ‖ ablated) says how much the feature matters at all.

Error-preserving feature ablation: Marks et al. 2024, "Sparse Feature Circuits"; contexts as in Cunningham et al. 2023.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.model import Edit, Model
from circuitcli.core.sae import Sae
from circuitcli.core.sites import Site

# An effect counts as a change, and is kept, where |ablated − clean| > CHANGE·max(1, |clean|).
CHANGE = 1e-5


@dataclass(frozen=True, eq=False)
class Rows:
    """Ablations to make: row i replaces `feature[i]` at position `pos[i]` of sequence `seq[i]`.

    `pos` is −1 for an edit of the whole sequence. `replacement` is what the activation becomes.
    """

    feature: Int[Tensor, " n"]
    seq: Int[Tensor, " n"]
    pos: Int[Tensor, " n"]
    replacement: Float[Tensor, " n"]

    def __len__(self) -> int:
        return self.feature.shape[0]

    def __getitem__(self, part: Tensor | slice) -> Rows:
        return Rows(self.feature[part], self.seq[part], self.pos[part], self.replacement[part])

    def to(self, device: torch.device) -> Rows:
        """The same rows on another device."""
        return Rows(self.feature.to(device), self.seq.to(device), self.pos.to(device), self.replacement.to(device))


@dataclass(frozen=True, eq=False)
class Changes:
    """Downstream features that changed: `row` of the batch, feature index, clean and ablated activation."""

    row: Int[Tensor, " m"]
    feature: Int[Tensor, " m"]
    clean: Float[Tensor, " m"]
    ablated: Float[Tensor, " m"]


@dataclass(frozen=True, eq=False)
class Ablated:
    """What a batch of ablations did.

    Attributes:
        read_pos: Position at which each row was read.
        changes: For each downstream site, the features that changed.
        kl: KL(clean ‖ ablated) of the next token, nats; None without logits.
        logprob_effect: log p_ablated − log p_clean of every token; None without logits.
        prob_effect: p_ablated − p_clean of every token; None without logits.
    """

    read_pos: Int[Tensor, " n"]
    changes: dict[Site, Changes]
    kl: Float[Tensor, " n"] | None
    logprob_effect: Float[Tensor, "n v"] | None
    prob_effect: Float[Tensor, "n v"] | None


def ablate(
    model: Model,
    saes: Mapping[Site, Sae],
    site: Site,
    rows: Rows,
    tokens: Int[Tensor, "s t"],
    lengths: Int[Tensor, " s"],
    downstream: Sequence[Site],
    *,
    logits: bool,
) -> Ablated:
    """Make one batch of ablations at one site.

    Args:
        model: The model.
        saes: SAEs of the edited and all downstream sites.
        site: The edited site.
        rows: One ablation a row, on the model's device.
        tokens: All sequences of the sample, padded right.
        lengths: Their lengths.
        downstream: Sites to read, all downstream of `site`.
        logits: Whether to go on to the next token's log-probabilities.
    """
    seqs, row_seq = torch.unique(rows.seq, return_inverse=True)
    width = int(lengths[seqs].max())
    batch = tokens[seqs, :width]
    read_pos = torch.where(rows.pos >= 0, rows.pos, lengths[rows.seq] - 1)
    bases = model.bases(site)
    clean = model.run(batch, sorted({site, *bases, *downstream}, key=lambda s: s.order), final=logits)
    delta = edits(saes[site], clean.sites[site][row_seq], rows, lengths[rows.seq])
    base = {name: clean.sites[name][row_seq] for name in bases}
    ablated = model.resume(clean, base, Edit(site, delta), downstream, final=logits)

    each = torch.arange(len(rows), device=row_seq.device)
    changes = {
        down: changed(saes[down], clean.sites[down][row_seq, read_pos], ablated.sites[down][each, read_pos])
        for down in downstream
    }
    if not logits:
        return Ablated(read_pos, changes, None, None, None)
    assert clean.final is not None and ablated.final is not None
    return Ablated(
        read_pos,
        changes,
        *token_effects(model.logits(clean.final[row_seq, read_pos]), model.logits(ablated.final[each, read_pos])),
    )


def edits(sae: Sae, x: Float[Tensor, "n t d"], rows: Rows, lengths: Int[Tensor, " n"]) -> Float[Tensor, "n t d"]:
    """δ for each row: at its position, or, where that is −1, at every position from 1 to the sequence's last.

    Position 0 is never edited: it is an outlier, BOS or not.
    """
    place = edited_positions(rows.pos, lengths, x.shape[1])
    row, pos = place.nonzero(as_tuple=True)
    here = x[row, pos]
    feature = rows.feature[row]
    activation = sae.encode(here).gather(1, feature.unsqueeze(1)).squeeze(1)
    delta = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    delta[row, pos] = sae.edit(here, feature, activation, rows.replacement[row])
    return delta


def edited_positions(pos: Int[Tensor, " n"], lengths: Int[Tensor, " n"], width: int) -> Bool[Tensor, "n t"]:
    """Which positions of each row are edited."""
    each = torch.arange(width, device=pos.device)
    whole = (each >= 1) & (each < lengths.unsqueeze(1))
    return torch.where((pos < 0).unsqueeze(1), whole, each == pos.unsqueeze(1))


def changed(sae: Sae, clean: Float[Tensor, "n d"], ablated: Float[Tensor, "n d"]) -> Changes:
    """The features of one SAE whose activation differs by more than CHANGE·max(1, |clean|)."""
    before, after = sae.encode(clean), sae.encode(ablated)
    row, feature = ((after - before).abs() > CHANGE * before.clamp(min=1)).nonzero(as_tuple=True)
    return Changes(row, feature, before[row, feature], after[row, feature])


def token_effects(
    clean: Float[Tensor, "n v"], ablated: Float[Tensor, "n v"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n v"], Float[Tensor, "n v"]]:
    """KL(clean ‖ ablated) in nats, log p_ablated − log p_clean, and p_ablated − p_clean, from logits.

    KL = Σ_v p_clean·(log p_clean − log p_ablated).
    """
    before, after = clean.float().log_softmax(-1), ablated.float().log_softmax(-1)
    p_before = before.exp()
    kl = (p_before * (before - after)).sum(-1)
    return kl, after - before, after.exp() - p_before
