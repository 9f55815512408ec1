"""Rows of tables, found by columns of whole numbers: sorted once and searched, never one row or feature at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from circuitcli.core.sites import ORDER, FeatureId

_INDEX_BITS = 32  # a feature is an int32 on disk, a layer an int16


def groups(numbers: np.ndarray, wanted: np.ndarray) -> list[np.ndarray]:
    """For each wanted number the rows that have it, in the order of the table: n log n in all, not n for each.

    Args:
        numbers: [n], of each row.
        wanted: [m], each once.
    """
    rows = np.flatnonzero(np.isin(numbers, wanted))
    rows = rows[np.argsort(numbers[rows], kind="stable")]
    first, stop = (np.searchsorted(numbers[rows], wanted, side) for side in ("left", "right"))
    return [rows[a:b] for a, b in zip(first.tolist(), stop.tolist(), strict=True)]


def match(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> np.ndarray:
    """For each row of `left` the row of `right` with the same numbers in all columns, the first such; −1 without one.

    Args:
        left: Columns [n] of whole numbers.
        right: As many columns [m].
    """
    count = len(left[0])
    code = np.zeros(count + len(right[0]), np.int64)  # rows with the same numbers so far have the same code
    for ours, theirs in zip(left, right, strict=True):
        known, number = np.unique(np.concatenate([ours, theirs]), return_inverse=True)
        _, code = np.unique(code * len(known) + number.reshape(-1), return_inverse=True)
        code = code.reshape(-1)
    wanted, there = code[:count], code[count:]
    if not len(there):
        return np.full(count, -1)
    order = np.argsort(there, kind="stable")
    place = np.minimum(np.searchsorted(there, wanted, sorter=order), len(there) - 1)
    return np.where(there[order[place]] == wanted, order[place], -1)


def numbered(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The first row of each set of rows with the same numbers in all columns, and for each row which set it is of.

    Sets are in the order of their numbers, those of the first column before those of the second.

    Args:
        columns: [n] each, of whole numbers.
    """
    order = np.lexsort(columns[::-1])
    starts = np.ones(len(order), np.bool_)
    starts[1:] = np.logical_or.reduce([column[order][1:] != column[order][:-1] for column in columns])
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(starts) - 1
    return order[starts], number


def key(feature: FeatureId) -> int:
    """A number for each feature, in the model's order."""
    layer, site = feature.site.order
    return ((layer * (len(ORDER) + 1) + site + 1) << _INDEX_BITS) | feature.index


def keys(table: Mapping[str, Any], end: str = "", rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """The `key` of the feature of each of some rows; `end` is `up_` or `down_` in a table with two a row."""
    layers, names, features = (table[f"{end}{name}"][rows] for name in ("layer", "site", "feature"))
    site = np.zeros(len(names), np.int64)
    for i, name in enumerate(ORDER, start=1):
        site[names == name] = i
    found: np.ndarray = ((layers.astype(np.int64) * (len(ORDER) + 1) + site) << _INDEX_BITS) | features
    return found


def rows_of(table: Mapping[str, Any], features: Collection[FeatureId], end: str = "") -> dict[FeatureId, np.ndarray]:
    """The rows of each of some features in a table, in its order; `end` as in `keys`."""
    rows = np.flatnonzero(np.isin(table[f"{end}feature"], [feature.index for feature in features]))
    found = groups(keys(table, end, rows), np.asarray([key(feature) for feature in features], np.int64))
    return {feature: rows[here] for feature, here in zip(features, found, strict=True)}


def among(table: Mapping[str, Any], features: Collection[FeatureId], end: str = "") -> np.ndarray:
    """Which rows of a table are of one of some features; `end` as in `keys`."""
    mask = np.isin(table[f"{end}feature"], [feature.index for feature in features])
    rows = np.flatnonzero(mask)
    mask[rows] = np.isin(keys(table, end, rows), [key(feature) for feature in features])
    return mask


def pick(table: Mapping[str, Any], rows: np.ndarray) -> dict[str, Any]:
    """Some rows of a table, by mask or by index."""
    return {name: column[rows] for name, column in table.items()}
