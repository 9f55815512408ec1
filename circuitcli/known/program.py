"""A transformer as a program over named directions of its stream, each of which a program writes and reads.

A direction i is *written* as e_i − e_last and *read* as e_i. So the stream's mean is always 0, and a LayerNorm that
subtracts it, and does nothing else (`files`), leaves the stream as it is. Values are 0 or more: what a dictionary with
one feature a direction encodes is the stream itself, and it has no error.

Directions are `tok:w` for each word, `pos:p` for each position, and those that a program names. BOS is word 0 and
stands at position 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

BOS = "<s>"
SHARP = 60.0  # a score that, beside another of half of it, has all of the attention: e^−30 is left
Matrices = dict[str, Float[np.ndarray, "..."]]


@dataclass(frozen=True)
class Attention:
    """One head: where each position looks, and what it takes from there.

        score(q, k) = SHARP · Σ [query feature at q]·[key feature at k] + bos·[k is BOS]
        written at q: Σ_k softmax(score)_k · [what is moved, at k]

    Attributes:
        match: Pairs of a query and a key feature; a query of None is there at every position.
        moves: Pairs of a feature that is read and one that is written.
        bos: The score of BOS, as a share of SHARP. .5: where nothing matches, BOS is looked at, from which programs
            move nothing; −1: it is never looked at.
    """

    match: tuple[tuple[str | None, str], ...]
    moves: tuple[tuple[str, str], ...]
    bos: float = 0.5


@dataclass(frozen=True)
class Unit:
    """A unit of an MLP: it adds relu(Σ reads + bias) · weight, for each feature that it writes."""

    reads: Mapping[str, float]
    bias: float
    writes: Mapping[str, float]


@dataclass(frozen=True)
class Block:
    """A block: a head, then units; either may be missing."""

    attention: Attention | None = None
    units: tuple[Unit, ...] = ()


@dataclass(frozen=True)
class Program:
    """A transformer.

    Attributes:
        words: The vocabulary beside BOS.
        positions: How many there are, that of BOS counted.
        variables: Directions that blocks write.
        blocks: The blocks, in order.
        logits: Of each word that isn't 0 everywhere, what it reads of the last stream.
    """

    words: tuple[str, ...]
    positions: int
    variables: tuple[str, ...]
    blocks: tuple[Block, ...]
    logits: Mapping[str, Mapping[str, float]]

    @cached_property
    def vocabulary(self) -> tuple[str, ...]:
        """Words by id."""
        return (BOS, *self.words)

    @cached_property
    def features(self) -> tuple[str, ...]:
        """The names of the directions, by index."""
        fixed = [f"tok:{word}" for word in self.vocabulary] + [f"pos:{p}" for p in range(self.positions)]
        return (*fixed, *self.variables)

    @property
    def d_model(self) -> int:
        """The width of the stream."""
        return len(self.features) + 1

    @property
    def units(self) -> int:
        """The width of the MLPs."""
        return max([1, *(len(block.units) for block in self.blocks)])

    def at(self, feature: str) -> int:
        """The index of a direction."""
        return self.features.index(feature)

    @cached_property
    def written(self) -> Float[np.ndarray, "f d"]:
        """By direction what is added to the stream for it."""
        found = np.eye(self.d_model)[:-1]
        found[:, -1] = -1
        return found

    def embeddings(self) -> Matrices:
        """`token` [v, d] and `position` [p, d]."""
        count = len(self.vocabulary)
        return {"token": self.written[:count], "position": self.written[count : count + self.positions]}

    def unembedding(self) -> Float[np.ndarray, "v d"]:
        """What each word's logit reads."""
        found = np.zeros((len(self.vocabulary), self.d_model))
        for word, reads in self.logits.items():
            for feature, weight in reads.items():
                found[self.vocabulary.index(word), self.at(feature)] = weight
        return found

    def attention(self, head: Attention | None) -> Matrices:
        """`query`, `key`, `value` and `out` [d, d], and `bias` [d], of queries; scores are q·k."""
        d = self.d_model
        found = {name: np.zeros((d, d)) for name in ("query", "key", "value", "out")} | {"bias": np.zeros(d)}
        if head is None:
            return found
        assert max(len(head.match) + 1, len(head.moves)) <= d, "a head has no more dimensions than the stream"
        for i, (query, key) in enumerate(head.match):
            if query is None:
                found["bias"][i] = 1
            else:
                found["query"][self.at(query), i] = 1
            found["key"][self.at(key), i] = SHARP
        found["bias"][-1], found["key"][self.at(f"tok:{BOS}"), -1] = 1, head.bos * SHARP
        for i, (read, write) in enumerate(head.moves):
            found["value"][self.at(read), i] = 1
            found["out"][i] = self.written[self.at(write)]
        return found

    def mlp(self, units: tuple[Unit, ...]) -> Matrices:
        """`read` [d, u], `bias` [u] and `write` [u, d]."""
        d, u = self.d_model, self.units
        found = {"read": np.zeros((d, u)), "bias": np.zeros(u), "write": np.zeros((u, d))}
        for i, unit in enumerate(units):
            for feature, weight in unit.reads.items():
                found["read"][self.at(feature), i] = weight
            found["bias"][i] = unit.bias
            for feature, weight in unit.writes.items():
                found["write"][i] += weight * self.written[self.at(feature)]
        return found
