"""Examples: what a circuit is judged by. Each is a sequence, or some of which the first is to be likelier."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from circuitcli.core.evidence.readings import Reading

Half = Literal["discovery", "evaluation"]


@dataclass(frozen=True)
class Sequence:
    """Tokens, and what a pass over them is read for.

    Attributes:
        ids: The tokens, BOS counted.
        counts: At which positions a circuit is at work: those from 1 on that hold no special token. Others stay as they
            are.
        reading: What is read; None: the log-probability of what the model, as it is, holds for likeliest to come next.
        other_ids: As many tokens, whose activations are the baseline; None where it isn't `patch`.
    """

    ids: tuple[int, ...]
    counts: tuple[bool, ...]
    reading: Reading | None
    other_ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Example:
    """One of the things that are asked of the model.

    m is the reading of its sequence; of several the first one's, less the largest of the others': how much likelier the
    right choice is than the best wrong one.

    Attributes:
        name: How it is called: its text.
        sequences: One; or one for each choice, the right one first.
        unit: Of m.
    """

    name: str
    sequences: tuple[Sequence, ...]
    unit: str


def combined(readings: Many[Float[Tensor, " b"]]) -> Float[Tensor, " b"]:
    """An example's m, of each row, from the readings of its sequences."""
    if len(readings) == 1:
        return readings[0]
    return readings[0] - torch.stack(list(readings[1:])).amax(0)
