"""Where ablations are computed again, and where they are read.

Attention looks back only, so that an edit at position p leaves every earlier position as it was. What is computed again
are places: positions of sequences, behind their clean keys and values.

    top      each row's own position; rows of one sequence share its keys, and don't see each other
    onward   the row's position and those behind it, a chain; read at each of them
    all      from the first position that the edit changes to the last, a chain; read at the last, and where that is a
             special token, an outlier at which no feature is read, at the last other one too
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Grid:
    """Places to compute again, in groups of one sequence each, and what is read of them.

    Attributes:
        seq: Of each group.
        pos: Of each place. In a chain, places beyond the sequence stay at its last position, and nobody reads them.
        row: Which row each place belongs to.
        edited: Where the row's edit is made.
        chained: Whether the places of a group follow each other and see those before them.
        read: For each reading its place, counted through the groups.
        read_row, read_pos: For each reading its row, and its position.
    """

    seq: Int[Tensor, " g"]
    pos: Int[Tensor, "g c"]
    row: Int[Tensor, "g c"]
    edited: Bool[Tensor, "g c"]
    chained: bool
    read: Int[Tensor, " r"]
    read_row: Int[Tensor, " r"]
    read_pos: Int[Tensor, " r"]


def alone(seq: Int[Tensor, " n"], pos: Int[Tensor, " n"]) -> Grid:
    """Each row at its own position, and read there."""
    index, slot = pack(seq)
    rows = torch.arange(len(seq), device=seq.device)
    everywhere = torch.ones(index.shape, dtype=torch.bool, device=seq.device)
    return Grid(seq[index[:, 0]], pos[index], index, everywhere, False, slot, rows, pos)


def chain(
    seq: Int[Tensor, " n"],
    start: Int[Tensor, " n"],
    end: Int[Tensor, " n"],
    edited: Bool[Tensor, "n t"],
    read: Bool[Tensor, "n t"],
) -> Grid:
    """Each row from `start` to before `end`, edited and read where the row says.

    Args:
        seq: Of each row.
        start: The first position of each.
        end: The position behind its last.
        edited: Which positions of the whole sequence are edited.
        read: Which are read; only those from `start` to before `end` are.
    """
    count = int((end - start).max())
    step = torch.arange(count, device=seq.device)
    pos = torch.minimum(start.unsqueeze(1) + step, end.unsqueeze(1) - 1)
    inside = step < (end - start).unsqueeze(1)
    rows = torch.arange(len(seq), device=seq.device)
    row, place = (read.gather(1, pos) & inside).nonzero(as_tuple=True)
    return Grid(
        seq=seq,
        pos=pos,
        row=rows.unsqueeze(1).expand_as(pos),
        edited=edited.gather(1, pos) & inside,
        chained=True,
        read=row * count + place,
        read_row=row,
        read_pos=pos[row, place],
    )


def edited_positions(
    pos: Int[Tensor, " n"], lengths: Int[Tensor, " n"], special: Bool[Tensor, "n t"]
) -> Bool[Tensor, "n t"]:
    """Which positions of each row are edited: its own, or, where that is −1, all from 1 to the sequence's last.

    Position 0 is never edited, nor are special tokens: they are outliers, BOS or not.
    """
    each = torch.arange(special.shape[1], device=pos.device)
    whole = (each >= 1) & (each < lengths.unsqueeze(1)) & ~special
    return torch.where((pos < 0).unsqueeze(1), whole, each == pos.unsqueeze(1))


def read_positions(pos: Int[Tensor, " n"], end: Int[Tensor, " n"], special: Bool[Tensor, "n t"]) -> Bool[Tensor, "n t"]:
    """Which positions of each row are read: from its own to before `end`, or, where that is −1, the last before `end`,
    and where that is a special token the last that is none as well.
    """
    each = torch.arange(special.shape[1], device=pos.device)
    before = each < end.unsqueeze(1)
    last = each == (end - 1).unsqueeze(1)
    ordinary = each == torch.where(before & ~special, each, 0).max(1, keepdim=True).values
    return torch.where((pos < 0).unsqueeze(1), last | ordinary, before & (each >= pos.unsqueeze(1)))


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
