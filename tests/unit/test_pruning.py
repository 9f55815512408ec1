"""Pruning as circuit-tracer does it, on dense matrices one edge at a time; and what is left leads to a target."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.attribution_graphs import BY_HAND, A, B, E, F, G, T, dense_shares, random_graph

from circuitcli.core.influence import ERROR, FEATURE, TARGET, TOKEN, AttributionGraph, influence
from circuitcli.core.pruning import Pruned, prune

SEEDS = st.integers(0, 10_000)
SHARES = st.sampled_from([0.1, 0.5, 0.8, 0.98, 1.0])


def kept(found: Pruned, one: AttributionGraph = BY_HAND) -> tuple[list[int], set[tuple[int, int]]]:
    edges = zip(one.source[found.edges].tolist(), one.target[found.edges].tolist(), strict=True)
    return np.flatnonzero(found.nodes).tolist(), set(edges)


def test_by_hand_a_share_of_nodes_and_edges() -> None:
    """In 32nds: infl of g 24, f 20, a 15, e 12, b 5; of g→t 24, a→f 15, f→g and e→g 12, f→t 8, b→f 5; each of 76."""
    everything = {(A, F), (B, F), (F, G), (E, G), (F, T), (G, T)}
    assert kept(prune(BY_HAND, 0.8, 0.98)) == ([A, B, E, F, G, T], everything)  # a reaches 59/76 < 0.8, e 71/76
    assert kept(prune(BY_HAND, 0.8, 0.93)) == ([A, E, F, G, T], everything - {(B, F)})  # 71/76 = 0.934: b has no edge
    assert kept(prune(BY_HAND, 0.75, 1.0)) == ([A, B, F, G, T], everything - {(E, G)})  # a reaches 59/76 = 0.776
    # g→t, a→f and, as they tie, f→g and e→g: 63/76 = 0.83. Then 24, 15, 12, 12 of 76.
    assert kept(prune(BY_HAND, 1.0, 0.6)) == ([A, E, F, G, T], {(A, F), (F, G), (E, G), (G, T)})


def test_by_hand_a_number_of_nodes() -> None:
    assert kept(prune(BY_HAND, 2, None)) == ([A, B, F, G, T], {(A, F), (B, F), (F, G), (F, T), (G, T)})
    assert kept(prune(BY_HAND, 1, None)) == ([T], set())  # g is left, which nothing feeds
    assert kept(prune(BY_HAND, 0, None)) == ([T], set())
    assert kept(prune(BY_HAND, 3, None))[0] == [A, B, E, F, G, T]


def test_by_hand_a_least_weight() -> None:
    assert kept(prune(BY_HAND, 1.0, None, 2.0)) == ([A, E, F, G, T], {(A, F), (F, G), (E, G), (G, T)})
    assert kept(prune(BY_HAND, 1.0, None, 2.5)) == ([T], set())  # without f→g f leads nowhere, and g is fed by nothing
    assert kept(prune(BY_HAND, 0.75, 1.0, 2.0)) == ([A, F, G, T], {(A, F), (F, G), (G, T)})


def threshold(score: np.ndarray, share: float) -> float:
    """circuit-tracer's: the score at which the cumulative share is reached. Rounding is given way, once."""
    ordered = np.sort(score.ravel())[::-1]
    reached = np.cumsum(ordered) / ordered.sum()
    return float(ordered[min(int((reached < share - 1e-12).sum()), len(ordered) - 1)]) * (1 - 1e-12)


def dense_influence(one: AttributionGraph, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    total = weight.sum(1, keepdims=True)
    shares = np.where(total > 0, weight / np.where(total > 0, total, 1), 0)
    return shares, one.outcome @ np.linalg.inv(np.eye(len(one)) - shares) - one.outcome


@given(SEEDS, SHARES, SHARES)
def test_it_is_what_dense_matrices_give_step_by_step(seed: int, nodes: float, edges: float) -> None:
    one = random_graph(seed)
    weight = np.zeros((len(one), len(one)))
    weight[one.target, one.source] = np.abs(one.weight)
    _, infl = dense_influence(one, weight)
    mask = np.isin(one.kind, (TOKEN, TARGET))
    if infl.any():
        mask |= (infl >= threshold(infl, nodes)) & (infl > 1e-15)
    weight[~mask] = 0
    weight[:, ~mask] = 0
    shares, infl = dense_influence(one, weight)
    through = shares * (infl + one.outcome)[:, None]
    lines = (through >= threshold(through, edges)) & (through > 1e-15) if through.any() else through > 0
    for _ in range(len(one)):  # again and again
        for v in range(len(one)):
            needs_out = one.kind[v] in (FEATURE, ERROR, TOKEN)
            if (needs_out and not lines[:, v].any()) or (one.kind[v] == FEATURE and not lines[v].any()):
                mask[v], lines[v], lines[:, v] = False, False, False
    found = prune(one, nodes, edges)
    assert found.nodes.tolist() == mask.tolist()
    assert found.edges.tolist() == lines[one.target, one.source].tolist()


@given(SEEDS, st.one_of(SHARES, st.integers(0, 12)), st.one_of(st.none(), SHARES), st.sampled_from([0.0, 0.2, 1.5]))
def test_all_that_is_left_lies_on_a_path_to_a_target(
    seed: int, nodes: float | int, edges: float | None, minimum: float
) -> None:
    one = random_graph(seed)
    found = prune(one, nodes, edges, minimum)
    left, lines = kept(found, one)
    drawn = nx.DiGraph(lines)
    drawn.add_nodes_from(left)
    assert set(drawn) == set(left)
    targets = {v for v in left if one.kind[v] == TARGET}
    roots = {v for v in left if one.kind[v] in (TOKEN, ERROR)}
    assert targets == set(np.flatnonzero(one.kind == TARGET).tolist())
    for v in set(left) - targets:
        assert nx.descendants(drawn, v) & targets
        assert v in roots or nx.ancestors(drawn, v) & roots
    size = np.abs(one.weight[found.edges])
    assert (size > 0).all()
    assert (size >= minimum).all()
    inner = [v for v in left if one.kind[v] in (FEATURE, ERROR)]
    assert (influence(one)[inner] > 0).all()
    assert not isinstance(nodes, int) or len(inner) <= nodes


@given(SEEDS)
def test_nothing_is_lost_that_matters_where_all_is_asked_for(seed: int) -> None:
    """Whatever has influence and comes from a token or an error, and edges between these."""
    one = random_graph(seed)
    found = prune(one, 1.0, None)
    whole = nx.DiGraph(zip(one.source[one.weight != 0].tolist(), one.target[one.weight != 0].tolist(), strict=True))
    whole.add_nodes_from(range(len(one)))
    targets = set(np.flatnonzero(one.outcome).tolist())
    roots = set(np.flatnonzero(np.isin(one.kind, (TOKEN, ERROR))).tolist())
    expected = targets | {
        v for v in whole if nx.descendants(whole, v) & targets and (v in roots or nx.ancestors(whole, v) & roots)
    }
    assert set(np.flatnonzero(found.nodes).tolist()) == expected
    inside = [u in expected and d in expected for u, d in zip(one.source.tolist(), one.target.tolist(), strict=True)]
    assert found.edges.tolist() == (np.asarray(inside, bool) & (one.weight != 0)).tolist()
    assert dense_shares(one.only(found.edges))[one.target, one.source][~found.edges] == pytest.approx(0)
