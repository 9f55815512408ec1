"""Ablating features: take one feature away at one context, run the rest of the model, and see what changed.

For a batch of rows, each one feature j at one context (sequence s, position p):

1.  Run each sequence once, clean: the activations x of the edited sites, the stream after the last block, and the keys
    and values of every block. What the SAEs make of the sequences is known before (`cache-acts`).
2.  δ = σ·(c − a_j)·W_dec[j] at p (`top`, `onward`), or at every position ≥ 1 that is no special token (`all`), at each
    site that the dictionary writes; everything else there stays: it is read again of the edited stream, and δ added.
3.  Resume the model at the first edited site with x + δ. Nothing before the site is computed again, and nothing before
    the first edited position either: attention is causal, so that earlier positions, their keys and their values stay
    as they were. In later blocks the key and value of a position that is computed again come from the edited stream.
4.  Encode the downstream sites with their SAEs where the row is read: at p (`top`), at every position from p on, as far
    as the horizon (`onward`), at the last position (`all`). At a special token, which is an outlier, no feature is
    read, but the next token is; where the last position is one, features are read at the last other one.
5.  effect = ablated − clean, for each downstream feature, and for the next token's log-probabilities;
    KL(clean ‖ ablated) says how much the feature matters at all. Clean logits are computed once a context.

Error-preserving feature ablation: Marks et al. 2024, "Sparse Feature Circuits"; contexts as in Cunningham et al. 2023.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.active import Active, Changes
from circuitcli.core.compared import compared, settled
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.directions import Directions
from circuitcli.core.model import Addition, Model, Pass, Places
from circuitcli.core.next_token import Followed, TokenSums, follow
from circuitcli.core.places import Grid, alone, chain, edited_positions, read_positions
from circuitcli.core.sites import Site, last_block
from circuitcli.core.transfer import filling, sent

# Of the logits that a CPU holds at once.
_LOGIT_BYTES = 2**27


@dataclass(frozen=True, eq=False)
class Rows:
    """Ablations to make: row i replaces `feature[i]` at position `pos[i]` of sequence `seq[i]`. All on the CPU.

    `pos` is −1 for an edit of the whole sequence. `replacement` is what the activation becomes. `slot` says to which of
    the sums of token effects a row is added.
    """

    feature: Int[Tensor, " n"]
    seq: Int[Tensor, " n"]
    pos: Int[Tensor, " n"]
    replacement: Float[Tensor, " n"]
    slot: Int[Tensor, " n"]

    def __len__(self) -> int:
        return self.feature.shape[0]

    def __getitem__(self, part: Tensor | slice) -> Rows:
        return Rows(self.feature[part], self.seq[part], self.pos[part], self.replacement[part], self.slot[part])


@dataclass(frozen=True, eq=False)
class Ablated:
    """What a batch of ablations did, reading by reading: a row is read at one position, or, `onward`, at several.

    Attributes:
        row: Of each reading.
        pos: Position at which it is made.
        changes: For each downstream site, the features that changed; their `row` counts readings.
        kl: KL(clean ‖ ablated) of the next token, nats; None without logits.
        told: The readings of which the next token counts: all, but of an edit of a whole sequence the last position's
            alone. `kl` is 0 of the others.
        followed: Of each of these the effects on the tokens that are followed there; None where none are.
    """

    row: Int[Tensor, " r"]
    pos: Int[Tensor, " r"]
    changes: dict[Site, Changes]
    kl: Float[Tensor, " r"] | None
    told: Int[Tensor, " m"]
    followed: Followed | None = None


@dataclass(frozen=True, eq=False)
class Clean:
    """Some sequences as the model reads them unedited: what ablations in them start from, at any of some sites.

    Attributes:
        sequences: Which ones they are in the sample, ascending; on the CPU.
        lengths: Of each; on the CPU.
        run: Clean activations of what resuming at the sites needs.
        acts: What the SAEs make of them, by site; places are numbered width · (which of these sequences) + position.
        logits: Whether the stream after the last block is there too.
        special: Where special tokens stand, where nothing is edited and no feature read; on the CPU.
        follow: Tokens at each position, the effects on which are kept of each ablation that is read there.
    """

    sequences: Int[Tensor, " s"]
    lengths: Int[Tensor, " s"]
    run: Pass
    acts: Mapping[Site, Active]
    logits: bool
    special: Bool[Tensor, "s t"]
    follow: Int[Tensor, "s t k"] | None = None
    width: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "width", int(self.lengths.max()))

    def which(self, seq: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
        """Which of these sequences each sequence of the sample is."""
        return torch.searchsorted(self.sequences, seq.contiguous())


def read_clean(
    model: Model,
    edited: Sequence[Site],
    tokens: Int[Tensor, "s t"],
    lengths: Int[Tensor, " s"],
    acts: Mapping[Site, Active],
    *,
    logits: bool,
    sequences: Int[Tensor, " s"] | None = None,
    special: Bool[Tensor, "s t"] | None = None,
    follow: Int[Tensor, "s t k"] | None = None,
) -> Clean:
    """Run sequences once, for all ablations that are made in them.

    Args:
        model: The model.
        edited: Sites that edited features read, and those that they write first.
        tokens: The sequences, padded right, on the model's device.
        lengths: Their lengths, on the CPU.
        acts: What the SAEs of the edited and the read sites make of them; see `Clean`.
        logits: Whether ablations go on to the next token's log-probabilities.
        sequences: Which ones they are in the sample, ascending, on the CPU; the first ones if not given.
        special: Where special tokens stand, on the CPU; nowhere if not given.
        follow: Tokens at each position, on the model's device; see `Clean`.
    """
    reads = sorted({*edited, *(base for site in edited for base in model.bases(site))}, key=lambda s: s.order)
    keep, until = min(site.layer for site in edited), last_block([*edited, *acts])
    run = model.run(tokens[:, : int(lengths.max())], reads, final=logits, keep=keep, until=until)
    which = torch.arange(len(lengths)) if sequences is None else sequences
    marked = torch.zeros(tokens.shape, dtype=torch.bool) if special is None else special
    return Clean(which, lengths, run, acts, logits, marked[:, : int(lengths.max())], follow)


def ablate(
    model: Model,
    saes: Mapping[Site, Dictionary],
    site: Site,
    rows: Rows,
    clean: Clean,
    downstream: Sequence[Site],
    *,
    horizon: int | None = 0,
    sums: TokenSums | None = None,
    directions: Directions | None = None,
) -> Ablated:
    """Make one batch of ablations at one site.

    What decides shapes is worked out on the host, so that a GPU is given the whole batch without being waited for, and
    asked once, at its end, how much changed; see `compared`.

    Args:
        model: The model.
        saes: SAEs of the edited and all downstream sites.
        site: Where the edited features read.
        rows: One ablation a row, in the sequences of `clean`.
        clean: What they start from.
        downstream: Sites to read, all behind the first that the features write; or this one, if it isn't `site`.
        horizon: How many positions behind the edited one are read as well; None: all of them.
        sums: Where the effects on tokens are added, last of all; needed where `clean` has logits. A batch that fails
            adds nothing.
        directions: What the rows' features write, where it serves many batches.
    """
    device = model.device
    grid = _grid(model, clean, site, rows, horizon)
    on_device = _moved(grid, device)
    directions = directions or Directions(saes[site], rows.feature, device)
    edit = Addition.of(_deltas(saes[site].reads, directions, rows, clean, on_device))
    places = Places(on_device.seq, on_device.pos, chained=grid.chained) if model.resumes_at_places else None
    base = {name: _at(clean.run.sites[name], on_device) for name in model.bases(edit.site)}
    behind = [down for down in downstream if down != edit.site]
    ablated = model.resume(clean.run, base, edit, behind, final=clean.logits, places=places)
    if edit.site in downstream:
        x = _at(clean.run.sites[edit.site], on_device)
        ablated.sites[edit.site] = x + edit.delta.to(x.dtype)
    context, seq, pos = _contexts(grid, clean.which(rows.seq), clean.width)
    place, special = (seq * clean.width + pos)[context], clean.special[seq, pos][context]
    found = {}
    for down in downstream:
        x = ablated.sites[down].flatten(0, 1)[on_device.read]
        found[down] = compared(saes[down], x, clean.acts[down], place, special)
    kl = followed = None
    told = _token_readings(grid, rows, clean)
    with nullcontext() if sums is None else sums.whole():
        if clean.logits:
            assert clean.run.final is not None and ablated.final is not None and sums is not None
            at, there, which = sent(told, device), sent(context[told], device), (sent(seq, device), sent(pos, device))
            final = ablated.final.flatten(0, 1)[on_device.read[at]]
            tokens = None if clean.follow is None else clean.follow[which][there]
            kl = torch.zeros(len(context), device=device)
            kl[at], followed = _next_token(
                model, rows.slot[grid.read_row[told]], context[told], clean.run.final[which], final, sums, tokens
            )
        changed = settled(found)
    return Ablated(grid.read_row, grid.read_pos, changed, kl, told, followed)


def _grid(model: Model, clean: Clean, site: Site, rows: Rows, horizon: int | None) -> Grid:
    """What is computed again, on the CPU: as little as the edits and the model allow."""
    seq = clean.which(rows.seq)
    lengths = clean.lengths[seq]
    at_once = bool((rows.pos >= 0).all())
    if at_once and horizon == 0 and model.resumes_at_places:
        return alone(seq, rows.pos)
    special = clean.special[seq]
    edited = edited_positions(rows.pos, lengths, special)
    end = lengths if horizon is None or not at_once else torch.minimum(rows.pos + horizon + 1, lengths)
    read = read_positions(rows.pos, end, special)
    if not model.resumes_at_places:
        return chain(seq, torch.zeros_like(seq), torch.full_like(seq, clean.width), edited, read)
    return chain(seq, rows.pos if at_once else _first_changed(clean, site, rows, edited), end, edited, read)


def _first_changed(clean: Clean, site: Site, rows: Rows, edited: Tensor) -> Int[Tensor, " n"]:
    """The first position at which each row's edit changes anything; the last one edited where it changes nothing."""
    row, pos = edited.nonzero(as_tuple=True)
    seq = clean.which(rows.seq)
    now = clean.acts[site].here.lookup(seq[row] * clean.width + pos, rows.feature[row])
    differs = torch.zeros_like(edited)
    differs[row, pos] = now != rows.replacement[row]
    last = clean.lengths[seq] - 1
    return torch.where(differs.any(1), differs.int().argmax(1), last)


