"""Which part of a graph of attributions is drawn: what matters most, and lies on a path to a target."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from circuitcli.core.influence import ERROR, FEATURE, TARGET, TOKEN, AttributionGraph, edge_influence, influence

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Bool, Float


class Pruned(NamedTuple):
    """Which nodes and edges of a graph are kept."""

    nodes: Bool[np.ndarray, " n"]
    edges: Bool[np.ndarray, " m"]


def prune(graph: AttributionGraph, nodes: float | int, edges: float | None, minimum: float = 0.0) -> Pruned:
    """The most influential nodes, the most influential edges between them, and of these what leads to a target.

    Edges are scored anew once nodes are gone (`edge_influence`). Then again and again, until nothing changes: features
    and errors need an edge out, features an edge in as well, and tokens any. Since edges lead upwards, whatever is left
    lies on a path from a token or an error to a target. Targets stay.

    Args:
        graph: Whole; scores of it are for `scores` to tell before.
        nodes: A share, 0 … 1, of the influence of all: the fewest nodes that have it, with those that tie with the
            last; or the number of features and errors to keep at most. Tokens and targets don't count as such.
        edges: A share of the influence of edges, likewise; None keeps all of at least `minimum`.
        minimum: |weight| that an edge has at least. Of weight 0 there is no edge.
    """
    fixed = (graph.kind == TOKEN) | (graph.kind == TARGET)
    score = influence(graph)
    kept = fixed | (_first(score, nodes, ~fixed) if isinstance(nodes, int) else _share(score, nodes))
    inside = kept[graph.source] & kept[graph.target] & (graph.weight != 0)
    if edges is not None:
        inside[inside] = _share(edge_influence(graph.only(inside)), edges)
    return _leading(graph, kept, inside & (np.abs(graph.weight) >= minimum))


def _share(score: Float[np.ndarray, " k"], share: float) -> Bool[np.ndarray, " k"]:
    """The fewest of the largest that have a share of all score, and those that tie with the last."""
    if not score.any():
        return np.zeros(len(score), np.bool_)
    ordered = np.sort(score)[::-1]
    reached = np.cumsum(ordered)
    last = np.searchsorted(reached, share * reached[-1])
    return np.asarray(score >= ordered[min(last, len(score) - 1)])


def _first(score: Float[np.ndarray, " k"], count: int, among: Bool[np.ndarray, " k"]) -> Bool[np.ndarray, " k"]:
    """The `count` largest of some; of equal ones the first."""
    kept = np.zeros(len(score), np.bool_)
    candidates = np.flatnonzero(among)
    kept[candidates[np.argsort(-score[candidates], kind="stable")[:count]]] = True
    return kept


def _leading(graph: AttributionGraph, kept: Bool[np.ndarray, " n"], edges: Bool[np.ndarray, " m"]) -> Pruned:
    """Without what leads nowhere or comes from nowhere."""
    inner = (graph.kind == FEATURE) | (graph.kind == ERROR)
    while True:
        fed, feeds = (np.bincount(ends[edges], minlength=len(graph)) > 0 for ends in (graph.target, graph.source))
        stays = kept & (feeds | ~inner) & (fed | (graph.kind != FEATURE)) & (feeds | (graph.kind != TOKEN))
        left = edges & stays[graph.source] & stays[graph.target]
        if (left == edges).all():
            return Pruned(stays, edges)
        kept, edges = stays, left
