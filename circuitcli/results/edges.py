"""Edges: rows of effects/effects, the largest first."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from circuitcli.core import rows
from circuitcli.core.circuit import Edge
from circuitcli.core.sites import FeatureId, feature_named
from circuitcli.store import tables


def largest(table: tables.Columns, count: int) -> list[Edge]:
    """The `count` rows with the largest |mean effect|, largest first."""
    order = np.argsort(-np.abs(table["effect_mean"]), kind="stable")
    return _edges(table, order[:count])


def strongest(
    table: tables.Columns, end: str, features: Collection[FeatureId], count: int
) -> dict[FeatureId, tuple[Edge, ...]]:
    """Of each feature the `count` rows with the largest |mean| that have it at one end, `up_` or `down_`."""
    found = {}
    for feature, at in rows.rows_of(table, features, end).items():
        moved = at[table["effect_mean"][at] != 0]
        order = np.argsort(-np.abs(table["effect_mean"][moved]), kind="stable")
        found[feature] = tuple(_edges(table, moved[order[:count]]))
    return found


def between(table: tables.Columns, pairs: Collection[tuple[str, str]]) -> list[Edge]:
    """The rows that join these pairs of nodes, largest first; of nodes that are no features there are none."""
    named = [(feature_named(up), feature_named(down)) for up, down in pairs]
    wanted = [(up, down) for up, down in named if up and down]
    ups, downs = [up for up, _ in wanted], [down for _, down in wanted]
    at = np.flatnonzero(rows.among(table, set(ups), "up_") & rows.among(table, set(downs), "down_"))
    known = [np.asarray([rows.key(feature) for feature in end], np.int64) for end in (ups, downs)]
    at = at[rows.match([rows.keys(table, end, at) for end in ("up_", "down_")], known) >= 0]
    return sorted(_edges(table, at), key=lambda e: -abs(e.effect_mean))


def _edges(table: tables.Columns, at: np.ndarray) -> list[Edge]:
    return [_edge(table, i) for i in at.tolist()]


def _edge(table: tables.Columns, i: int) -> Edge:
    ends = [f"{table[f'{e}_layer'][i]}.{table[f'{e}_site'][i]}.{table[f'{e}_feature'][i]}" for e in ("up", "down")]
    low, high = (None if np.isnan(table[name][i]) else float(table[name][i]) for name in ("ci_low", "ci_high"))
    return Edge(ends[0], ends[1], float(table["effect_mean"][i]), low, high, int(table["n"][i]))
