"""Estimates of nodes' effects by gradients.

    atp     ∂m/∂x · δ                         x where the node writes; total, through all that follows
    relp    the same under other rules of the pass back (`core.model.RELP`)
    ig      1/n Σ_k ∂m/∂x at x + α_k·Δ · δ    α_k = (k + ½)/n; Δ = Σ δ of all nodes of the site: the midpoint rule on
                                              the way from the clean activations of a site to its baseline

One pass forward and one back serve all nodes of a prompt; of `ig` n for each site.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitcli.core.attribution.metric import Metric
from circuitcli.core.attribution.parts import Source
from circuitcli.core.edits import adding, in_turn, watching
from circuitcli.core.model import Model
from circuitcli.core.sites import Site
from circuitcli.errors import InputError


def gradients(
    model: Model, tokens: Int[Tensor, " t"], sites: Sequence[Site], metric: Metric
) -> tuple[dict[Site, Float[Tensor, "t _"]], Float[Tensor, " d"]]:
    """∂m/∂x at each site, total, and ∂m/∂(the last stream at the last position).

    Raises:
        InputError: One isn't finite, or can't be had of this model.
    """
    seen: dict[Site, Tensor] = {}
    with torch.enable_grad():
        run = model.run(tokens.unsqueeze(0), [], final=True, edits=watching(sites, seen))
        assert run.final is not None
        value = metric.of(model.logits(run.final[:, -1]))
        order = sorted(seen, key=lambda site: site.order)
        found = _grad(value, [*(seen[site] for site in order), run.final])
    return {site: grad[0].float() for site, grad in zip(order, found, strict=False)}, found[-1][0, -1].float()


def integrated(
    model: Model, tokens: Int[Tensor, " t"], source: Source, metric: Metric, *, steps: int, at_once: int
) -> Float[Tensor, "t d"]:
    """The mean of ∂m/∂x at a source's site on the way from the clean pass to that where all its nodes are replaced.

    Args:
        model: The model.
        tokens: The prompt.
        source: All nodes of the site.
        metric: m.
        steps: n.
        at_once: Most of them that are run together.

    Raises:
        InputError: A gradient isn't finite.
    """
    total = source.total(len(tokens))
    mean = torch.zeros_like(total)
    alphas = (torch.arange(steps, device=total.device) + 0.5) / steps
    for alpha in alphas.split(at_once):
        seen: dict[Site, Tensor] = {}
        edits = in_turn(adding(source.site, alpha.view(-1, 1, 1) * total), watching([source.site], seen))
        with torch.enable_grad():
            run = model.run(tokens.expand(len(alpha), -1), [], final=True, edits=edits)
            assert run.final is not None
            value = metric.of(model.logits(run.final[:, -1])).sum()
            (grad,) = _grad(value, [seen[source.site]])
        mean += grad.float().sum(0) / steps
    return mean


def estimated(sources: Sequence[Source], gradient: Mapping[Site, Float[Tensor, "t _"]]) -> list[Float[Tensor, " n"]]:
    """∂m/∂x·δ of every node, source by source."""
    return [(gradient[source.site][source.pos] * source.delta).sum(-1) for source in sources]


def _grad(value: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if not value.requires_grad:
        raise InputError(
            "No gradient can be had of this model, and attribution needs one.",
            hint="Choose a model that docs/models-and-text.md lists, or use `circuit ablate`, which needs none.",
        )
    found = torch.autograd.grad(value.sum(), inputs)
    require_finite(found)
    return found


def require_finite(gradients: Sequence[Tensor | None]) -> None:
    """Refuse infinities and what isn't a number, of those that there are.

    Raises:
        InputError: There is such a one.
    """
    if not all(grad is None or bool(grad.isfinite().all()) for grad in gradients):
        raise InputError(
            "A gradient of the metric isn't finite.",
            hint="Use --dtype float32: float16 ends at 65,504.",
        )
