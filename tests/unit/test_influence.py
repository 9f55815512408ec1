"""Influence beside dense matrices, its laws, and a graph worked out by hand."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.attribution_graphs import BY_HAND, A, B, E, F, G, T, dense_shares, graph, random_graph

from circuitcli.core.influence import (
    ERROR,
    FEATURE,
    TARGET,
    TOKEN,
    cumulative,
    edge_influence,
    influence,
    scores,
)

SEEDS = st.integers(0, 10_000)


def test_by_hand() -> None:
    """infl: g 3/4; f 1/4 + 3/4·1/2 = 5/8; e 3/4·1/2 = 3/8; a 5/8·3/4 = 15/32; b 5/8·1/4 = 5/32.

    replacement: (15/32 + 5/32) / (15/32 + 5/32 + 3/8) = 5/8. completeness: infl + w sums to
    1 + 3/4 + 5/8 + 3/8 + 15/32 + 5/32 = 27/8, of which half of g's 3/4 is an error's: (27/8 − 3/8) / (27/8) = 8/9.
    """
    assert influence(BY_HAND)[[A, B, E, F, G, T]].tolist() == [15 / 32, 5 / 32, 3 / 8, 5 / 8, 3 / 4, 0]
    assert edge_influence(BY_HAND).tolist() == [15 / 32, 5 / 32, 3 / 8, 3 / 8, 1 / 4, 3 / 4]
    assert scores(BY_HAND) == pytest.approx((5 / 8, 8 / 9))


def test_cumulative_by_hand() -> None:
    """Largest first 3/4, 5/8, 15/32, 3/8, 5/32, of 19/8 in all; the target has none."""
    found = cumulative(influence(BY_HAND))
    assert found[[G, F, A, E, B, T]] == pytest.approx([6 / 19, 11 / 19, 14.75 / 19, 17.75 / 19, 1, 1])
    assert cumulative(np.zeros(3)).tolist() == [1, 1, 1]
    assert cumulative(np.zeros(0)).tolist() == []
    assert cumulative(np.asarray([1.0, 2.0, 1.0])).tolist() == [0.75, 0.5, 1.0]


@given(SEEDS)
def test_one_sweep_is_the_inverse_of_the_dense_matrix(seed: int) -> None:
    one = random_graph(seed)
    shares = dense_shares(one)
    assert one.shares() == pytest.approx(shares[one.target, one.source])
    mass = one.outcome @ np.linalg.inv(np.eye(len(one)) - shares)
    assert influence(one) == pytest.approx(mass - one.outcome, abs=1e-12)
    by_edge = shares * mass[:, None]
    assert edge_influence(one) == pytest.approx(by_edge[one.target, one.source], abs=1e-12)


@given(SEEDS)
def test_scores_are_those_of_the_formulas(seed: int) -> None:
    one = random_graph(seed)
    shares, infl = dense_shares(one), influence(one)
    found = scores(one)
    if not infl.any():
        assert found == (None, None)
        return
    tokens, errors = infl[one.kind == TOKEN].sum(), infl[one.kind == ERROR].sum()
    assert found.replacement == (pytest.approx(tokens / (tokens + errors)) if tokens + errors else None)
    mass = infl + one.outcome
    kept = sum((1 - sum(shares[v, e] for e in np.flatnonzero(one.kind == ERROR))) * mass[v] for v in range(len(one)))
    assert found.completeness == pytest.approx(kept / mass.sum())


@given(SEEDS)
def test_influence_is_passed_on_whole(seed: int) -> None:
    one = random_graph(seed)
    infl, through = influence(one), edge_influence(one)
    assert np.bincount(one.source, through, len(one)) == pytest.approx(infl, abs=1e-12)
    fed = np.bincount(one.target, np.abs(one.weight), len(one)) > 0
    assert np.bincount(one.target, through, len(one))[fed] == pytest.approx((infl + one.outcome)[fed], abs=1e-12)
    reached = one.outcome[fed].sum()
    assert infl[~fed].sum() == pytest.approx(reached)


@given(SEEDS)
def test_the_order_and_the_sign_of_edges_dont_matter(seed: int) -> None:
    one = random_graph(seed)
    order = np.random.default_rng(seed).permutation(len(one.source))
    edges = list(
        zip(one.source[order].tolist(), one.target[order].tolist(), (-one.weight[order]).tolist(), strict=True)
    )
    targets = np.flatnonzero(one.outcome)
    other = graph(one.kind.tolist(), edges, dict(zip(targets.tolist(), one.outcome[targets].tolist(), strict=True)))
    assert influence(other) == pytest.approx(influence(one), abs=1e-12)
    assert edge_influence(other) == pytest.approx(edge_influence(one)[order], abs=1e-12)


def test_what_comes_from_errors_alone_or_from_nowhere() -> None:
    kind = [TOKEN, ERROR, FEATURE, FEATURE, TARGET]
    errors = graph(kind, [(1, 2, 1.0), (2, 4, 1.0)], {4: 1.0})
    assert scores(errors) == pytest.approx((0, 2 / 3))  # t and the error have 1 each, and f's 1 is an error's
    nowhere = graph(kind, [(1, 2, 1.0), (3, 4, 1.0)], {4: 1.0})
    assert scores(nowhere) == (None, 1)


def test_a_target_that_nothing_feeds_has_no_scores() -> None:
    alone = graph([TOKEN, FEATURE, TARGET], [(0, 1, 1.0), (1, 2, 0.0)], {2: 1.0})
    assert influence(alone).tolist() == [0, 0, 0]
    assert scores(alone) == (None, None)
    assert influence(graph([TOKEN, TARGET], [], {1: 1.0})).tolist() == [0, 0]


def test_an_order_that_isnt_the_models_is_a_bug() -> None:
    with pytest.raises(AssertionError, match="order"):
        graph([TARGET, TOKEN], [(1, 0, 1.0)], {0: 1.0})
    with pytest.raises(AssertionError, match="targets"):
        graph([TOKEN, TARGET], [(0, 1, 1.0)], {0: 1.0})


def test_a_large_graph_is_swept_once() -> None:
    """A chain of 30,000 features, each halved by an error: what goes back to the token is 2⁻³⁰⁰⁰⁰, which is 0."""
    n = 30_000
    kind = [TOKEN] + [ERROR, FEATURE] * n + [TARGET]
    features = [0, *range(2, 2 * n + 1, 2)]
    edges = [(u, d, 1.0) for u, d in pairwise(features)]
    edges += [(d - 1, d, 1.0) for d in features[1:]]
    found = influence(graph(kind, [*edges, (2 * n, 2 * n + 1, 5.0)], {2 * n + 1: 1.0}))
    assert found[[2 * n, 2 * n - 2, 2 * n - 4, 2 * n - 1]].tolist() == [1, 0.5, 0.25, 0.5]
    assert found[0] == 0
