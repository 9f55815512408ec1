"""Mean effects, their bootstrap intervals, and what a feature does to the next token."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.core.seeding import PURPOSE_BOOTSTRAP, generator
from circuitcli.core.sites import FeatureId

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Float, Int

RESAMPLES = 1000
_CHUNK = 2048  # downstream features whose resampled means are held at once


@dataclass(frozen=True, eq=False)
class MeanEffects:
    """Effects of one feature on K others; `ci_low` and `ci_high` are NaN where there is no interval."""

    mean: Float[np.ndarray, " k"]
    std: Float[np.ndarray, " k"]
    ci_low: Float[np.ndarray, " k"]
    ci_high: Float[np.ndarray, " k"]


def mean_effects(
    context: Int[np.ndarray, " m"],
    target: Int[np.ndarray, " m"],
    effect: Float[np.ndarray, " m"],
    sequences: Int[np.ndarray, " n"],
    n_targets: int,
    *,
    seed: int,
    feature: FeatureId,
) -> MeanEffects:
    """Mean of ablated − clean over all n contexts of a feature; contexts without an entry count 0.

    The interval is a 95% percentile bootstrap over sequences (not contexts, which share their sequence's text):
    Σ_s w_s·(sum of effects in s) / Σ_s w_s·(contexts in s), w multinomial, 1,000 times (Efron 1979; cluster bootstrap).
    It is NaN, as the standard deviation is, when there are fewer than two contexts, and when all lie in one sequence.
    Of a context that was read at several positions the effects on one target add up.

    Args:
        context: Index into the contexts, one for each stored change.
        target: Index of the target, 0 … n_targets − 1.
        effect: ablated − clean.
        sequences: Sequence of each of the feature's contexts.
        n_targets: K.
        seed: Of the resampling, which is keyed by (seed, feature).
        feature: The feature that was ablated.
    """
    n = len(sequences)
    pairs, pair = np.unique(context.astype(np.int64) * max(n_targets, 1) + target, return_inverse=True)
    context, target = np.divmod(pairs, max(n_targets, 1))
    effect = np.bincount(pair, weights=effect, minlength=len(pairs))
    total = np.bincount(target, weights=effect, minlength=n_targets)
    mean = total / n
    nothing = np.full(n_targets, np.nan)
    if n < 2:
        return MeanEffects(mean, nothing, nothing, nothing)
    deviations = np.bincount(target, weights=(effect - mean[target]) ** 2, minlength=n_targets)
    unchanged = n - np.bincount(target, minlength=n_targets)
    std = np.sqrt((deviations + unchanged * mean**2) / (n - 1))
    names, cluster = np.unique(sequences, return_inverse=True)
    if len(names) < 2:
        return MeanEffects(mean, std, nothing, nothing)
    weights = generator(seed, feature, PURPOSE_BOOTSTRAP).multinomial(
        len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES
    )
    flat = np.bincount(cluster[context] * n_targets + target, weights=effect, minlength=len(names) * n_targets)
    sums = flat.astype(np.float64).reshape(len(names), n_targets)  # of an empty array bincount makes integers
    low, high = _percentiles(weights.astype(np.float64), sums, np.bincount(cluster).astype(np.float64))
    return MeanEffects(mean, std, low, high)


def _percentiles(
    weights: Float[np.ndarray, "r s"], sums: Float[np.ndarray, "s k"], counts: Float[np.ndarray, " s"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    low, high = np.empty(sums.shape[1]), np.empty(sums.shape[1])
    contexts = weights @ counts
    for start in range(0, sums.shape[1], _CHUNK):
        part = slice(start, start + _CHUNK)
        means = sums[:, part].T @ weights.T  # a row for each target, which percentiles are taken of where it lies
        means /= contexts
        low[part], high[part] = np.percentile(means, [2.5, 97.5], axis=1, overwrite_input=True)
    return low, high
