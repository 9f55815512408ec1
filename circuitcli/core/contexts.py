"""Where features fire: top contexts, statistics, and the contexts at which a feature is ablated."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.core.seeding import PURPOSE_CONTEXTS, generator
from circuitcli.core.sites import FeatureId

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Float, Int

    Ints = Int[np.ndarray, " n"]
    Floats = Float[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Firings:
    """Non-zero activations of one site: feature `feature[i]` is `value[i]` at position `pos[i]` of `seq[i]`."""

    seq: Ints
    pos: Ints
    feature: Ints
    value: Floats

    def __len__(self) -> int:
        return len(self.seq)

    def where(self, mask: np.ndarray | slice) -> Firings:
        """Those that the mask, the order of indices, or the slice picks."""
        return Firings(self.seq[mask], self.pos[mask], self.feature[mask], self.value[mask])

    @classmethod
    def concat(cls, parts: list[Firings]) -> Firings:
        """All of them, in order."""
        if not parts:
            none = np.zeros(0, np.int32)
            return cls(none, none, none, np.zeros(0, np.float32))
        columns = ([getattr(p, name) for p in parts] for name in ("seq", "pos", "feature", "value"))
        return cls(*(np.concatenate(column) for column in columns))


def in_order(firings: Firings) -> Firings:
    """The same in order of (seq, pos, feature): they mostly are, which is seen faster than they are sorted."""
    pos, feature = (int(column.max(initial=0)) + 1 for column in (firings.pos, firings.feature))
    key = (firings.seq.astype(np.int64) * pos + firings.pos) * feature + firings.feature
    return firings if (key[1:] > key[:-1]).all() else firings.where(np.argsort(key, kind="stable"))


class ByFeature:
    """The firings of one site feature by feature: sorted once, however often some are asked for."""

    def __init__(self, firings: Firings) -> None:
        """Sorts them.

        Args:
            firings: In order of (seq, pos).
        """
        self._whole = firings.where(np.argsort(firings.feature, kind="stable"))
        self._first = np.flatnonzero(np.diff(self._whole.feature, prepend=-1))

    def of(self, features: Sequence[int]) -> dict[int, Firings]:
        """Those of some features, ascending, in order of (seq, pos)."""
        wanted = np.asarray(sorted(features), np.int32)
        starts, stops = (np.searchsorted(self._whole.feature, wanted, side) for side in ("left", "right"))
        return {
            feature: self._whole.where(slice(start, stop))
            for feature, start, stop in zip(wanted.tolist(), starts.tolist(), stops.tolist(), strict=True)
        }

    def counts(self, features: Sequence[int], *, cap: int, whole: bool) -> list[int]:
        """At how many contexts `choose_contexts` would have each of some features ablated, in their order."""
        fires, counted = self._whole.feature[self._first], self._counted[whole]
        if not len(fires):
            return [0] * len(features)
        wanted = np.asarray(features, np.int64)
        place = np.minimum(np.searchsorted(fires, wanted), len(fires) - 1)
        found: list[int] = np.where(fires[place] == wanted, np.minimum(counted[place], cap), 0).tolist()
        return found

    @cached_property
    def _counted(self) -> tuple[np.ndarray, np.ndarray]:
        """The candidates of each feature that fires: positions, and sequences."""
        whole, first = self._whole, self._first
        if not len(first):
            return first, first
        strongest = np.repeat(np.maximum.reduceat(whole.value, first) / 2, np.diff(first, append=len(whole)))
        news = np.diff(whole.seq, prepend=-1) != 0
        news[first] = True
        position, sequence = (np.add.reduceat(one, first, dtype=np.int64) for one in (whole.value >= strongest, news))
        return position, sequence


def by_feature(firings: Firings, features: Sequence[int]) -> dict[int, Firings]:
    """The firings of some features of one site, in order of (seq, pos), whatever order they come in."""
    some = firings.where(np.flatnonzero(np.isin(firings.feature, np.asarray(features, np.int32))))
    return ByFeature(some.where(np.lexsort((some.pos, some.seq)))).of(features)


def top_contexts(firings: Firings, k: int) -> tuple[Firings, Ints]:
    """The k strongest firings of each feature, and their ranks from 0; ties go to the earlier context."""
    order = np.lexsort((firings.pos, firings.seq, -firings.value, firings.feature))
    ordered = firings.where(order)
    starts = np.flatnonzero(np.diff(ordered.feature, prepend=-1))
    rank = np.arange(len(ordered)) - np.repeat(starts, np.diff(starts, append=len(ordered)))
    keep = rank < k
    return ordered.where(keep), rank[keep].astype(np.int32)


class FeatureStatistics:
    """Running statistics of one site's features, over every counted position: zeros in, position 0 out."""

    def __init__(self, d_sae: int) -> None:
        self.positions = 0
        self.n_active = np.zeros(d_sae, np.int64)
        self.total = np.zeros(d_sae, np.float64)
        self.maximum = np.zeros(d_sae, np.float32)

    def add(self, firings: Firings, positions: int) -> None:
        """Count one shard: its non-zero activations, and how many positions it covers."""
        size = len(self.n_active)
        self.positions += positions
        self.n_active += np.bincount(firings.feature, minlength=size)
        self.total += np.bincount(firings.feature, weights=firings.value, minlength=size)
        np.maximum.at(self.maximum, firings.feature, firings.value)

    @property
    def density(self) -> Floats:
        """Share of the counted positions at which a feature fires."""
        return (self.n_active / max(self.positions, 1)).astype(np.float32)

    @property
    def mean(self) -> Floats:
        """Mean activation over the counted positions, zeros in."""
        return (self.total / max(self.positions, 1)).astype(np.float32)


def choose_contexts(firings: Firings, feature: FeatureId, *, cap: int, seed: int, whole: bool) -> Firings:
    """The contexts at which one feature is ablated, in order of (seq, pos).

    With m its maximum activation, the candidates are the contexts with activation in [m/2, m] (Cunningham et al.
    2023); of more than `cap`, a random choice keyed by (seed, feature). With `whole`, a context is a sequence in which
    the feature fires at all: pos is −1, the activation the largest one in the sequence.

    Args:
        firings: All firings of this feature, and of no other.
        feature: Which it is.
        cap: Contexts to keep at most.
        seed: Of the random choice.
        whole: For edits of whole sequences.
    """
    if not len(firings):
        return firings
    ordered = in_order(firings)
    if whole:
        _, first = np.unique(ordered.seq, return_index=True)
        strongest = np.maximum.reduceat(ordered.value, first)
        candidates = Firings(ordered.seq[first], np.full(len(first), -1, np.int32), ordered.feature[first], strongest)
    else:
        candidates = ordered.where(ordered.value >= ordered.value.max() / 2)
    if len(candidates) <= cap:
        return candidates
    drawn = generator(seed, feature, PURPOSE_CONTEXTS).choice(len(candidates), size=cap, replace=False)
    return candidates.where(np.sort(drawn))