def _deltas(
    reads: Site, directions: Directions, rows: Rows, clean: Clean, grid: Grid
) -> dict[Site, Float[Tensor, "g c d"]]:
    """δ at every place, at each site that is written; 0 where the row doesn't edit."""
    x = _at(clean.run.sites[reads], grid)
    feature = sent(rows.feature, x.device)[grid.row]
    place = grid.seq.unsqueeze(1) * clean.width + grid.pos
    activation = clean.acts[reads].lookup(place, feature)
    deltas = directions.edit(x, feature, activation, sent(rows.replacement, x.device)[grid.row])
    if grid.chained:
        return {site: delta * grid.edited.unsqueeze(-1) for site, delta in deltas.items()}
    return deltas


def _at(x: Float[Tensor, "s t d"], grid: Grid) -> Float[Tensor, "g c d"]:
    return x[grid.seq.unsqueeze(1), grid.pos]


def _moved(grid: Grid, device: torch.device) -> Grid:
    """The same grid on another device; what is said of readings stays here as well."""
    parts = (grid.seq, grid.pos, grid.row, grid.edited, grid.read)
    seq, pos, row, edited, read = (sent(part, device) for part in parts)
    return Grid(seq, pos, row, edited, grid.chained, read, grid.read_row, grid.read_pos)


