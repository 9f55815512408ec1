"""From repeated discoveries to what is told of them: a table, a few facts, and the run's circuit with survival."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from circuitcli.core.circuit import Circuit
from circuitcli.core.metadata import RepeatFacts
from circuitcli.core.stability import Discovery, Tally, mean_jaccard, tally
from circuitcli.store.tables import Columns

_NEVER = Tally(0, np.nan, np.nan)


def summary(many: Sequence[Discovery], own: Discovery, strongest: str | None, seed: int) -> dict[str, Any]:
    """How alike some repeats are, and how much of the run's own discovery is in all of them."""
    return {
        "repeats": len(many),
        "nodes": asdict(mean_jaccard([set(one.nodes) for one in many], seed)),
        "edges": asdict(mean_jaccard([set(one.edges) for one in many], seed)),
        "nodes_in_all": sum(all(name in one.nodes for one in many) for name in own.nodes),
        "edges_in_all": sum(all(ends in one.edges for one in many) for ends in own.edges),
        "on_top": sum(strongest is not None and one.ranks.get(strongest) == 1 for one in many),
    }


def rows(cause: str, many: Sequence[Discovery], own: Discovery) -> Columns:
    """A row for each node, and each edge, that comes up in any of some repeats or in the run's own discovery."""
    nodes = dict.fromkeys(own.nodes, _NEVER) | tally([one.nodes for one in many])
    edges = dict.fromkeys(own.edges, _NEVER) | tally([one.edges for one in many])
    tallies, ends, blank = [*nodes.values(), *edges.values()], list(edges), [""] * len(nodes)
    ranks = np.full((len(tallies), 3), np.nan, np.float32)
    ranks[: len(nodes)] = np.asarray([_ranks(name, many) for name in nodes]).reshape(-1, 3)
    return {
        "of": np.asarray(["node"] * len(nodes) + ["edge"] * len(edges), dtype=object),
        "id": [*nodes, *(f"{source} → {target}" for source, target in ends)],
        "source": [*blank, *(source for source, _ in ends)],
        "target": [*blank, *(target for _, target in ends)],
        "drawn": np.asarray([*(name in own.nodes for name in nodes), *(pair in own.edges for pair in ends)], np.int8),
        "cause": cause,
        "repeats": np.full(len(tallies), len(many), np.int32),
        "survived": np.asarray([one.survived for one in tallies], np.int32),
        "survival": np.asarray([one.survived / len(many) for one in tallies], np.float32),
        "effect_mean": np.asarray([one.mean for one in tallies], np.float32),
        "effect_std": np.asarray([one.std for one in tallies], np.float32),
        "rank_min": ranks[:, 0],
        "rank_median": ranks[:, 1],
        "rank_max": ranks[:, 2],
    }


def _ranks(name: str, many: Sequence[Discovery]) -> tuple[float, float, float]:
    """The best, the median and the worst rank of a feature, over the repeats in which it has one."""
    found = [one.ranks[name] for one in many if name in one.ranks]
    return (float(min(found)), float(np.median(found)), float(max(found))) if found else (np.nan, np.nan, np.nan)


def survivors(circuit: Circuit, many: Sequence[Discovery], counts: Mapping[str, int]) -> Circuit:
    """The circuit with the survival of its nodes and edges over some repeats; targets of prompts have none.

    `counts` says how many repeats there are of each cause.
    """

    def share(found: Sequence[Mapping[Any, float]], key: Any) -> float:
        return sum(key in one for one in found) / len(many)

    nodes, edges = [one.nodes for one in many], [one.edges for one in many]
    facts = RepeatFacts(len(many), *(counts.get(cause, 0) for cause in ("seed", "half", "intervention")))
    return replace(
        circuit,
        metadata=replace(circuit.metadata, repeats=facts),
        nodes=tuple(
            node if node.kind == "target" else replace(node, survival=share(nodes, node.id)) for node in circuit.nodes
        ),
        edges=tuple(replace(edge, survival=share(edges, (edge.source, edge.target))) for edge in circuit.edges),
    )
