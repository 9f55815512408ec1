"""What a pass over one sequence is read for: one number of each row, of the next token at some positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from circuitcli.core.attribution.metric import Metric
from circuitcli.core.model import Model

_VALUES = 2**24  # logits that are held at once


@runtime_checkable
class Reading(Protocol):
    """One number of each row."""

    @property
    def unit(self) -> str:
        """Of that number."""
        ...

    def of(self, model: Model, final: Float[Tensor, "b t d"], clean: Float[Tensor, "t d"]) -> Float[Tensor, " b"]:
        """The number of each row. Gradients pass.

        Args:
            model: Whose head is asked.
            final: The stream after the last block.
            clean: The same of the model as it is.
        """
        ...


@dataclass(frozen=True)
class Next:
    """The metric of what comes next, at the last position: see `core.attribution.metric`."""

    metric: Metric

    @property
    def unit(self) -> str:
        """Nats or logits."""
        return self.metric.unit

    def of(self, model: Model, final: Float[Tensor, "b t d"], clean: Float[Tensor, "t d"]) -> Float[Tensor, " b"]:
        """The metric of each row."""
        return self.metric.of(model.logits(final[:, -1]))


@dataclass(frozen=True)
class Following:
    """Σ log p(the token that follows), in nats, over some positions; or its mean over them.

    Attributes:
        at: Positions, at least one, none of them the last.
        tokens: The tokens that follow there.
        mean: Whether it is the mean over them, in place of the sum.
    """

    at: tuple[int, ...]
    tokens: tuple[int, ...]
    mean: bool

    @property
    def unit(self) -> str:
        """Nats, a token or together."""
        return "nats a token" if self.mean else "nats"

    def of(self, model: Model, final: Float[Tensor, "b t d"], clean: Float[Tensor, "t d"]) -> Float[Tensor, " b"]:
        """The sum or mean of each row."""
        following = torch.tensor(self.tokens, device=final.device)

        def said(part: Float[Tensor, "n p d"]) -> Float[Tensor, " n"]:
            logits = model.logits(part.flatten(0, 1)).view(*part.shape[:2], -1)
            found = logits.gather(-1, following.expand(len(part), -1).unsqueeze(-1)).squeeze(-1)
            each = found - logits.logsumexp(-1)
            return each.mean(-1) if self.mean else each.sum(-1)

        return _by_rows(model, final[:, list(self.at)], said)


@dataclass(frozen=True)
class Divergence:
    """−KL(p of the model as it is ‖ p now), in nats, mean over some positions: 0 of the model itself."""

    at: tuple[int, ...]

    @property
    def unit(self) -> str:
        """Nats a token."""
        return "nats a token"

    def of(self, model: Model, final: Float[Tensor, "b t d"], clean: Float[Tensor, "t d"]) -> Float[Tensor, " b"]:
        """The divergence of each row, negated."""
        at = list(self.at)
        before = model.logits(clean[at]).log_softmax(-1)

        def said(part: Float[Tensor, "n p d"]) -> Float[Tensor, " n"]:
            now = model.logits(part.flatten(0, 1)).view(*part.shape[:2], -1).log_softmax(-1)
            return (before.exp() * (now - before)).sum(-1).mean(-1)

        return _by_rows(model, final[:, at], said)


def _by_rows(model: Model, streams: Float[Tensor, "b p d"], said: _Said) -> Float[Tensor, " b"]:
    """A few rows at a time, so that few logits are held."""
    rows = max(1, _VALUES // max(1, streams.shape[1] * model.shape.d_vocab))
    return torch.cat([said(part) for part in streams.split(rows)])


class _Said(Protocol):
    def __call__(self, part: Float[Tensor, "n p d"], /) -> Float[Tensor, " n"]: ...
