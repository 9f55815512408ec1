"""The metric m: what a question is measured by, of the next token's logits.

target                log p(target), nats
target and against    logit(target) − logit(against), logits
centred               logit(target) − the mean of all logits, logits
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


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
