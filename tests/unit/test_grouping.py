"""Groups of features: cosines by hand, and what complete linkage holds, checked pair by pair."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.attribution_graphs import graph, random_graph

from circuitcli.core.grouping import ALONE, groups
from circuitcli.core.influence import ERROR, FEATURE, TARGET, TOKEN, AttributionGraph

SEEDS = st.integers(0, 10_000)


def grouped(one: AttributionGraph, cut: float | int = 0.5, nodes: np.ndarray | None = None) -> list[int]:
    return groups(one, np.ones(len(one), bool) if nodes is None else nodes, cut).tolist()


def distance(one: AttributionGraph, i: int, j: int) -> float:
    """1 − cosine of edge profiles, by dense vectors."""
    profile = []
    for node in (i, j):
        into, out = np.zeros(len(one)), np.zeros(len(one))
        for u, d, w in zip(one.source, one.target, one.weight, strict=True):
            if d == node:
                into[u] += w
            if u == node:
                out[d] += w
        unit = np.concatenate([v / (np.linalg.norm(v) or 1) for v in (into, out)])
        profile.append(unit / (np.linalg.norm(unit) or 1))
    return float(1 - profile[0] @ profile[1])


# Tokens 0 and 1, an error 2, features 3 to 6, a target 7.
#   3 and 4 read token 0 and raise the target, 4 twice as much: alike, whatever their size.
#   5 does so with the opposite sign at the target: cosine (1 − 1)/2 = 0 to 3.
#   6 reads both tokens alike: in cosine 1/√2 to 3, out 1: (1/√2 + 1)/2 = 0.854 in all, a distance of 0.146.
ALIKE = graph(
    [TOKEN, TOKEN, ERROR, FEATURE, FEATURE, FEATURE, FEATURE, TARGET],
    [
        *[(0, 3, 1.0), (0, 4, 2.0), (0, 5, 1.0), (0, 6, 1.0), (1, 6, 1.0)],
        *[(3, 7, 1.0), (4, 7, 2.0), (5, 7, -1.0), (6, 7, 1.0), (2, 7, 1.0)],
    ],
    {7: 1.0},
)
NONE = [ALONE] * 3


def test_by_hand() -> None:
    assert grouped(ALIKE) == [*NONE, 0, 0, ALONE, 0, ALONE]
    assert grouped(ALIKE, 0.147) == [*NONE, 0, 0, ALONE, 0, ALONE]
    assert grouped(ALIKE, 0.146) == [*NONE, 0, 0, ALONE, ALONE, ALONE]
    assert grouped(ALIKE, 2.0) == [*NONE, 0, 0, 0, 0, ALONE]


def test_a_number_of_clusters() -> None:
    """With those of one feature: 3, 4 | 5 | 6, then 3, 4, 6 | 5, then all."""
    assert grouped(ALIKE, 3) == [*NONE, 0, 0, ALONE, ALONE, ALONE]
    assert grouped(ALIKE, 2) == [*NONE, 0, 0, ALONE, 0, ALONE]
    assert grouped(ALIKE, 1) == [*NONE, 0, 0, 0, 0, ALONE]


def test_only_the_nodes_named_are_grouped() -> None:
    nodes = np.ones(8, bool)
    nodes[4] = False
    assert grouped(ALIKE, nodes=nodes) == [*NONE, 0, ALONE, ALONE, 0, ALONE]
    nodes[6] = False
    assert grouped(ALIKE, nodes=nodes) == [ALONE] * 8
    assert grouped(ALIKE, nodes=np.zeros(8, bool)) == [ALONE] * 8


def test_features_without_edges_are_like_nothing() -> None:
    bare = graph([TOKEN, FEATURE, FEATURE, FEATURE, FEATURE, TARGET], [(0, 1, 1.0), (0, 2, 1.0)], {5: 1.0})
    assert grouped(bare) == [ALONE, 0, 0, ALONE, ALONE, ALONE]


def test_groups_are_numbered_by_their_first_nodes() -> None:
    edges = [(0, 2, 1.0), (1, 3, 1.0), (1, 4, 1.0), (0, 5, 1.0)]
    pairs = graph([TOKEN, TOKEN, FEATURE, FEATURE, FEATURE, FEATURE, TARGET], edges, {6: 1.0})
    assert grouped(pairs) == [ALONE, ALONE, 0, 1, 1, 0, ALONE]


@given(SEEDS, st.sampled_from([0.05, 0.3, 0.5, 0.9, 1.4]))
def test_groups_are_as_tight_as_the_cut_and_no_two_could_be_one(seed: int, cut: float) -> None:
    one = random_graph(seed)
    labels = grouped(one, cut)
    features = np.flatnonzero(one.kind == FEATURE).tolist()
    assert all(label == ALONE for v, label in enumerate(labels) if v not in features)
    assert list(dict.fromkeys(label for label in labels if label != ALONE)) == list(range(max(labels) + 1))
    clusters: dict[object, list[int]] = {}
    for v in features:
        clusters.setdefault(labels[v] if labels[v] != ALONE else f"alone {v}", []).append(v)
    assert all((len(members) > 1) == isinstance(name, int) for name, members in clusters.items())
    for members in clusters.values():
        assert all(distance(one, i, j) <= cut + 1e-9 for i, j in combinations(members, 2))
    for one_of, other in combinations(clusters.values(), 2):
        assert max(distance(one, i, j) for i in one_of for j in other) > cut - 1e-9


@given(SEEDS, st.integers(1, 8))
def test_there_are_at_most_so_many_clusters(seed: int, count: int) -> None:
    one = random_graph(seed)
    labels = np.asarray(grouped(one, count))[one.kind == FEATURE]
    found = len(set(labels.tolist()) - {ALONE}) + int((labels == ALONE).sum())
    assert found <= count


def test_the_distance_of_the_default_is_what_it_says() -> None:
    """Features at 59° to each other are one group, at 61° two."""
    for degrees, together in ((59, True), (61, False)):
        x, y = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        one = graph([TOKEN, TOKEN, FEATURE, FEATURE, TARGET], [(0, 2, 1.0), (0, 3, x), (1, 3, y)], {4: 1.0})
        found = groups(one, np.ones(5, bool)).tolist()
        assert (found[2] == 0) == together
        assert distance(one, 2, 3) == pytest.approx(1 - x)
