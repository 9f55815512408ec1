"""Samples of nodes: laws of strata and draws, and that weighted sums over many samples tend to those over all."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitcli.core.strata import STRATA, sample, strata

SIZES = st.lists(st.sampled_from([0.0, 0.0, 1e-12, 1e-3, 0.5, 0.5, 0.7, 1.0, 3.0, 40.0]), max_size=60).map(np.asarray)


def heavy_tailed(n: int, spread: float = 2.0) -> np.ndarray:
    """As effects are: most next to nothing, few large; a fifth exactly 0."""
    rng = np.random.default_rng(0)
    return np.where(rng.random(n) < 0.2, 0, np.exp(spread * rng.normal(size=n)))


@given(SIZES, st.integers(1, 7))
def test_strata_go_by_size(size: np.ndarray, count: int) -> None:
    found = strata(size.astype(float), count)
    assert np.array_equal(found == 0, size == 0)
    for one, other in zip(found, size, strict=True):
        assert (found[size == other] == one).all()  # ties
        assert (found[size > other] >= one).all()
    some = np.unique(found[size > 0])
    assert some.tolist() == list(range(1, len(some) + 1))
    assert len(some) <= count


def test_sizes_that_differ_in_their_last_bit_make_strata_like_any_others() -> None:
    assert strata(np.asarray([1, np.nextafter(1, 2), 1]), 2).tolist() == [1, 2, 1]
    assert strata(np.asarray([1e10, np.nextafter(1e10, 2e10), 1e10]), 2).tolist() == [1, 1, 1]  # their logs are equal


def test_strata_of_the_large_are_smaller_than_quantiles_but_hold_some() -> None:
    size = heavy_tailed(20_000)
    held = np.bincount(strata(size, 5))
    assert len(held) == 6
    assert held[0] == (size == 0).sum()
    assert 0.01 * len(size) < held[5] < 0.1 * len(size)  # a fifth by quantiles
    assert held[1] < 0.1 * len(size)
    assert held[3] == held[1:].max()  # of equal width on the log scale, nearly: sizes are log-normal


@given(SIZES, st.integers(0, 12), st.integers(0, 12), st.integers(0, 5))
def test_a_sample_stands_for_all(size: np.ndarray, certain: int, more: int, seed: int) -> None:
    size = size.astype(float)
    drawn = sample(size, certain, more, seed)
    n = len(size)
    assert drawn.index.tolist() == sorted(set(drawn.index.tolist()))
    assert len(drawn.index) == len(drawn.weight) == min(n, certain + more)
    assert (drawn.weight >= 1).all()
    if n <= certain + more:
        assert drawn.weight.tolist() == [1.0] * n
        return
    largest = sorted(range(n), key=lambda i: (-size[i], i))[:certain]
    assert (drawn.weight[np.isin(drawn.index, largest)] == 1).all()
    assert set(largest) <= set(drawn.index.tolist())
    assert drawn.weight.sum() == pytest.approx(n if more else certain)
    again = sample(size, certain, more, seed)
    assert (again.index.tolist(), again.weight.tolist()) == (drawn.index.tolist(), drawn.weight.tolist())


def test_each_stratum_gives_about_as_many() -> None:
    size = heavy_tailed(5000)
    drawn = sample(size, 50, 203, 1)
    rest = np.sort(np.argsort(-size, kind="stable")[50:])
    stratum = dict(zip(rest.tolist(), strata(size[rest], STRATA).tolist(), strict=True))
    given_by = np.bincount([stratum[i] for i in drawn.index.tolist() if i in stratum])
    assert given_by.sum() == 203
    assert given_by.max() - given_by.min() <= 1
    held = np.bincount(list(stratum.values()))
    for i, weight in zip(drawn.index.tolist(), drawn.weight.tolist(), strict=True):
        assert weight == (held[stratum[i]] / given_by[stratum[i]] if i in stratum else 1)


def test_a_small_stratum_gives_all_it_has_and_the_others_more() -> None:
    size = np.asarray([0.0] * 3 + [1.0] * 500)
    drawn = sample(size, 0, 40, 0)
    assert [(drawn.weight[size[drawn.index] == s]).tolist() for s in (0, 1)] == [[1.0] * 3, [500 / 37] * 37]


@pytest.mark.parametrize("more", range(1, 9))
def test_few_draws_stand_for_all_as_well(more: int) -> None:
    """Fewer than there would be strata: each stratum gives one at least."""
    drawn = sample(heavy_tailed(500), 3, more, 0)
    assert len(drawn.index) == 3 + more
    assert drawn.weight.sum() == pytest.approx(500)


def test_another_seed_draws_others() -> None:
    size = heavy_tailed(500)
    first, second = (set(sample(size, 10, 40, seed).index.tolist()) for seed in (0, 1))
    assert set(np.argsort(-size)[:10].tolist()) <= first & second
    assert len(first & second) < 40


def test_weighted_sums_tend_to_those_over_all_and_vary_less_than_those_of_plain_samples() -> None:
    size = heavy_tailed(4000, 1.0)
    value = size * np.random.default_rng(1).normal(1, 0.3, size=len(size))  # what is measured; the size is an estimate
    largest, rest = np.split(np.argsort(-size), [40])
    rng, found, plain = np.random.default_rng(2), [], []
    for seed in range(300):
        drawn = sample(size, 40, 160, seed)
        found.append((drawn.weight * value[drawn.index]).sum())
        plain.append(value[largest].sum() + value[rng.choice(rest, 160, replace=False)].mean() * len(rest))
    error = np.std(found) / np.sqrt(len(found))
    assert np.mean(found) == pytest.approx(value.sum(), abs=3 * error)
    assert np.std(found) < 0.6 * np.std(plain)
