"""Estimates of nodes' effects by gradients.

    atp     ∂m/∂x · δ                         x where the node writes (the sum over several sites); total, through
                                              all that follows
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

from circuitcli.core.attribution.metric import AnyMetric
from circuitcli.core.attribution.parts import Source
from circuitcli.core.edits import adding_all, in_turn, watching
from circuitcli.core.model import Model
from circuitcli.core.sites import Site
from circuitcli.errors import InputError


def gradients(
    model: Model, tokens: Int[Tensor, " t"], sites: Sequence[Site], metric: AnyMetric
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
    model: Model, tokens: Int[Tensor, " t"], nodes: Sequence[Source], metric: AnyMetric, *, steps: int, at_once: int
) -> dict[Site, Float[Tensor, "t _"]]:
    """The mean of ∂m/∂x where nodes are edited, on the way from the clean pass to that where all of them are replaced.

    Args:
        model: The model.
        tokens: The prompt.
        nodes: All that begin at one site.
        metric: m.
        steps: n.
        at_once: Most of them that are run together.

    Raises:
        InputError: A gradient isn't finite.
    """
    totals: dict[Site, Tensor] = {}
    for one in nodes:
        for site, total in one.total(len(tokens)).items():
            totals[site] = totals[site] + total if site in totals else total
    mean = {site: torch.zeros_like(total) for site, total in totals.items()}
    alphas = (torch.arange(steps, device=tokens.device) + 0.5) / steps
    for alpha in alphas.split(at_once):
        seen: dict[Site, Tensor] = {}
        moved = {site: alpha.view(-1, 1, 1) * total for site, total in totals.items()}
        edits = in_turn(adding_all(moved), watching(list(totals), seen))
        with torch.enable_grad():
            run = model.run(tokens.expand(len(alpha), -1), [], final=True, edits=edits)
            assert run.final is not None
            value = metric.of(model.logits(run.final[:, -1])).sum()
            found = _grad(value, [seen[site] for site in mean])
        for site, grad in zip(mean, found, strict=True):
            mean[site] += grad.float().sum(0) / steps
    return mean


def estimated(sources: Sequence[Source], gradient: Mapping[Site, Float[Tensor, "t _"]]) -> list[Float[Tensor, " n"]]:
    """∂m/∂x·δ of every node, source by source."""
    return [source.weight(gradient) * source.by for source in sources]


def _grad(value: Tensor, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    if not value.requires_grad:
        raise InputError(
            "No gradient can be had of this model, and attribution needs one.",
            hint="Choose a model that docs/models-and-text.md lists, or use `circuit ablate`, which needs none.",
        )
    found = torch.autograd.grad(value.sum(), inputs)
    require_finite(found)
    return found


def backwards(outputs: Sequence[Tensor], inputs: Sequence[Tensor], cotangents: Sequence[Tensor]) -> list[Tensor | None]:
    """Products of cotangents with Jacobians, of a graph that stays; None of inputs that no output depends on.

    Raises:
        InputError: One isn't finite.
    """
    if not outputs:
        return [None] * len(inputs)
    found = torch.autograd.grad(outputs, inputs, cotangents, retain_graph=True, allow_unused=True)
    require_finite(found)
    return list(found)


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
