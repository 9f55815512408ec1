"""The local replacement model of a prompt: transcoders in place of MLPs, and all else as it was on the clean pass.

    y = Σ_j a_j d_j + W_skip x + (b_dec + e)     where an MLP gave y: what is in brackets is a constant
    a_j = k_j·x + (what it was − k_j·x clean)    of the features that fire; others stay at 0

Attention patterns and norms' scales are constants too, so that all of it is linear in its nodes: features, errors, the
tokens' embeddings. What a node u adds to a node d by no way through a third feature is

    A[d, u] = k_d · ∂x/∂y · u's own vector       in units of d: of its activation, or logits of a target

and an edge u → d is −A[d, u]: what leaving u out does to d. A target is a logit less the mean of all logits, before
what the head caps. Positions that don't count, the first among them, have no features and no errors: there the MLP's
output is a constant, but for the skip connection. Their tokens are nodes as well.

Ameisen et al. 2025, "Circuit Tracing"; that graphs are equal to circuit-tracer's is tested against it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitcli.core.attribution.edges import read_elsewhere, written
from circuitcli.core.attribution.gradients import backwards, require_finite
from circuitcli.core.attribution.metric import AnyMetric, Metric
from circuitcli.core.attribution.parts import BOTTOM, Errors, Features, Source, Tokens
from circuitcli.core.edits import Change, Edits, in_turn, noting, watching
from circuitcli.core.model import FROZEN, Model, Pass
from circuitcli.core.sites import Site


class Targets(NamedTuple):
    """The next tokens that are explained.

    Attributes:
        ids: Of their tokens, the likeliest first.
        probs: Their probabilities.
        rows: ∂(logit − mean logit)/∂(the last stream at the last position) of each.
    """

    ids: Int[Tensor, " k"]
    probs: Float[Tensor, " k"]
    rows: Float[Tensor, "k d"]


def targets(model: Model, tokens: Int[Tensor, " t"], metrics: Sequence[Metric], probs: Float[Tensor, " k"]) -> Targets:
    """What is explained, as directions of the last stream: of metrics that are linear in the logits."""
    with model.fixed(tokens.unsqueeze(0), FROZEN):
        run = model.run(tokens.unsqueeze(0), [], final=True)
        assert run.final is not None
        with torch.enable_grad():
            stream = run.final[0, -1].detach().requires_grad_()
            logits = model.unembedded(stream.unsqueeze(0))
            rows = [torch.autograd.grad(one.of(logits).sum(), stream, retain_graph=True)[0].float() for one in metrics]
    require_finite(rows)
    ids = torch.tensor([one.target for one in metrics], device=tokens.device)
    return Targets(ids, probs, torch.stack(rows))


@dataclass(frozen=True, eq=False)
class _Run:
    """A pass of the replacement model, with what gradients are had of: where nodes are, and what is led to."""

    run: Pass
    behind: Mapping[Site, Tensor]  # what goes on from where dictionaries write
    bottom: Tensor


def _passing(model: Model, tokens: Int[Tensor, "b t"], sources: Sequence[Source], *, through_features: bool) -> _Run:
    """Run with MLPs' outputs as constants, but for skip connections, and for features if gradients go through these."""
    behind: dict[Site, Tensor] = {}
    bottom: dict[Site, Tensor] = {}
    read: dict[Site, Tensor] = {}
    skips = {one.site: one.skip for one in sources if isinstance(one, Errors) and one.skip is not None}
    features = [one for one in sources if isinstance(one, Features)] if through_features else []
    reads = sorted({*(one.reads for one in skips.values()), *(one.reads for one in features)}, key=lambda s: s.order)

    def standing(site: Site) -> Change:
        def stands(x: Tensor) -> Tensor:
            found = x.detach()
            if site in skips:
                found = found + (skips[site].of(read[skips[site].reads]) - skips[site].clean).to(x.dtype)
            for one in features:
                if site in one.rows:
                    found = found.index_add(1, one.pos, _change(one, read[one.reads])[..., None] * one.rows[site])
            behind[site] = found if found.requires_grad else found.requires_grad_()
            return behind[site]

        return stands

    edits: Edits = {site: standing(site) for site in written(sources)}
    with torch.enable_grad():
        edits = in_turn(watching([BOTTOM], bottom), noting(reads, read), edits)
        run = model.run(tokens, read_elsewhere(sources), final=True, edits=edits)
    return _Run(run, behind, bottom[BOTTOM])


