"""Groups of features that do alike in a graph of attributions: what `--group auto` proposes as supernodes."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.core.influence import FEATURE, AttributionGraph

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Bool, Float, Int

ALONE = -1
DISTANCE = 0.5  # of groups: no two features in one have profiles at more than 60° to each other


def groups(
    graph: AttributionGraph, nodes: Bool[np.ndarray, " n"], cut: float | int = DISTANCE
) -> Int[np.ndarray, " n"]:
    """The group of each node, 0, 1, … in the order of their first nodes; ALONE of what is in none.

    A feature's profile is the weights of its edges in and those of its edges out, each scaled to length 1; features are
    as far apart as 1 − cosine of their profiles, two groups as far as the two features in them that are farthest apart
    (complete linkage). Tokens, errors and targets are in no group, and one feature alone is none.

    Args:
        graph: The graph as it is drawn: all its edges count.
        nodes: Which nodes may be grouped; of these features are.
        cut: The distance that features of one group have at most; or, whole, how many clusters are left at most, those
            of one feature included.
    """
    labels = np.full(len(graph), ALONE, np.int64)
    features = np.flatnonzero(nodes & (graph.kind == FEATURE))
    if len(features) < 2:
        return labels
    from scipy.cluster.hierarchy import fcluster, linkage  # takes half a second

    tree = linkage(_distances(graph, features), method="complete")
    cluster = fcluster(tree, cut, criterion="maxclust" if isinstance(cut, int) else "distance")
    number = 0
    for one in dict.fromkeys(cluster.tolist()):
        members = features[cluster == one]
        if len(members) > 1:
            labels[members] = number
            number += 1
    return labels


def _distances(graph: AttributionGraph, features: Int[np.ndarray, " f"]) -> Float[np.ndarray, " p"]:
    """1 − cosine of the profiles of each pair of features, as SciPy orders pairs. Without edges nothing is alike."""
    from scipy.sparse import csr_array

    n, place = len(graph), np.full(len(graph), -1)
    place[features] = np.arange(len(features))
    row = np.concatenate([place[graph.target], place[graph.source]])
    column = np.concatenate([graph.source, n + graph.target])  # in, then out
    value = np.tile(graph.weight.astype(np.float64), 2)
    of_them = (row >= 0) & (value != 0)
    row, column, value = row[of_them], column[of_them], value[of_them]
    value = _unit(_unit(value, 2 * row + (column >= n)), row)
    profiles = csr_array((value, (row, column)), shape=(len(features), 2 * n))
    cosine = (profiles @ profiles.T).toarray()[np.triu_indices(len(features), 1)]
    return np.asarray(np.clip(1 - cosine, 0, 2))


def _unit(value: Float[np.ndarray, " k"], vector: Int[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Values of many vectors, each scaled to length 1; `vector` says of which one each is."""
    return np.asarray(value / np.sqrt(np.bincount(vector, weights=value**2))[vector])
