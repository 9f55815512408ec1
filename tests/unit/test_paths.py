"""Strongest paths beside all simple paths that networkx finds."""

import time
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.attribution_graphs import BY_HAND, A, B, F, G, T, dense_shares, random_graph

from circuitcli.core.influence import FEATURE, TARGET, TOKEN, AttributionGraph, influence
from circuitcli.core.paths import paths

SEEDS = st.integers(0, 10_000)


def test_by_hand() -> None:
    """a→f→g→t 3/4·1/2·3/4, a→f→t 3/4·1/4, b→f→g→t 1/4·1/2·3/4, b→f→t 1/4·1/4; none begins at the error."""
    expected = [((A, F, G, T), 9 / 32), ((A, F, T), 6 / 32), ((B, F, G, T), 3 / 32), ((B, F, T), 2 / 32)]
    assert paths(BY_HAND, 9) == expected
    assert paths(BY_HAND, 3) == expected[:3]
    assert paths(BY_HAND, 0) == []


@given(SEEDS, st.integers(1, 30))
def test_they_are_the_strongest_of_all_simple_paths(seed: int, count: int) -> None:
    one = random_graph(seed, n=12)
    shares = dense_shares(one)
    whole = nx.DiGraph(zip(one.source.tolist(), one.target.tolist(), strict=True))
    everything = {}
    for target in np.flatnonzero(one.outcome).tolist():
        for token in np.flatnonzero(one.kind == TOKEN).tolist():
            if token in whole and target in whole:
                for way in nx.all_simple_paths(whole, token, target):
                    strength = one.outcome[target] * np.prod([shares[d, u] for u, d in pairwise(way)])
                    everything[tuple(way)] = strength
    expected = sorted((s for s in everything.values() if s > 0), reverse=True)
    found = paths(one, count)
    assert [path.strength for path in found] == pytest.approx(expected[:count], abs=1e-15)
    assert len({path.nodes for path in found}) == len(found)
    for path in found:
        assert path.strength == pytest.approx(everything[path.nodes])


@given(SEEDS)
def test_all_paths_together_are_the_influence_of_tokens(seed: int) -> None:
    one = random_graph(seed, n=12)
    total = sum(path.strength for path in paths(one, 10**6))
    assert total == pytest.approx(influence(one)[one.kind == TOKEN].sum(), abs=1e-12)


@pytest.mark.timed
def test_few_of_very_many_paths_are_found_at_once() -> None:
    """24 layers of 40 features, all of one fed by all of the one before: 40²⁴ paths over 37,000 edges."""
    layers, width, tokens = 24, 40, 16
    rng = np.random.default_rng(0)
    first = tokens + width * np.arange(layers)
    n = tokens + width * layers + 1
    ends = [np.meshgrid(np.arange(tokens), first[0] + np.arange(width))]
    ends += [np.meshgrid(a + np.arange(width), b + np.arange(width)) for a, b in pairwise(first)]
    ends += [np.meshgrid(first[-1] + np.arange(width), [n - 1])]
    source, target = (np.concatenate([part[i].ravel() for part in ends]) for i in (0, 1))
    kind = np.full(n, FEATURE, np.int8)
    kind[:tokens], kind[-1] = TOKEN, TARGET
    one = AttributionGraph(source, target, rng.normal(size=len(source)) ** 3, kind, np.eye(n)[-1])
    start = time.thread_time()
    found = paths(one, 100)
    assert time.thread_time() - start < 1
    assert len(found) == 100
    assert [path.strength for path in found] == sorted((path.strength for path in found), reverse=True)
