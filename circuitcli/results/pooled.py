"""Nodes and edges of several prompts as those of one graph: nodes of one name are one, and so are edges between them.

An effect is the mean over all prompts, in which one that hasn't the node counts 0; if nodes stand for all positions, it
is the mean of the prompts' sums over positions. An activation is the mean over the places where the node is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from circuitcli.core import rows
from circuitcli.core.attributed import ESTIMATES, EXACT, node_name, target_name
from circuitcli.core.sites import SITES
from circuitcli.store.attributions import Target
from circuitcli.store.tables import Columns

# Of nodes at one place in the model's order; a target comes after all else.
_KINDS = {"token": 0, "feature": 1, "error": 2, "target": 3}
_LAST = 2**40


@dataclass(frozen=True, eq=False)
class Pooled:
    """One graph of all prompts.

    Attributes:
        nodes: In topological order: `id`, `kind`, `layer`, `site`, `feature`, `pos` (−1 where it stands for all), `n`
            (places that it stands for), `measured` (at how many of them its effect was), `activation`, `replacement`,
            `effect`, `method`, and a column of each estimate and of exact effects; NaN where a place has none.
        edges: By source and target, which are rows of `nodes`: `source`, `target`, `weight`, `method`, `estimate`,
            `exact`, `n` (prompts that have it).
        incoming: [nodes] Σ |weight| of all that goes into each node: that of `edges`, times what there is over what the
            run has of it, since edges from nodes that were no candidates aren't stored.
        number: Which of `nodes` each row of the run's table is.
        outcome: [nodes] What each target counts in the metric, with a sum of 1; 0 of other nodes.
    """

    nodes: Columns
    edges: Columns
    incoming: np.ndarray
    number: np.ndarray
    outcome: np.ndarray

    @classmethod
    def of(
        cls,
        nodes: Columns,
        edges: Columns,
        incoming: Columns,
        *,
        prompts: int,
        separate: bool,
        targets: Sequence[Target] = (),
    ) -> Pooled:
        """From the tables of a run: a row per node and edge of each prompt, and per node Σ |weight| of what goes in.

        Args:
            nodes: The table `attribution/nodes`.
            edges: The table `attribution/edges`.
            incoming: The table `attribution/rows`.
            prompts: How many there are.
            separate: Whether nodes of different positions are different ones.
            targets: Of one prompt several, if it has them, by their `feature` in the table of nodes.
        """
        first, number = rows.numbered(_order(nodes, separate=separate))
        starts = np.searchsorted(nodes["prompt"], np.arange(prompts))
        count = len(first)
        ends = [number[starts[edges["prompt"]] + edges[end]] for end in ("source", "target")]
        into = number[starts[incoming["prompt"]] + incoming["target"]]
        found = _edges(edges, ends, prompts)
        stored = np.bincount(ends[1], np.abs(edges["weight"]), count)
        share = np.divide(np.bincount(into, incoming["abs_in"], count), stored, out=np.ones(count), where=stored > 0)
        own = np.bincount(found["target"], np.abs(found["weight"]), count)
        pooled = _nodes(nodes, first, number, prompts, separate=separate)
        ends_of_all = np.flatnonzero(pooled["kind"] == "target")
        outcome = np.zeros(count)
        outcome[ends_of_all] = [target.weight for target in targets] or 1
        for node, target in zip(ends_of_all, targets, strict=False):
            pooled["id"][node] = target_name(target.token_id)
        return cls(pooled, found, own * np.maximum(share, 1), number, outcome)


def _order(nodes: Columns, *, separate: bool) -> list[np.ndarray]:
    """What makes nodes different, in the model's order: place, position, kind, feature."""
    kind = _codes(nodes["kind"], _KINDS)
    place = _codes(nodes["site"], {name: i for i, name in enumerate(SITES, 1)}) + nodes["layer"].astype(np.int64) * 16
    place = np.where(kind == _KINDS["token"], -1, np.where(kind == _KINDS["target"], _LAST, place))
    positions = np.where(kind == _KINDS["target"], -1, nodes["pos"]) if separate else np.full(len(kind), -1)
    return [place, positions, kind, nodes["feature"]]


def _nodes(table: Columns, first: np.ndarray, number: np.ndarray, prompts: int, *, separate: bool) -> Columns:
    target = table["kind"][first] == "target"
    found: Columns = {name: table[name][first] for name in ("kind", "layer", "site", "feature")}
    found["pos"] = np.where(target, -1, table["pos"][first]) if separate else np.full(len(first), -1)
    names = zip(*(found[name].tolist() for name in ("kind", "layer", "site", "feature", "pos")), strict=True)
    found["id"] = np.asarray([node_name(*name) for name in names], dtype=object)
    found["n"] = np.bincount(number, minlength=len(first))
    found["measured"] = np.bincount(number[table["method"] == EXACT], minlength=len(first))
    for name in ("activation", "replacement"):
        found[name] = np.bincount(number, table[name], len(first)) / found["n"]
    for name in ("effect", *ESTIMATES, EXACT):
        found[name] = np.bincount(number, table[name], len(first)) / prompts
    found["method"] = _methods(table["method"], number, len(first))
    return found


def _edges(table: Columns, ends: Sequence[np.ndarray], prompts: int) -> Columns:
    first, number = rows.numbered(ends)
    found: Columns = {name: end[first] for name, end in zip(("source", "target"), ends, strict=True)}
    for name in ("weight", "estimate", EXACT):
        found[name] = np.bincount(number, table[name], len(first)) / prompts
    found["method"] = _methods(table["method"], number, len(first))
    there, edge = rows.numbered([number, table["prompt"]])[0], number
    found["n"] = np.bincount(edge[there], minlength=len(first))
    return found


def _methods(methods: np.ndarray, number: np.ndarray, count: int) -> np.ndarray:
    """How each sum was got: measured if all parts were, else by the estimate that is among them."""
    known = ("", EXACT, *ESTIMATES)
    found = np.zeros(count, np.int64)
    np.maximum.at(found, number, _codes(methods, {name: i for i, name in enumerate(known)}))
    return np.asarray(known, dtype=object)[found]


def _codes(names: np.ndarray, numbers: dict[str, int]) -> np.ndarray:
    """The number of each name; 0 of others."""
    found = np.zeros(len(names), np.int64)
    for name, number in numbers.items():
        found[names == name] = number
    return found
