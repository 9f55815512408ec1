"""What of the graph of a run's prompts is kept: the nodes and edges that influence targets most, as settings say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitcli.core.attributed import KINDS
from circuitcli.core.grouping import groups
from circuitcli.core.influence import TARGET, AttributionGraph, cumulative, influence, scores
from circuitcli.core.paths import Path, paths
from circuitcli.core.pruning import prune
from circuitcli.results.pooled import Pooled
from circuitcli.settings.tree import Attribute


@dataclass(frozen=True, eq=False)
class Selection:
    """What is kept of a graph, and what its whole says.

    Attributes:
        nodes, edges: Whether each is kept.
        influence: The cumulative share of all influence at which each node comes in; 0 of targets, NaN of nodes whose
            edges weren't computed.
        replacement, completeness: Scores of the whole graph; None where nothing feeds a target.
        graph: The whole.
    """

    nodes: np.ndarray
    edges: np.ndarray
    influence: np.ndarray
    replacement: float | None
    completeness: float | None
    graph: AttributionGraph

    @classmethod
    def of(cls, pooled: Pooled, asked: Attribute) -> Selection:
        """By cumulative influence, or the most influential nodes and edges of a least weight where settings say so."""
        graph = _graph(pooled)
        least = asked.edge_threshold
        kept = prune(
            graph,
            asked.node_influence if asked.nodes == "auto" else asked.nodes,
            None if least else asked.edge_influence,
            least,
        )
        whole = scores(graph)
        return cls(kept.nodes, kept.edges, _influence(graph), whole.replacement, whole.completeness, graph)

    def paths(self, count: int) -> list[Path]:
        """The strongest paths from tokens to targets, in the whole graph; nodes are those of the pooled tables."""
        return paths(self.graph, count)

    def groups(self) -> np.ndarray:
        """Of each node the number of its group of features with like edges, in what is kept; −1 of others."""
        return groups(self.graph.only(self.edges), self.nodes)


def _graph(pooled: Pooled) -> AttributionGraph:
    kind = np.asarray([KINDS.index(name) for name in pooled.nodes["kind"].tolist()], np.int8)
    edges = pooled.edges
    return AttributionGraph(edges["source"], edges["target"], edges["weight"], kind, pooled.outcome, pooled.incoming)


def _influence(graph: AttributionGraph) -> np.ndarray:
    """Cumulative, of the nodes that have edges."""
    joined = np.zeros(len(graph), np.bool_)
    joined[graph.source] = joined[graph.target] = True
    found = np.full(len(graph), np.nan)
    found[joined] = cumulative(influence(graph)[joined])
    found[graph.kind == TARGET] = 0
    return found
