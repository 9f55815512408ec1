"""A sample of nodes that says something about all of them: the largest for certain, of the rest some from every size.

Effects are heavy-tailed, so that of a plain random sample nearly all are next to nothing. Here the rest is cut into
strata by size, each stratum gives about as many, and each that was drawn stands for `weight` of its stratum: a weighted
sum over the sample is an unbiased estimate of the sum over all (Horvitz & Thompson 1952).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.core.seeding import PURPOSE_CALIBRATION

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Float, Int

STRATA = 5  # of a sample, beside that of zeros
_BINS = 128  # of log size


@dataclass(frozen=True, eq=False)
class StratifiedSample:
    """Which items were drawn, in ascending order, and how many of all each stands for."""

    index: Int[np.ndarray, " s"]
    weight: Float[np.ndarray, " s"]


def strata(size: Float[np.ndarray, " n"], count: int) -> Int[np.ndarray, " n"]:
    """The stratum of each item by size: 0 where it is 0, then 1 to at most `count`, the smallest first.

    Borders divide the cumulative √frequency of log size evenly (Dalenius & Hodges 1959): between quantiles, of which
    those of the small take nearly all draws, and equal widths, of which the outer ones hold next to nothing. Equal
    sizes share a stratum, and none is empty.

    Args:
        size: Sizes, none below 0.
        count: How many strata of sizes above 0 there are at most; at least 1.
    """
    found = np.zeros(len(size), np.int64)
    some = size > 0
    if some.any():
        log = np.log(size[some].astype(np.float64))
        low, high = log.min(), log.max()
        place = (log - low) / (high - low) if high > low else np.zeros(len(log))
        each = np.minimum((place * _BINS).astype(np.int64), _BINS - 1)
        root = np.sqrt(np.bincount(each, minlength=_BINS))
        reached = np.cumsum(root)
        stratum = ((reached - root / 2) / reached[-1] * count).astype(np.int64)  # where the bin's middle lies
        found[some] = 1 + np.unique(stratum[each], return_inverse=True)[1]
    return found


def sample(size: Float[np.ndarray, " n"], certain: int, more: int, seed: int) -> StratifiedSample:
    """The `certain` largest, each with weight 1, and `more` of the rest, drawn at random from strata by size.

    Each stratum gives about the same number, or all that it has; what was drawn of it weighs (held by it) / (drawn from
    it). Where n ≤ certain + more all are taken, with weight 1. Without `more` the rest goes unseen.

    Args:
        size: |estimate| of each item.
        certain: How many of the largest; of equal ones the first.
        more: How many others.
        seed: The same one draws the same.
    """
    n = len(size)
    if n <= certain + more:
        return StratifiedSample(np.arange(n), np.ones(n))
    order = np.argsort(-size, kind="stable")
    rest = np.sort(order[certain:])
    # Each stratum has to give one at least, for the others in it to be stood for.
    stratum = strata(size[rest], min(STRATA, more - 1)) if more > 1 else np.zeros(len(rest), np.int64)
    held = np.bincount(stratum)
    taken = _evenly(held, more)
    lot = np.random.default_rng([seed, PURPOSE_CALIBRATION]).random(n)[rest]
    by_lot = np.lexsort((lot, stratum))
    place = np.empty(len(rest), np.int64)  # of each item's lot within its stratum
    place[by_lot] = np.arange(len(rest)) - (np.cumsum(held) - held)[stratum[by_lot]]
    drawn = place < taken[stratum]
    index = np.concatenate([order[:certain], rest[drawn]])
    weight = np.concatenate([np.ones(certain), held[stratum[drawn]] / taken[stratum[drawn]]])
    ascending = np.argsort(index)
    return StratifiedSample(index[ascending], weight[ascending])


def _evenly(held: Int[np.ndarray, " k"], count: int) -> Int[np.ndarray, " k"]:
    """`count` divided as evenly as what each stratum holds allows; it is at most what all hold."""
    taken = np.zeros_like(held)
    for done, stratum in enumerate(np.argsort(held, kind="stable")):
        taken[stratum] = min(held[stratum], (count - taken.sum()) // (len(held) - done))
    return taken
