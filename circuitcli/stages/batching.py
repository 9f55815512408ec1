"""How many ablations are made at once, by what one takes; and which sequences are run clean together."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from circuitcli.core.model import Model
from circuitcli.core.shape import ModelShape
from circuitcli.core.transfer import filling
from circuitcli.runtime.device import Runtime, total_memory

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Int

# Of attention's scores at once, and the width of a head, of which few are narrower.
_COPIES, _HEAD = 3, 64


def recomputed(model: Model, width: int, horizon: int | None) -> int:
    """Positions that are computed again for one ablation in a sequence of `width`, at most.

    `horizon` is how many behind the edited one are read; None: all.
    """
    if not model.resumes_at_places or horizon is None:
        return width
    return min(width, horizon + 1)


def row_bytes(model: Model, width: int, horizon: int | None) -> int:
    """A generous estimate of what one ablation holds: streams, keys and values, scores."""
    count = recomputed(model, width, horizon)
    streams = count * (30 * model.shape.d_model + 8 * width)
    keys = (4 if count == 1 else 8) * (width + count) * model.shape.d_z
    return 4 * (streams + keys)


def batch_size(model: Model, runtime: Runtime, width: int, horizon: int | None) -> int:
    """Ablations at once."""
    return runtime.rows_at_once(row_bytes(model, width, horizon), recomputed(model, width, horizon))


def by_positions(
    runtime: Runtime, rows: int, width: int, say: Callable[[str], None]
) -> Callable[[int, int, Callable[[slice], Tensor]], Iterator[Tensor]]:
    """Work over rows, of which each has so many positions again: a batch has as many as `rows` of `width` have."""

    def batches(count: int, positions: int, work: Callable[[slice], Tensor]) -> Iterator[Tensor]:
        return runtime.batches(count, max(1, rows * width // max(1, positions)), work, say=say)

    return batches


def clean_at_once(
    shape: ModelShape, device: torch.device, width: int, sequences: int, positions: int
) -> tuple[int, int]:
    """How many sequences, and positions of them, are run clean together, of so many on a CPU.

    A GPU takes several times as many, so that a batch may have rows in all of them: the power of two at which a block
    takes an eighth of its memory at most, whatever is free, so that it is the same each time.

    Args:
        shape: The model's.
        device: Where it is.
        width: The longest sequence.
        sequences: On a CPU.
        positions: On a CPU, padding too.
    """
    keys, scores = 2 * shape.n_layers * shape.d_z, _COPIES * width * -(-shape.d_z // _HEAD)
    times, each = filling(device, 1), 4 * positions * (keys + scores)
    while times > 1 and times * each > total_memory(device) // 8:
        times //= 2
    return times * sequences, times * positions


def blocks(lengths: Int[np.ndarray, " s"], sequences: int, positions: int) -> list[Int[np.ndarray, " b"]]:
    """All sequences, longest first, in blocks of at most so many sequences and positions, padding too; or of one."""
    order, found = np.argsort(-lengths.astype(np.int64), kind="stable"), []
    while len(order):
        count = max(1, min(sequences, positions // int(lengths[order[0]])))
        found.append(np.sort(order[:count]))
        order = order[count:]
    return found
