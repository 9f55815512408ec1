"""The metric m: what a question is measured by, of the next token's logits.

target                log p(target), nats
target and against    logit(target) − logit(against), logits
centred               logit(target) − the mean of all logits, logits
a mean of several     Σ w_k · the metric of each, Σ w_k = 1
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

Weighted = list[tuple["Metric", float]]


@dataclass(frozen=True)
class Metric:
    """m of rows of logits.

    Attributes:
        target: The token that is asked about.
        against: The token that it is held against; None: all others.
        centred: Whether it is the target's logit less the mean of all, where it is held against all others.
    """

    target: int
    against: int | None = None
    centred: bool = False

    @property
    def weighted(self) -> Weighted:
        """What it is a mean of: itself."""
        return [(self, 1.0)]

    @property
    def unit(self) -> str:
        """Of m."""
        return "nats" if self.against is None and not self.centred else "logits"

    def of(self, logits: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
        """The metric of each row. Gradients pass."""
        if self.against is None and self.centred:
            return logits[:, self.target] - logits.mean(-1)
        if self.against is None:
            return logits[:, self.target] - logits.logsumexp(-1)
        return logits[:, self.target] - logits[:, self.against]


@dataclass(frozen=True)
class MeanMetric:
    """m of rows of logits: the mean of several metrics.

    Attributes:
        parts: The metrics, of one unit.
        weights: What each counts, with a sum of 1.
    """

    parts: tuple[Metric, ...]
    weights: tuple[float, ...]

    @classmethod
    def of_tokens(cls, ids: Int[Tensor, " k"], probs: Float[Tensor, " k"]) -> MeanMetric:
        """Of the logits of some tokens less the mean of all logits, where each counts p_k / Σ p."""
        shares = probs.double() / probs.double().sum()
        return cls(tuple(Metric(one, centred=True) for one in ids.tolist()), tuple(shares.tolist()))

    @property
    def weighted(self) -> Weighted:
        """Each metric, and what it counts."""
        return list(zip(self.parts, self.weights, strict=True))

    @property
    def target(self) -> int:
        """The first part's."""
        return self.parts[0].target

    @property
    def against(self) -> None:
        """Nothing: all others."""
        return

    @property
    def unit(self) -> str:
        """Of m."""
        return self.parts[0].unit

    def of(self, logits: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
        """The metric of each row. Gradients pass."""
        return torch.stack([weight * part.of(logits) for part, weight in self.weighted]).sum(0)


# What a question is measured by.
AnyMetric = Metric | MeanMetric


def likeliest(probs: Float[Tensor, " v"], share: float = 0.95, most: int = 10) -> Int[Tensor, " k"]:
    """The fewest likeliest tokens that have a share of all probability together, at most so many."""
    top, ids = probs.topk(min(most, len(probs)))
    return ids[: int((top.cumsum(0) < share).sum()) + 1]


def of_likeliest(logits: Float[Tensor, " v"], most: int, *, centred: bool) -> AnyMetric:
    """That of the likeliest next token, or, `centred`, of the likeliest ones; see `likeliest`."""
    if most == 1:
        return Metric(int(logits.argmax()), centred=centred)
    assert centred, "a log-probability is of one token"
    probs = logits.softmax(-1)
    ids = likeliest(probs, most=most)
    return MeanMetric.of_tokens(ids, probs[ids]) if len(ids) > 1 else Metric(int(ids[0]), centred=True)
