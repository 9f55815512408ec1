"""Which texts are read, and how they become sequences of tokens."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from circuitcli.core.seeding import PURPOSE_REPEAT
from circuitcli.errors import InputError

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Bool, Int

PADDING = 0
Document = TypeVar("Document")


@dataclass(frozen=True, eq=False)
class Sample:
    """Sequences of token ids, BOS included if there is one, padded right.

    `special` marks the special tokens that a prompt may hold. They are outliers as position 0 is: no feature is chosen,
    counted or edited at either.
    """

    tokens: Int[np.ndarray, "n t"]
    lengths: Int[np.ndarray, " n"]
    special: Bool[np.ndarray, "n t"]

    @property
    def counted(self) -> Bool[np.ndarray, "n t"]:
        """Positions that count."""
        each = np.arange(self.tokens.shape[1])
        return np.asarray((each >= 1) & (each < self.lengths[:, None]) & ~self.special)

    def first(self, count: int) -> Sample:
        """Its first sequences."""
        return Sample(self.tokens[:count], self.lengths[:count], self.special[:count])

    def of(self, rows: Int[np.ndarray, " m"]) -> Sample:
        """Some of its sequences, no wider than the longest of them."""
        width = int(self.lengths[rows].max())
        return Sample(self.tokens[rows, :width], self.lengths[rows], self.special[rows, :width])


def sample_documents(
    documents: Iterable[Document], count: int, extra: int, seed: int
) -> tuple[list[Document], list[Document]]:
    """`count` documents at random, and `extra` others, each in their order, holding no more than these in memory.

    Each document draws a lot and the lowest lots win, so that asking for more extras changes nothing of the first.
    """
    lots = np.random.default_rng(seed)
    drawn = heapq.nsmallest(count + extra, ((lots.random(), index, one) for index, one in enumerate(documents)))
    parts = (sorted(part, key=lambda entry: entry[1]) for part in (drawn[:count], drawn[count:]))
    first, others = ([one for _, _, one in part] for part in parts)
    return first, others


def half(count: int, number: int, seed: int) -> Int[np.ndarray, " m"]:
    """Which of `count` things are in the random half of this number, in their order.

    Halves 1 and 2 are what one random cut makes of all things, 3 and 4 what the next does, and so on; of an odd count
    the second of the two has one more.
    """
    cut, second = divmod(number - 1, 2)
    order = np.random.default_rng([seed, PURPOSE_REPEAT, cut]).permutation(count)
    return np.sort(order[count // 2 :] if second else order[: count // 2])


def to_sequences(
    documents: Sequence[Sequence[int]], *, bos: int | None, max_tokens: int, count: int
) -> list[list[int]]:
    """At most `count` sequences of at most `max_tokens` tokens, as lists of ids.

    Every document gives its beginning; while there are too few, long documents give their later pieces as well.
    Sequences need a position that counts, so at least two tokens with BOS.
    """
    room = max_tokens - (bos is not None)
    head = [] if bos is None else [bos]
    pieces: list[list[int]] = []
    longest = max((len(ids) for ids in documents), default=0)
    for start in range(0, longest, room):
        for ids in documents:
            piece = [*head, *ids[start : start + room]]
            if len(ids) > start and len(piece) >= 2 and len(pieces) < count:
                pieces.append(piece)
    return pieces


def pad(sequences: Sequence[Sequence[int]], special: Sequence[Sequence[int]] = ()) -> Sample:
    """Sequences as one array.

    Args:
        sequences: Ids.
        special: The positions of special tokens in each of them; none if not given.

    Raises:
        InputError: There is none.
    """
    if not sequences:
        raise InputError(
            "No text is long enough: a sequence needs two tokens.", hint="Give longer text, or more of it."
        )
    lengths = np.asarray([len(ids) for ids in sequences], np.int32)
    tokens = np.full((len(sequences), int(lengths.max())), PADDING, np.int32)
    for row, ids in zip(tokens, sequences, strict=True):
        row[: len(ids)] = ids
    marked = np.zeros(tokens.shape, np.bool_)
    for marks, positions in zip(marked, special, strict=False):
        marks[list(positions)] = True
    return Sample(tokens, lengths, marked)
