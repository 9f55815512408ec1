"""The strongest paths from a prompt's tokens to the targets of a graph of attributions."""

from __future__ import annotations

import heapq
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from circuitcli.core.influence import TOKEN, AttributionGraph

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Float


class Path(NamedTuple):
    """Nodes from a token to a target, and w·Π Â along them: the share of the outcome that goes this way."""

    nodes: tuple[int, ...]
    strength: float


def paths(graph: AttributionGraph, count: int) -> list[Path]:
    """The `count` strongest paths from tokens to targets, the strongest first; fewer where there are no more.

    Best first, backwards from targets (A*: Hart et al. 1968). Of a part of a path it is known how strong it can become:
    its own strength times that of the best path from any token to its first node, which one sweep along the model's
    order gives. So each step is one towards a path that is given, and what else there is costs nothing.
    """
    shares = graph.shares()
    rows = dict(graph.rows())
    best = _best(graph, shares)
    ranked: dict[int, list[tuple[float, int, float]]] = {}  # of each node met: what feeds it, the most promising first

    def feeding(node: int) -> list[tuple[float, int, float]]:
        if node not in ranked:
            edges = rows.get(node, np.zeros(0, np.int64))
            promise = shares[edges] * best[graph.source[edges]]
            order = np.argsort(-promise, kind="stable")[: np.count_nonzero(promise)]
            columns = (promise[order], graph.source[edges[order]], shares[edges[order]])
            ranked[node] = list(zip(*(column.tolist() for column in columns), strict=True))
        return ranked[node]

    # What can be reached, negative; the part of a path from a node on, and its strength; which edge into it is next.
    waiting: list[tuple[float, tuple[int, ...], float, int]] = []

    def wait(part: tuple[int, ...], strength: float, place: int) -> None:
        if place < len(feeding(part[0])):
            heapq.heappush(waiting, (-strength * feeding(part[0])[place][0], part, strength, place))

    for target in np.flatnonzero(graph.outcome).tolist():
        wait((target,), float(graph.outcome[target]), 0)
    found: list[Path] = []
    while waiting and len(found) < count:
        _, part, strength, place = heapq.heappop(waiting)
        _, source, share = feeding(part[0])[place]
        wait(part, strength, place + 1)
        if graph.kind[source] == TOKEN:
            found.append(Path((source, *part), strength * share))
        else:
            wait((source, *part), strength * share, 0)
    return found


def _best(graph: AttributionGraph, shares: Float[np.ndarray, " m"]) -> Float[np.ndarray, " n"]:
    """Of each node the strength of the strongest path from a token; 1 of tokens, 0 where there is none."""
    best = np.where(graph.kind == TOKEN, 1.0, 0.0)
    for node, edges in graph.rows():
        best[node] = max(best[node], (shares[edges] * best[graph.source[edges]]).max())
    return best
