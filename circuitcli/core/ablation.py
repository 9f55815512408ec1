"""Ablating features: take one feature away at one context, run the rest of the model, and see what changed.

For a batch of rows, each one feature j at one context (sequence s, position p):

1.  Run each sequence once, clean: the activations x of the edited site, of the downstream sites, the stream after the
    last block, and the keys and values of every block.
2.  δ = σ·(c − a_j)·W_dec[j] at p (`top`), or at every position ≥ 1 (`all`); everything else of x stays.
3.  Resume the model at the edited site with x + δ. Nothing before the site is computed again, and for `top` nothing
    before p either: attention is causal, so that earlier positions, their keys and their values stay as they were. In
    later blocks p's own key and value come from the edited stream.
4.  Encode the downstream sites with their SAEs where the row is read: at p (`top`), at the last position (`all`).
5.  effect = ablated − clean, for each downstream feature, and for the next token's log-probabilities;
    KL(clean ‖ ablated) says how much the feature matters at all. What is clean is computed once a context.

Error-preserving feature ablation: Marks et al. 2024, "Sparse Feature Circuits"; contexts as in Cunningham et al. 2023.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.model import Edit, Model, Pass, Places
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


@dataclass(frozen=True, eq=False)
class Clean:
    """Some sequences as the model reads them unedited: what ablations in them start from, at any of some sites.

    Attributes:
        start: The first of the sequences, in the sample.
        lengths: Of each.
        run: Clean activations of the sites, and of those that resuming at them needs.
        logits: Whether the stream after the last block is there too.
    """

    start: int
    lengths: Int[Tensor, " s"]
    run: Pass
    logits: bool


def read_clean(
    model: Model,
    sites: Sequence[Site],
    tokens: Int[Tensor, "s t"],
    lengths: Int[Tensor, " s"],
    *,
    logits: bool,
    start: int = 0,
) -> Clean:
    """Run sequences once, for all ablations that are made in them.

    Args:
        model: The model.
        sites: Those that are edited, and those that are read.
        tokens: The sequences, padded right.
        lengths: Their lengths.
        logits: Whether ablations go on to the next token's log-probabilities.
        start: The first sequence's place in the sample.
    """
    reads = sorted({*sites, *(base for site in sites for base in model.bases(site))}, key=lambda s: s.order)
    first = min(site.layer for site in sites)
    return Clean(start, lengths, model.run(tokens[:, : int(lengths.max())], reads, final=logits, keep=first), logits)


def ablate(
    model: Model, saes: Mapping[Site, Sae], site: Site, rows: Rows, clean: Clean, downstream: Sequence[Site]
) -> Ablated:
    """Make one batch of ablations at one site.

    Args:
        model: The model.
        saes: SAEs of the edited and all downstream sites.
        site: The edited site.
        rows: One ablation a row, on the model's device, in the sequences of `clean`.
        clean: What they start from.
        downstream: Sites to read, all downstream of `site`.
    """
    batch = _Batch(rows, clean)
    local = model.resumes_at_places and bool((rows.pos >= 0).all())
    read = _at_places if local else _over_sequences
    ablated, final = read(model, saes[site], clean, batch, downstream)
    before = {down: clean.run.sites[down][batch.context_seq, batch.context_pos] for down in downstream}
    changes = {down: changed(saes[down], before[down], ablated[down], batch.row_context) for down in downstream}
    if not clean.logits:
        return Ablated(batch.read_pos, changes, None, None, None)
    assert clean.run.final is not None and final is not None
    logprob = model.logits(clean.run.final[batch.context_seq, batch.context_pos]).float().log_softmax(-1)
    return Ablated(batch.read_pos, changes, *token_effects(logprob, model.logits(final), batch.row_context))


class _Batch:
    """The rows of one batch, and the contexts at which they are read.

    Attributes:
        seq: Each row's sequence, among the clean ones.
        read_pos: Where each row is read: at its position, or at its sequence's last.
        row_context: Which context that is; `context_seq`, `context_pos` are each context's sequence and position.
    """

    def __init__(self, rows: Rows, clean: Clean) -> None:
        self.rows = rows
        self.seq = rows.seq - clean.start
        self.lengths = clean.lengths[self.seq]
        self.read_pos = torch.where(rows.pos >= 0, rows.pos, self.lengths - 1)
        width = int(clean.lengths.max())
        contexts, self.row_context = torch.unique(self.seq * width + self.read_pos, return_inverse=True)
        self.context_seq, self.context_pos = contexts // width, contexts % width


_Read = tuple[dict[Site, Tensor], Tensor | None]  # activations [n, d] of each downstream site, and the last stream


def _at_places(model: Model, sae: Sae, clean: Clean, batch: _Batch, downstream: Sequence[Site]) -> _Read:
    """Only the edited positions are computed again: attention looks back, to what the edit left as it was."""
    rows, site, sites = batch.rows, sae.site, clean.run.sites
    x = sites[site][batch.seq, rows.pos]
    delta = sae.edit(x, rows.feature, sae.activation_of(x, rows.feature), rows.replacement)
    index, slot = pack(batch.seq)
    places = Places(batch.seq[index[:, 0]], rows.pos[index])
    base = {name: sites[name][places.seq.unsqueeze(1), places.pos] for name in model.bases(site)}
    edit = Edit(site, delta[index])
    ablated = model.resume(clean.run, base, edit, downstream, final=clean.logits, places=places)
    read = {down: ablated.sites[down].flatten(0, 1)[slot] for down in downstream}
    return read, None if ablated.final is None else ablated.final.flatten(0, 1)[slot]


def _over_sequences(model: Model, sae: Sae, clean: Clean, batch: _Batch, downstream: Sequence[Site]) -> _Read:
    """Whole sequences are computed again: where every position is edited, or the model allows nothing less."""
    site, sites = sae.site, clean.run.sites
    delta = edits(sae, sites[site][batch.seq], batch.rows, batch.lengths)
    base = {name: sites[name][batch.seq] for name in model.bases(site)}
    ablated = model.resume(clean.run, base, Edit(site, delta), downstream, final=clean.logits)
    each = torch.arange(len(batch.rows), device=batch.seq.device)
    read = {down: ablated.sites[down][each, batch.read_pos] for down in downstream}
    return read, None if ablated.final is None else ablated.final[each, batch.read_pos]


def pack(seq: Int[Tensor, " n"]) -> tuple[Int[Tensor, "g c"], Int[Tensor, " n"]]:
    """Rows in groups of one sequence, which share its keys: indices of rows, and each row's place among them.

    Groups that aren't full repeat a row. Their size is the power of two at which rows and groups together cost least,
    a group as much as a row, for its copy of keys and values.
    """
    counts = seq.bincount()
    sizes = [2**power for power in range(7)]
    cost = [int(((counts + c - 1) // c).sum()) * (c + 1) for c in sizes]
    c = sizes[cost.index(min(cost))]
    order = seq.argsort(stable=True)
    within = torch.arange(len(seq), device=seq.device) - (counts.cumsum(0) - counts)[seq[order]]
    groups = (counts + c - 1) // c
    group = (groups.cumsum(0) - groups)[seq[order]] + within // c
    slot = torch.empty_like(seq)
    slot[order] = group * c + within % c
    index = torch.empty(int(groups.sum()), c, dtype=seq.dtype, device=seq.device)
    index[group, :] = order.unsqueeze(1)  # some row of the group, then each in its own place
    index.view(-1)[slot] = torch.arange(len(seq), device=seq.device)
    return index, slot


def edits(sae: Sae, x: Float[Tensor, "n t d"], rows: Rows, lengths: Int[Tensor, " n"]) -> Float[Tensor, "n t d"]:
    """δ for each row: at its position, or, where that is −1, at every position from 1 to the sequence's last.

    Position 0 is never edited: it is an outlier, BOS or not.
    """
    place = edited_positions(rows.pos, lengths, x.shape[1])
    row, pos = place.nonzero(as_tuple=True)
    here = x[row, pos]
    feature = rows.feature[row]
    activation = sae.activation_of(here, feature)
    delta = torch.zeros(x.shape, dtype=torch.float32, device=x.device)
    delta[row, pos] = sae.edit(here, feature, activation, rows.replacement[row])
    return delta


def edited_positions(pos: Int[Tensor, " n"], lengths: Int[Tensor, " n"], width: int) -> Bool[Tensor, "n t"]:
    """Which positions of each row are edited."""
    each = torch.arange(width, device=pos.device)
    whole = (each >= 1) & (each < lengths.unsqueeze(1))
    return torch.where((pos < 0).unsqueeze(1), whole, each == pos.unsqueeze(1))


def changed(
    sae: Sae, clean: Float[Tensor, "m d"], ablated: Float[Tensor, "n d"], context: Int[Tensor, " n"]
) -> Changes:
    """The features of one SAE whose activation differs by more than CHANGE·max(1, |clean|).

    Args:
        sae: Of the downstream site.
        clean: Clean activations of each context.
        ablated: Of each row.
        context: Each row's context.
    """
    before, after = sae.encode(clean), sae.encode(ablated)
    bar = before.clamp(min=1).mul_(CHANGE)[context]
    difference = torch.index_select(before, 0, context).sub_(after).abs_()
    row, feature = (difference > bar).nonzero(as_tuple=True)
    return Changes(row, feature, before[context[row], feature], after[row, feature])


def token_effects(
    before: Float[Tensor, "m v"], ablated: Float[Tensor, "n v"], context: Int[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n v"], Float[Tensor, "n v"]]:
    """KL(clean ‖ ablated) in nats, log p_ablated − log p_clean, and p_ablated − p_clean.

    KL = Σ_v p_clean·(log p_clean − log p_ablated).

    Args:
        before: Clean log-probabilities of each context.
        ablated: Logits of each row.
        context: Each row's context.
    """
    after = ablated.float().log_softmax(-1)
    p_before = before.exp()
    effect = after - before[context]
    kl = -torch.einsum("nv,nv->n", p_before[context], effect)
    return kl, effect, after.exp_().sub_(p_before[context])