def _contexts(grid: Grid, seq: Int[Tensor, " n"], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Each reading's context, and each context's sequence and position: where several rows are read it is one."""
    found, context = torch.unique(seq[grid.read_row] * width + grid.read_pos, return_inverse=True)
    return context, found // width, found % width


def _token_readings(grid: Grid, rows: Rows, clean: Clean) -> Int[Tensor, " m"]:
    """The readings of which the next token counts; see `Ablated`."""
    last = clean.lengths[clean.which(rows.seq)] - 1
    row = grid.read_row
    return ((rows.pos[row] >= 0) | (grid.read_pos == last[row])).nonzero().squeeze(1)


def _next_token(
    model: Model, slot: Tensor, context: Tensor, before: Float[Tensor, "m d"], final: Float[Tensor, "r d"],
    sums: TokenSums, tokens: Int[Tensor, "r k"] | None,
) -> tuple[Float[Tensor, " r"], Followed | None]:  # fmt: skip
    """KL of each reading, and the effects on the tokens that are followed there.

    So many at once that their logits stay small; a context's clean logits serve all of them.
    """
    size = max(1, filling(model.device, _LOGIT_BYTES) // (4 * model.shape.d_vocab))
    kl = torch.empty(len(context), device=final.device)
    empty = None if tokens is None else torch.empty(tokens.shape, device=final.device)
    followed = None if tokens is None or empty is None else Followed(tokens, empty, torch.empty_like(empty))
    for part in context.argsort(stable=True).split(size):
        first, last = int(context[part[0]]), int(context[part[-1]])
        part = part[slot[part].argsort(stable=True)]
        there, at = sent(part, final.device), sent(context[part] - first, final.device)
        clean = model.logits(before[first : last + 1])
        ablated = model.logits(final[there])
        if followed is not None:
            _, followed.logprob[there], followed.prob[there] = follow(followed.token_id[there], at, clean, ablated)
        kl[there] = sums.add(slot[part], at, clean, ablated)
    return kl, followed
