"""What matters in a graph of attributions: how much of the outcome goes back to each node, as circuit-tracer has it.

Edges u → d have a weight E(u→d), what u does to the metric through d, and

    Â[d, u] = |E(u→d)| / Σ_u |E(u→d)|        of what d is fed, the share that u feeds; 0 where nothing does
    infl    = wÂ + wÂ² + wÂ³ + …             w: what each target counts, with a sum of 1

(Ameisen et al. 2025, "Circuit Tracing"). Nodes come in the model's order, so that the sum is exact after one sweep from
the last node to the first: the mass of a node, infl + w, is whole before it is handed to those that feed it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from circuitcli.core.attributed import KINDS

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Bool, Float, Int

FEATURE, ERROR, TOKEN, TARGET = range(len(KINDS))


@dataclass(frozen=True, eq=False)
class AttributionGraph:
    """Nodes 0 … n − 1 in an order in which every edge leads upwards, and edges in any order.

    Attributes:
        source, target: The ends of each edge, source < target.
        weight: E(u→d), signed.
        kind: Of each node: FEATURE, ERROR, TOKEN or TARGET.
        outcome: w: what each target counts, their probabilities say, with a sum of 1; 0 of other nodes.
        fed: Of each node Σ_u |E(u→d)| over all that feeds it, where the graph has only a part of it; None: it has all.
    """

    source: Int[np.ndarray, " m"]
    target: Int[np.ndarray, " m"]
    weight: Float[np.ndarray, " m"]
    kind: Int[np.ndarray, " n"]
    outcome: Float[np.ndarray, " n"]
    fed: Float[np.ndarray, " n"] | None = None

    def __post_init__(self) -> None:
        assert (self.source < self.target).all(), "nodes don't come in the model's order"
        assert not self.outcome[self.kind != TARGET].any(), "only targets are outcomes"

    def __len__(self) -> int:
        return len(self.kind)

    def only(self, edges: Bool[np.ndarray, " m"]) -> AttributionGraph:
        """All nodes, and some of the edges, as if there were no others."""
        ends = {"source": self.source[edges], "target": self.target[edges]}
        return replace(self, **ends, weight=self.weight[edges], fed=None)

    def rows(self) -> list[tuple[int, Int[np.ndarray, " _"]]]:
        """Each node that is fed, in order, and its edges in."""
        order = np.argsort(self.target, kind="stable")
        fed, first = np.unique(self.target[order], return_index=True)
        return list(zip(fed.tolist(), np.split(order, first[1:]), strict=False))

    def shares(self) -> Float[np.ndarray, " m"]:
        """Â of each edge: of what its target is fed, the share that its source feeds."""
        size = np.abs(self.weight).astype(np.float64)
        whole = np.bincount(self.target, weights=size, minlength=len(self)) if self.fed is None else self.fed
        fed = whole[self.target]
        return np.asarray(np.divide(size, fed, out=np.zeros_like(size), where=fed > 0))


def influence(graph: AttributionGraph) -> Float[np.ndarray, " n"]:
    """Infl of each node: Σ of w·Π Â along all paths from it to targets; 0 of what leads to none.

    Where something feeds every target, that of all nodes which nothing feeds, tokens and errors, sums to 1.
    """
    return np.asarray(_mass(graph, graph.shares()) - graph.outcome)


def edge_influence(graph: AttributionGraph) -> Float[np.ndarray, " m"]:
    """Â[d, u]·(infl_d + w_d) of each edge u → d: what goes through it. Of a node's edges out they sum to its infl."""
    shares = graph.shares()
    return np.asarray(shares * _mass(graph, shares)[graph.target])


def _mass(graph: AttributionGraph, shares: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
    """Infl + w."""
    mass = graph.outcome.astype(np.float64)
    for node, edges in reversed(graph.rows()):
        if mass[node]:
            np.add.at(mass, graph.source[edges], mass[node] * shares[edges])
    return mass


def cumulative(score: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """The share of all score at which each comes in, the largest first: Σ of those at least as large / Σ of all.

    What has none, and the smallest that has some, come in at 1. Of equal ones the first comes first.
    """
    found, order = np.ones(len(score)), np.argsort(-score, kind="stable")
    reached = np.cumsum(score[order].astype(np.float64))
    if len(score) and reached[-1] > 0:
        found[order] = np.minimum(reached / reached[-1], 1)
    return found


class Scores(NamedTuple):
    """How much of a graph is explained; None where nothing feeds a target.

    Attributes:
        replacement: Σ infl of tokens / (Σ infl of tokens + Σ infl of errors).
        completeness: Σ_d (1 − Σ_{e ∈ errors} Â[d, e])·(infl_d + w_d) / Σ_d (infl_d + w_d).
    """

    replacement: float | None
    completeness: float | None


def scores(graph: AttributionGraph) -> Scores:
    """The scores of circuit-tracer; quoted of a graph before it is pruned."""
    shares = graph.shares()
    mass = _mass(graph, shares)
    tokens, errors = (float(mass[graph.kind == kind].sum()) for kind in (TOKEN, ERROR))
    if not (mass - graph.outcome).any():
        return Scores(None, None)
    of_errors = graph.kind[graph.source] == ERROR
    lost = np.bincount(graph.target[of_errors], weights=shares[of_errors], minlength=len(graph))
    complete = float(((1 - lost) * mass).sum() / mass.sum())
    return Scores(tokens / (tokens + errors) if tokens + errors else None, complete)
