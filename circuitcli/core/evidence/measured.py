"""The measured m's of a validation, by what they are of."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitcli.core.evidence.faithfulness import Scale

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Float, Int

HALVES = ("discovery", "evaluation")
ERRORS = ("kept", "sites", "removed")
CIRCUIT, RANDOM = "circuit", "random"
# Curves over components that are no features of dictionaries: these have a nothing of their own.
PLAIN = ("neurons", "dimensions")


class Incomplete(Exception):
    """A table lacks some of what was measured, or has it twice."""


@dataclass(frozen=True, order=True)
class Group:
    """What some m's are of: the keys of validation.parquet, without example and draw."""

    half: str
    errors: str
    curve: str
    part: str
    n: int
    node: int = -1


@dataclass(frozen=True, eq=False)
class Measured:
    """m of every group on every example of its half, in the order of the examples.

    Attributes:
        groups: m by draw and example.
        seed: Of resampling.
    """

    groups: Mapping[Group, Float[np.ndarray, "d e"]]
    seed: int

    @classmethod
    def of(cls, table: Mapping[str, Any], seed: int) -> Measured:
        """From the columns of validation.parquet.

        Raises:
            Incomplete: A group lacks an example of its half, or has one twice.
        """
        names = ("half", "errors", "curve", "part")
        words, codes = zip(*(_coded(table[name]) for name in names), strict=True)
        keys = [*codes, table["n"], table["node"]]
        order = np.lexsort((table["example"], table["draw"], *reversed(keys)))
        sorted_keys = np.stack([np.asarray(key, np.int64)[order] for key in keys])
        starts = np.flatnonzero(np.r_[True, (sorted_keys[:, 1:] != sorted_keys[:, :-1]).any(0)][: len(order)])
        m, example = table["m"][order].astype(np.float64), table["example"][order]
        every = {half: np.unique(table["example"][table["half"] == half]) for half in words[0]}
        groups = {}
        for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
            half, errors, curve, part = (known[code] for known, code in zip(words, sorted_keys[:4, start], strict=True))
            group = Group(half, errors, curve, part, *map(int, sorted_keys[4:, start]))
            examples = every[half]
            if (end - start) % len(examples) or (example[start:end].reshape(-1, len(examples)) != examples).any():
                what = " ".join(filter(None, (curve, part)))
                raise Incomplete(f"m of {what} (n = {group.n}, errors {errors}) isn't of every {half} example")
            groups[group] = m[start:end].reshape(-1, len(examples))
        return cls(groups, seed)

    @property
    def variants(self) -> list[tuple[str, str]]:
        """Half and variant of the errors; the evaluation first, which is what counts."""
        found = {(group.half, group.errors) for group in self.groups if group.part == "circuit"}
        return [pair for pair in itertools.product(reversed(HALVES), ERRORS) if pair in found]

    @cached_property
    def subject(self) -> tuple[str, int]:
        """The curve and the size of C, the set that is validated: of which nodes were left out, else the largest."""
        without = sorted(g for g in self.groups if g.part == "without")
        curve = without[0].curve if without else self.curves[0]
        return curve, without[0].n if without else max(g.n for g in self.groups if g.curve == curve)

    @cached_property
    def curves(self) -> tuple[str, ...]:
        """Ways of ranking, the circuit first."""
        found = sorted({group.curve for group in self.groups if group.part == "circuit"})
        return tuple(sorted(found, key=lambda curve: curve != CIRCUIT))

    def sizes(self, half: str, errors: str, curve: str, part: str = "circuit") -> list[int]:
        """How many components were kept, ascending."""
        wanted = (half, errors, curve, part)
        return sorted(g.n for g in self.groups if (g.half, g.errors, g.curve, g.part) == wanted)

    def m(self, half: str, errors: str, curve: str, n: int, part: str = "circuit") -> Float[np.ndarray, "d e"] | None:
        """Of a set by draw and example; None where it wasn't measured."""
        return self.groups.get(Group(half, errors, curve, part, n))

    def nodes(self, half: str, errors: str, part: str) -> tuple[str, int, Int[np.ndarray, " k"], Any] | None:
        """The curve and size of the set whose nodes were left out (`without`) or kept alone, their numbers, and m.

        m is [k, e]; None where none was measured.
        """
        found = sorted(g for g in self.groups if (g.half, g.errors, g.part) == (half, errors, part))
        if not found:
            return None
        m = np.concatenate([self.groups[group] for group in found])
        return found[0].curve, found[0].n, np.asarray([group.node for group in found]), m

    def scale(self, half: str, errors: str, curve: str) -> Scale | None:
        """From m(∅) of this variant, and of this kind of component, to m(M); None where one of them wasn't measured."""
        key = (half, errors, curve if curve in PLAIN else "")
        if key not in self._scales:
            nothing, everything = self._whole("nothing", key), self._whole("everything", key)
            none = nothing is None or everything is None
            self._scales[key] = None if none else Scale.of(nothing, everything, self.seed)  # type: ignore[arg-type]
        return self._scales[key]

    @cached_property
    def _scales(self) -> dict[tuple[str, str, str], Scale | None]:
        return {}

    def _whole(self, part: str, key: tuple[str, str, str]) -> Float[np.ndarray, " e"] | None:
        """Of nothing or everything. The whole model is the same in all variants and for all kinds of components."""
        half, errors, kind = key
        found = [g for g in self.groups if g.half == half and g.part == part]
        wanted = [g for g in found if (g.errors, _kind(g.curve)) == (errors, kind)]
        if part == "everything":
            wanted = wanted or found
        return self.groups[wanted[0]][0] if wanted else None


def _kind(curve: str) -> str:
    return curve if curve in PLAIN else ""


def _coded(words: np.ndarray) -> tuple[list[str], Int[np.ndarray, " n"]]:
    """Different words, and the number of each."""
    known = {word: i for i, word in enumerate(dict.fromkeys(words.tolist()))}
    return list(known), np.asarray([known[word] for word in words.tolist()], np.int64)