def _change(features: Features, x: Float[Tensor, "b t r"]) -> Float[Tensor, "b n"]:
    """By how much features' activations change where x does: 0 on a clean pass, for its gradient."""
    moved = x[:, features.pos].float() - x[:, features.pos].detach().float()
    return (moved * features.encoder).sum(-1)


def gradients(
    model: Model, tokens: Int[Tensor, " t"], sources: Sequence[Source], metric: AnyMetric
) -> tuple[dict[Site, Float[Tensor, "t _"]], Float[Tensor, " d"]]:
    """∂m/∂x in the replacement model where its nodes are, total: through all features behind; m linear in logits.

    And ∂m/∂(the last stream at the last position).
    """
    with model.fixed(tokens.unsqueeze(0), FROZEN):
        made = _passing(model, tokens.unsqueeze(0), sources, through_features=True)
        assert made.run.final is not None
        with torch.enable_grad():
            value = metric.of(model.unembedded(made.run.final[:, -1])).sum()
    sites = {BOTTOM: made.bottom, **made.behind}
    *found, last = torch.autograd.grad(value, [*sites.values(), made.run.final])
    require_finite([*found, last])
    return {site: grad[0].float() for site, grad in zip(sites, found, strict=True)}, last[0, -1].float()


class Rows:
    """Rows of −A: what leaving out each node does to some of them, or to targets."""

    def __init__(
        self, model: Model, tokens: Int[Tensor, " t"], sources: Sequence[Source], given: Targets, at_once: int
    ) -> None:
        """Run the prompt in so many rows.

        Args:
            model: The model; its constants are held by whoever asks, as long as rows are asked for.
            tokens: The prompt.
            sources: All nodes, in the model's order.
            given: The targets.
            at_once: Most rows of one pass back.
        """
        self.at_once, self._sources, self._given = at_once, sources, given
        self._made = _passing(model, tokens.expand(at_once, -1), sources, through_features=False)
        ends = torch.tensor([0, *map(len, sources)]).cumsum(0)
        self.starts: list[int] = ends.tolist()

    @property
    def nodes(self) -> int:
        """How many there are."""
        return self.starts[-1]

    def of_targets(self) -> Float[Tensor, "k n"]:
        """The rows of all targets."""
        final, found = self._made.run.final, []
        assert final is not None
        for rows in self._given.rows.split(self.at_once):
            cotangent = torch.zeros_like(final)
            cotangent[: len(rows), -1] = rows.to(final.dtype)
            found.append(self._back([final], [cotangent])[: len(rows)])
        return torch.cat(found)

    def of_features(self, nodes: Int[Tensor, " m"]) -> Iterator[Float[Tensor, "r n"]]:
        """The rows of some features, by their numbers, which ascend; some at a time."""
        for part in nodes.split(self.at_once):
            outputs, cotangents = [], []
            for start, source in zip(self.starts, self._sources, strict=False):
                inside = ((part >= start) & (part < start + len(source))).nonzero().squeeze(1)
                if not len(inside):
                    continue
                assert isinstance(source, Features), "only features have edges in"
                which, x = part[inside] - start, self._made.run.sites[source.reads]
                if x.requires_grad:
                    cotangent = torch.zeros_like(x)
                    cotangent[inside, source.pos[which]] = source.encoder[which].to(x.dtype)
                    outputs.append(x)
                    cotangents.append(cotangent)
            yield self._back(outputs, cotangents)[: len(part)]

    def _back(self, outputs: list[Tensor], cotangents: list[Tensor]) -> Float[Tensor, "r n"]:
        found = torch.zeros(self.at_once, self.nodes, device=self._made.bottom.device)
        *behind, bottom = backwards(outputs, [*self._made.behind.values(), self._made.bottom], cotangents)
        there = {s: grad.float() for s, grad in zip(self._made.behind, behind, strict=True) if grad is not None}
        columns = found.split([len(source) for source in self._sources], 1)
        for source, column in zip(self._sources, columns, strict=True):
            if isinstance(source, Tokens):
                column.copy_(source.effects({} if bottom is None else {BOTTOM: bottom.float()}))
            elif any(site in there for site in source.rows):
                column.copy_(source.effects(there))
        return found
