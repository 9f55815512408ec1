"""Whether the model needs a feature v: what it loses without it, what v does alone, and where v ranks among others.

Of the examples of one half, the dictionaries' errors kept and all other features as they are by then:

    drop     mean m(M) − mean m(M∖v)
    share    drop / (mean m(M) − mean m(∅))
    alone    f({v})

and of measured effects m(M∖v) − m(M), averaged over any examples, the rank of v's size: 1 of the largest.

    needed       the interval of the drop is above 0, and q < .05
    against      the interval is below 0, and q < .05: m is higher without v
    not needed   the whole interval of the share is within ±.05, whichever side of 0 it is on
    unclear      none of these: the examples are too few, or too unlike, to tell
    silent       v fires on none of the examples, which so say nothing of it
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from circuitcli.core.attributed import Measure
from circuitcli.core.evidence.faithfulness import SIGNIFICANT, Scale, false_discovery, measured, sign_flip

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Float, Int

LITTLE = 0.05  # a share of m(M) − m(∅) below which a feature isn't needed
TOP = 10  # ranks that count as among the strongest
Verdict = Literal["needed", "against", "not needed", "unclear", "silent"]


@dataclass(frozen=True)
class Audited:
    """One feature on the examples of one half.

    Attributes:
        verdict: See above.
        examples, fires: How many there are, and on how many of them it fires at a position that counts.
        activation: The mean of its activation where it fires, SAE units; None where it doesn't.
        drop: In the metric's unit.
        share, alone: Not defined where m(M) = m(∅).
        p: Of the drop being 0, by flips of signs over examples; None of a feature that doesn't fire.
        q: The same for all audited features together (Benjamini and Hochberg).
    """

    verdict: Verdict
    examples: int
    fires: int
    activation: float | None
    drop: Measure
    share: Measure
    p: float | None
    q: float | None
    alone: Measure


@dataclass(frozen=True)
class Ranks:
    """The ranks of one feature on random halves of all examples.

    Attributes:
        halves: How many there are.
        among: So many measured features, itself counted.
        best, median, worst: Its ranks.
        first, top: In how many halves it is first, and among the ten strongest.
    """

    halves: int
    among: int
    best: int
    median: float
    worst: int
    first: int
    top: int


def audited(
    scale: Scale,
    without: Float[np.ndarray, "k e"],
    alone: Float[np.ndarray, "k e"],
    fires: Int[np.ndarray, "k e"],
    activation: Float[np.ndarray, "k e"],
) -> list[Audited]:
    """What is found of each of k features.

    Args:
        scale: Of the examples, errors kept.
        without: m(M∖v).
        alone: m({v}).
        fires: At how many positions that count it fires.
        activation: The sum of its activation there.
    """
    there = np.asarray((fires > 0).any(1))
    p = np.full(len(without), np.nan)
    p[there] = sign_flip(scale.everything - without[there], scale.seed)
    q = p.copy()
    q[there] = false_discovery(p[there])
    share = scale.marginal(scale.everything, without)
    found = []
    for i, lacking in enumerate(without):
        drop = measured(scale.times @ (scale.everything - lacking) / len(lacking))
        measures = drop, measured(share[:, i])
        found.append(
            Audited(
                verdict=_verdict(*measures, float(q[i]), doubtful=scale.doubtful) if there[i] else "silent",
                examples=len(lacking),
                fires=int((fires[i] > 0).sum()),
                activation=float(activation[i].sum() / fires[i].sum()) if there[i] else None,
                drop=drop,
                share=measures[1],
                p=float(p[i]) if there[i] else None,
                q=float(q[i]) if there[i] else None,
                alone=measured(scale.faithfulness(alone[i][None])),
            )
        )
    return found


def ranked_on(own: Float[np.ndarray, " h"], others: Float[np.ndarray, "h k"]) -> Int[np.ndarray, " h"]:
    """The rank of a feature's |mean effect| on each of h halves among its own and others'; of equal ones the last."""
    return np.asarray(1 + (abs(others) >= abs(own)[:, None]).sum(1))


def ranks(found: Int[np.ndarray, " h"], among: int) -> Ranks:
    """What ranks on halves come to, of so many features."""
    return Ranks(
        halves=len(found),
        among=among,
        best=int(found.min()),
        median=float(np.median(found)),
        worst=int(found.max()),
        first=int((found == 1).sum()),
        top=int((found <= TOP).sum()),
    )


def _verdict(drop: Measure, share: Measure, q: float, *, doubtful: bool) -> Verdict:
    """Of a feature that fires. Where the model can't be told from nothing, no share is little of anything."""
    ends = (share.low, share.high)
    if not doubtful and all(end is not None and abs(end) < LITTLE for end in ends):
        return "not needed"
    if q < SIGNIFICANT and drop.low is not None and drop.low > 0:
        return "needed"
    if q < SIGNIFICANT and drop.high is not None and drop.high < 0:
        return "against"
    return "unclear"
