"""How good estimates of effects are: from the exact values of a sample, weighted by how it was drawn.

Measures are those of `concordance`; each has the 95% interval of a percentile bootstrap (Efron 1979).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import numpy as np

from circuitcli.core.attributed import Calibration, Measure, Method
from circuitcli.core.concordance import Pairs
from circuitcli.core.seeding import PURPOSE_BOOTSTRAP
from circuitcli.core.untrusted import LARGEST

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Float, Shaped

    Floats = Float[np.ndarray, " n"]
    Weights = Float[np.ndarray, "r n"]

RESAMPLES = 500
LEAST_RESAMPLES = 100  # of very many items, whose intervals are narrow and would take minutes
FEWEST = 5  # items, or prompts, of an interval
_DRAWN = 4_000_000  # items drawn in all resamples, where that isn't fewer
_VALUES = 2**17  # weights that are held at once: what is made of them stays in the processor's cache


def kind_of(site: str) -> Literal["resid", "attention", "mlp"]:
    """What kind of site one is: estimates are better at some kinds than at others."""
    if site in ("z", "attn_out"):
        return "attention"
    return "mlp" if site in ("mlp_in", "mlp_out") else "resid"


def calibrate(
    estimate: Floats,
    exact: Floats,
    weight: Floats,
    *,
    of: Literal["nodes", "edges"],
    method: Method,
    kind: str,
    total: int,
    seed: int,
    top: int = 20,
    prompt: Shaped[np.ndarray, " n"] | None = None,
) -> Calibration:
    """What the measured items say about estimates of all of them, with 95% intervals.

    500 resamples of items (down to 100 of more than 8,000), those of one weight among themselves: they are of one
    stratum; or of whole prompts, where there are at least five. Of fewer than five items there is no interval, and
    nothing where a measure isn't defined, as a correlation with constant values isn't.

    Args:
        estimate: What the method says of each item measured.
        exact: What was measured.
        weight: How many items each stands for; above 0.
        of: Whether the items are nodes or edges.
        method: Of the estimates.
        kind: Of the items' sites: `kind_of`, or `all`.
        total: How many items the measured stand for.
        seed: Of the resampling.
        top: k of the recall; at most as many as were measured and aren't 0.
        prompt: Which prompt each item is of.
    """
    top = min(top, int(np.count_nonzero(exact)))
    found = [Measure(None)] * 5
    if len(exact):
        pairs = Pairs.of(estimate.astype(np.float64), exact.astype(np.float64), weight.astype(np.float64), top)
        found = _measures(pairs, prompt, np.random.default_rng([seed, PURPOSE_BOOTSTRAP]))
    pearson, spearman, sign, slope, recall = found
    return Calibration(of, method, kind, len(exact), total, pearson, spearman, sign, slope, recall, top)


def recall_by_prompt(
    estimate: Floats, exact: Floats, *, prompt: Shaped[np.ndarray, " n"], seed: int, top: int = 20
) -> Measure:
    """The share of each prompt's `top` largest |exact| that is among its `top` largest |estimate|, mean over prompts.

    All items count alike, and prompts in which all are 0 don't. The 95% interval is of 500 resamples of prompts; of
    fewer than five there is none.
    """
    found = []
    for here in (np.flatnonzero(prompt == one) for one in np.unique(prompt)):
        x, y = estimate[here].astype(np.float64), exact[here].astype(np.float64)
        pairs = Pairs.of(x, y, np.ones(len(here)), min(top, int(np.count_nonzero(y))))
        found.append(float(pairs.measures(pairs.weight[None])[0, -1]))
    each = np.asarray([recall for recall in found if np.isfinite(recall)])
    if not len(each):
        return Measure(None)
    drawn = np.random.default_rng([seed, PURPOSE_BOOTSTRAP]).integers(len(each), size=(RESAMPLES, len(each)))
    resampled = each[drawn].mean(1) if len(each) >= FEWEST else np.full(1, np.nan)
    return measure(float(each.mean()), resampled)


def _measures(pairs: Pairs, prompt: Shaped[np.ndarray, " n"] | None, random: np.random.Generator) -> list[Measure]:
    values = pairs.measures(pairs.weight[None])[0]
    resampled = np.full((1, len(values)), np.nan)
    if len(pairs.weight) >= FEWEST:
        resampled = np.concatenate([pairs.measures(part) for part in _resamples(pairs.weight, prompt, random)])
    return [measure(float(value), many) for value, many in zip(values, resampled.T, strict=True)]


def measure(value: float, resampled: Float[np.ndarray, " r"]) -> Measure:
    """A value with the interval of what it is in resamples; in some it may not be defined."""
    defined = resampled[np.isfinite(resampled)]
    if not len(defined) or not np.isfinite(value):
        return Measure(_number(value))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Measure(_number(value), _number(float(low)), _number(float(high)))


def _number(value: float) -> float | None:
    """None of what isn't defined, and of what circuit.json has no room for."""
    return value if abs(value) <= LARGEST else None


def _resamples(
    weight: Floats, prompt: Shaped[np.ndarray, " n"] | None, random: np.random.Generator
) -> Iterator[Weights]:
    """Each item's weight in resamples, in parts: as often as it was drawn, or its prompt."""
    n = len(weight)
    count = min(RESAMPLES, max(LEAST_RESAMPLES, _DRAWN // n))
    unit, stratum = np.arange(n), np.unique(weight, return_inverse=True)[1]
    if prompt is not None and len(np.unique(prompt)) >= FEWEST:
        unit = np.unique(prompt, return_inverse=True)[1]
        stratum = np.zeros(unit.max() + 1, np.int64)
    strata = [np.flatnonzero(stratum == one) for one in range(stratum.max() + 1)]
    for rows in np.array_split(np.arange(count), min(count, -(-count * n // _VALUES))):
        r = len(rows)
        times = np.empty((r, len(stratum)))
        for held in strata:
            drawn = random.integers(len(held), size=(r, len(held))) + len(held) * np.arange(r)[:, None]
            times[:, held] = np.bincount(drawn.ravel(), minlength=r * len(held)).reshape(r, -1)
        yield times.take(unit, axis=1) * weight
