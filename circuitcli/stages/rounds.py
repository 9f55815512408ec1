"""How bench spends its time: in rounds, where the interval of a ratio is widest, until its budget is used up.

A *round* of a way of working times it once between two timings of the faster ways that it is compared with, one after
another, so that a machine that others use as well gives the same ratios. Rounds of two ways that follow each other
share the timings in between; two of the same way don't, for their ratios wouldn't be independent then. A ratio is the
geometric mean over rounds of a/b in each, its interval the 95% t interval of the mean of log(a/b), transformed back; of
fewer than `LEAST_PAIRS` rounds it would say nothing, and there is none. Of the ways, the next round always goes to that
with the widest interval, on the scale of logarithms.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

# So many rounds make an interval; and the half-width at which a ratio is known well enough.
LEAST_PAIRS, ENOUGH = 3, 0.01
# What takes less is repeated within one timing.
SHORTEST = 0.05
# 97.5% quantiles of Student's t by degrees of freedom, from 1.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)


@dataclass(frozen=True)
class Visit:
    """One round: a way of working, and the ways beside it that its time is compared with."""

    way: str
    beside: tuple[str, ...]


@dataclass(frozen=True)
class Ratio:
    """A ratio of times, and its 95% interval, None of too few rounds; see the module's docstring."""

    value: float
    low: float | None
    high: float | None
    rounds: int

    def __mul__(self, factor: float) -> Ratio:
        """The same in another unit."""
        low, high = (None if end is None else end * factor for end in (self.low, self.high))
        return Ratio(self.value * factor, low, high, self.rounds)

    @property
    def width(self) -> float:
        """Of the interval, on the scale of logarithms; infinite without one."""
        return math.inf if self.low is None or self.high is None else math.log(self.high / self.low)


class Clock:
    """A budget of wall time, which begins now."""

    def __init__(self, budget: float, now: Callable[[], float] = time.perf_counter) -> None:
        """A budget in seconds."""
        self.budget, self.now = budget, now
        self._start = now()

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return self.now() - self._start

    @property
    def left(self) -> float:
        """Seconds until it ends; below 0 after that."""
        return self.budget - self.spent


@dataclass
class Times:
    """Seconds of each way, one timing after another, and the pairs of each ratio, one round after another."""

    clock: Clock
    wait: Callable[[], None]
    seconds: dict[str, list[float]] = field(default_factory=dict)
    pairs: dict[tuple[str, str], list[tuple[float, float]]] = field(default_factory=dict)
    costs: dict[Visit, list[float]] = field(default_factory=dict)
    _repeats: dict[str, int] = field(default_factory=dict)
    _last: tuple[Visit, dict[str, float]] | None = None

    def round(self, visit: Visit, ways: Mapping[str, Callable[[], object]]) -> None:
        """Time a way, and before and after it those beside it, unless another way's round just ended with these."""
        start = self.clock.now()
        before = dict(self._last[1]) if self._last is not None and self._last[0] != visit else {}
        for name in visit.beside:
            if name not in before:
                before[name] = self._time(name, ways[name])
        there = self._time(visit.way, ways[visit.way])
        after = {name: self._time(name, ways[name]) for name in reversed(visit.beside)}
        for name in visit.beside:
            self.pairs.setdefault((name, visit.way), []).append(((before[name] + after[name]) / 2, there))
        self.costs.setdefault(visit, []).append(self.clock.now() - start)
        self._last = visit, after

    def _time(self, name: str, work: Callable[[], object]) -> float:
        """Seconds of one time of work; what is over at once is repeated."""
        while True:
            count = self._repeats.setdefault(name, 1)
            self.wait()
            start = self.clock.now()
            for _ in range(count):
                work()
            self.wait()
            taken = self.clock.now() - start
            if taken >= SHORTEST or name in self.seconds:
                break
            self._repeats[name] = 1 + math.ceil(count * SHORTEST / max(taken, SHORTEST / 50))
        self.seconds.setdefault(name, []).append(taken / count)
        return taken / count

    def of(self, name: str) -> float:
        """The median of a way's timings."""
        return median(self.seconds[name])

    def ratio(self, above: str, below: str) -> Ratio:
        """One way's time over another's, whichever of the two was beside the other."""
        if (above, below) in self.pairs:
            return interval([a / b for a, b in self.pairs[above, below]])
        return interval([b / a for a, b in self.pairs[below, above]])


def interval(ratios: Sequence[float]) -> Ratio:
    """The geometric mean of ratios and its 95% t interval, if they are enough for one."""
    logs = np.log(np.asarray(ratios, dtype=np.float64))
    mean = float(logs.mean())
    if len(logs) < LEAST_PAIRS:
        return Ratio(math.exp(mean), None, None, len(logs))
    free = len(logs) - 1
    t = _T[free - 1] if free <= len(_T) else 1.96 + 2.4 / free
    half = t * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(logs))


def spend(
    times: Times,
    visits: Sequence[Visit],
    ways: Mapping[str, Callable[[], object]],
    done: Callable[[int], None] = lambda seconds: None,
) -> None:
    """A round of all visits, then of the one with the widest interval, until the clock has no time for another.

    `done` is told of each whole second of the budget that was spent.
    """
    told = 0

    def tell() -> None:
        nonlocal told
        now = min(int(times.clock.spent), int(times.clock.budget))
        done(max(now - told, 0))
        told = max(now, told)

    for visit in visits:
        if visit not in times.costs:
            times.round(visit, ways)
            tell()
    while True:
        widths = {visit: _width(times, visit) for visit in visits}
        affordable = [visit for visit in visits if max(times.costs[visit]) <= times.clock.left]
        widest = max(affordable, key=lambda visit: (widths[visit], -len(times.costs[visit])), default=None)
        if widest is None or widths[widest] <= 2 * ENOUGH:
            return
        times.round(widest, ways)
        tell()


def _width(times: Times, visit: Visit) -> float:
    return max(times.ratio(name, visit.way).width for name in visit.beside)
