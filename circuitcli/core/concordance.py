"""How well two values of the same items agree, where each item has a weight: how many it stands for.

Of items i with estimate x_i, exact value y_i and weight w_i (how many items it stands for: `strata.sample`):

    pearson   Σ w (x − x̄)(y − ȳ) / √(Σ w (x − x̄)² · Σ w (y − ȳ)²)         x̄, ȳ weighted means
    spearman  the same of mid-ranks: the weight of all smaller items, and half of that of the item and its equals
    sign      Σ w [sign x = sign y] / Σ w over items where x and y aren't both 0
    slope     Σ w x y / Σ w x²         y ≈ slope · x
    recall    the share of the k largest |y| that is among the k largest |x|, where an item counts as w items; zeros are
              among neither, and items that tie at the border are in to equal parts

With weights of 1 these are the plain ones.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Float, Int

    Floats = Float[np.ndarray, " n"]
    Weights = Float[np.ndarray, "r n"]

_ENOUGH = 8  # times the top k of a recall: in nearly every resample so many items weigh k
_CONSTANT = 1e-12  # a variance below this share of its scale is 0 but for rounding


@dataclass(frozen=True, eq=False)
class _Ranks:
    """The order of items by a value: `group` is the rank of each among the distinct values."""

    order: Int[np.ndarray, " n"]
    group: Int[np.ndarray, " n"]
    last: Int[np.ndarray, " g"]  # of each group, in `order`

    @classmethod
    def of(cls, values: Floats) -> _Ranks:
        group = np.unique(values, return_inverse=True)[1]
        return cls(np.argsort(group, kind="stable"), group, np.cumsum(np.bincount(group)) - 1)

    def spans(
        self, weights: Weights, groups: int | None = None
    ) -> tuple[Float[np.ndarray, "r g"], Float[np.ndarray, "r g"]]:
        """The weight below each of the first groups, and that up to its end."""
        last = self.last[:groups]
        until = np.cumsum(weights.take(self.order[: last[-1] + 1], axis=1), axis=1).take(last, axis=1)
        return np.concatenate([np.zeros((len(weights), 1)), until[:, :-1]], axis=1), until

    def middles(self, weights: Weights) -> Weights:
        """The mid-rank of each item, less the mean of all, which is half of the whole weight."""
        below, until = self.spans(weights)
        return np.take((below + until - until[:, -1:]) / 2, self.group, axis=1)

    def among(self, top: int, weights: Weights) -> Weights:
        """The share of each item that is among the first `top`: of few it can be more than 0."""
        below, until = self.spans(weights, _ENOUGH * top)
        if until.shape[1] < len(self.last) and until[:, -1].min() < top:
            below, until = self.spans(weights)
        part = np.divide(top - below, until - below, out=np.zeros_like(below), where=until > below)
        share, near = np.zeros_like(weights), self.order[: self.last[part.shape[1] - 1] + 1]
        share[:, near] = part.clip(0, 1).take(self.group[near], axis=1)
        return share


@dataclass(frozen=True, eq=False)
class Pairs:
    """What was measured, made ready for any weights."""

    weight: Floats
    moments: Float[np.ndarray, "n 10"]  # what is summed
    ranks: tuple[_Ranks, _Ranks]  # by estimate and by exact value
    largest: tuple[_Ranks, _Ranks]  # likewise, the largest first
    some: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]  # 1 where it isn't 0
    top: int

    @classmethod
    def of(cls, x: Floats, y: Floats, weight: Floats, top: int) -> Pairs:
        a, b = _standard(x, weight), _standard(y, weight)
        counted = (x != 0) | (y != 0)
        agree = counted & (np.sign(x) == np.sign(y))
        moments = np.stack([np.ones(len(x)), a, b, a * a, b * b, a * b, counted, agree, x * x, x * y], axis=1)
        largest = _Ranks.of(-abs(x)), _Ranks.of(-abs(y))
        return cls(weight, moments, (_Ranks.of(x), _Ranks.of(y)), largest, ((x != 0) * 1.0, (y != 0) * 1.0), top)

    def measures(self, weights: Weights) -> Float[np.ndarray, "r 5"]:
        """Pearson, Spearman, sign, slope and recall under each row of weights; NaN where one isn't defined."""
        whole, a, b, aa, bb, ab, counted, agree, xx, xy = (weights @ self.moments).T
        with np.errstate(invalid="ignore", divide="ignore"):
            a, b = a / whole, b / whole
            pearson = _correlation(ab / whole - a * b, aa / whole, aa / whole - a * a, bb / whole, bb / whole - b * b)
            return np.stack([pearson, self._spearman(weights), agree / counted, xy / xx, self._recall(weights)], axis=1)

    def _spearman(self, weights: Weights) -> Float[np.ndarray, " r"]:
        x, y = (ranks.middles(weights) for ranks in self.ranks)
        scale = weights.sum(1) ** 2
        xx, yy, xy = ((weights * one * other).sum(1) / weights.sum(1) for one, other in ((x, x), (y, y), (x, y)))
        return _correlation(xy, scale, xx, scale, yy)

    def _recall(self, weights: Weights) -> Float[np.ndarray, " r"]:
        if not self.top:
            return np.full(len(weights), np.nan)
        x, y = (ranks.among(self.top, weights) * some for ranks, some in zip(self.largest, self.some, strict=True))
        return np.asarray((weights * np.minimum(x, y)).sum(1) / (weights * y).sum(1))


def _standard(values: Floats, weight: Floats) -> Floats:
    """Values with mean 0 and variance 1; of constant ones 0, exactly."""
    if not len(values) or values.min() == values.max():
        return np.zeros(len(values))
    centred = values - np.average(values, weights=weight)
    return np.asarray(centred / np.sqrt(np.average(centred**2, weights=weight)))


def _correlation(
    covariance: Float[np.ndarray, " r"],
    scale_x: Float[np.ndarray, " r"],
    var_x: Float[np.ndarray, " r"],
    scale_y: Float[np.ndarray, " r"],
    var_y: Float[np.ndarray, " r"],
) -> Float[np.ndarray, " r"]:
    """NaN where a variance is 0, but for rounding, beside its scale."""
    defined = (var_x > _CONSTANT * scale_x) & (var_y > _CONSTANT * scale_y)
    return np.where(defined, np.clip(covariance / np.sqrt(var_x * var_y), -1, 1), np.nan)
