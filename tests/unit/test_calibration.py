"""Calibration beside scipy, plain repetition of items, a case by hand, and bootstraps one resample at a time."""

import json
import time
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from circuitcli.core.attributed import Calibration, Measure
from circuitcli.core.calibration import calibrate, kind_of
from circuitcli.core.concordance import Pairs
from circuitcli.core.sites import SITES
from circuitcli.core.strata import sample
from circuitcli.core.untrusted import read

MEASURES = ("pearson", "spearman", "sign", "slope", "recall")
VALUE = st.sampled_from([0.0, 0.0, -2.0, -0.5, 0.25, 0.5, 1.0, 1.0, 3.0])
TRIPLES = st.lists(st.tuples(VALUE, VALUE, st.integers(1, 4)), min_size=1, max_size=25)


def of(x: Any, y: Any, weight: Any = None, **changes: Any) -> Calibration:
    x, y = np.asarray(x, float), np.asarray(y, float)
    weight = np.ones(len(x)) if weight is None else np.asarray(weight, float)
    facts = {"of": "nodes", "method": "atp", "kind": "all", "total": len(x), "seed": 0}
    return calibrate(x, y, weight, **{**facts, **changes})


def values(found: Calibration) -> list[float | None]:
    return [getattr(found, name).value for name in MEASURES]


def noisy(n: int, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    return x, x + noise * rng.normal(size=n)


def test_by_hand() -> None:
    """x = (3, 2, −1, 0), y = (2, 4, 1, 0).

    pearson: x̄ = 1, ȳ = 7/4; Σxy − 4·x̄ȳ = 13 − 7 = 6; Σx² − 4 = 10; Σy² − 4·49/16 = 21 − 12.25 = 8.75; 6/√87.5.
    spearman: ranks (4, 3, 1, 2) and (3, 4, 2, 1): 1 − 6·(1 + 1 + 1 + 1)/(4·15) = 0.6.
    sign: of three that aren't both 0 two agree. slope: 13 / 14.
    recall, k = 2: |y| is largest of the 2nd and the 1st, |x| of the 1st and the 2nd: 1; k = 1: 0.
    """
    found = of([3, 2, -1, 0], [2, 4, 1, 0], top=2)
    assert values(found) == pytest.approx([6 / np.sqrt(87.5), 0.6, 2 / 3, 13 / 14, 1.0], abs=1e-12)
    assert of([3, 2, -1, 0], [2, 4, 1, 0], top=1).recall.value == 0
    assert (found.n, found.total, found.top, found.of, found.method, found.kind) == (4, 4, 2, "nodes", "atp", "all")


@given(TRIPLES)
def test_without_weights_it_is_what_scipy_says(triples: list[tuple[float, float, int]]) -> None:
    x, y = (np.asarray(column) for column in list(zip(*triples, strict=True))[:2])
    found = of(x, y)
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert found.pearson.value == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-12)
        assert found.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    else:
        assert found.pearson == found.spearman == Measure(None)
    if x.any():
        assert found.slope.value == pytest.approx(np.linalg.lstsq(x[:, None], y, rcond=None)[0][0], abs=1e-12)
    else:
        assert found.slope == Measure(None)
    counted = [(a, b) for a, b in zip(x, y, strict=True) if a or b]
    share = np.mean([a * b > 0 for a, b in counted]) if counted else None
    assert found.sign.value == (pytest.approx(share) if counted else None)


@given(TRIPLES, st.integers(1, 9))
def test_an_item_of_weight_w_counts_as_w_items(triples: list[tuple[float, float, int]], top: int) -> None:
    x, y, weight = (np.asarray(column) for column in zip(*triples, strict=True))
    top = min(top, int((y != 0).sum()))  # repeated, more of them aren't 0
    once = of(x, y, weight, top=top)
    repeated = of(np.repeat(x, weight), np.repeat(y, weight), top=top)
    for one, other in zip(values(once), values(repeated), strict=True):
        assert (one is None) == (other is None)
        assert one is None or one == pytest.approx(other, abs=1e-9)


@given(st.permutations(range(12)), st.permutations(range(12)), st.integers(1, 30))
def test_recall_is_a_share_of_two_sets(a: list[int], b: list[int], top: int) -> None:
    x, y = (np.asarray(one) * np.resize([1, -1], 12) for one in (a, b))
    k = min(top, 11)  # one of them is 0
    best = [set(sorted(range(12), key=lambda i: -abs(one[i]))[:k]) for one in (x, y)]
    found = of(x, y, top=top)
    assert found.top == k
    assert found.recall.value == pytest.approx(len((best[0] & best[1]) - {a.index(0)}) / k)


@given(TRIPLES, st.integers(1, 9))
def test_measures_lie_in_their_bounds_and_are_best_of_the_exact_values(
    triples: list[tuple[float, float, int]], top: int
) -> None:
    x, y, weight = zip(*triples, strict=True)
    found = of(x, y, weight, top=top)
    for name, low in {"pearson": -1, "spearman": -1, "sign": 0, "recall": 0}.items():
        one = getattr(found, name)
        for bound in (one.value, one.low, one.high):
            assert bound is None or low <= bound <= 1 + 1e-12
    best = values(of(y, y, weight, top=top))
    assert best == pytest.approx([None if one is None else 1.0 for one in best])
    assert (best[3] is None) == (not any(y))


def test_recall_of_estimates_that_tell_nothing_apart_is_chance() -> None:
    """Three of twelve are the largest; in whatever order they come."""
    y = np.asarray([9.0, 8, 7, *range(1, 7), 1, 1, 1])
    assert [of(np.ones(12), one, top=3).recall.value for one in (y, y[::-1])] == pytest.approx([3 / 12] * 2)
    assert of(np.zeros(12), y, top=3).recall.value == 0


def test_any_weights_are_as_if_items_were_repeated() -> None:
    """Many at once, most items 0 times, so that the few largest don't suffice; each row beside a plain repetition."""
    rng = np.random.default_rng(0)
    x, y = noisy(300)
    times = rng.poisson(np.where(rng.random((40, 1)) < 0.5, 0.05, 1.0), size=(40, 300))
    times[0, np.argsort(-abs(y))[:200]] = 0
    found = Pairs.of(x, y, np.ones(300), 4).measures(times.astype(float))
    for row, many in zip(found, times, strict=True):
        a, b = np.repeat(x, many), np.repeat(y, many)
        expected = [stats.pearsonr(a, b).statistic, stats.spearmanr(a, b).statistic, np.mean(a * b > 0)]
        expected += [(a * b).sum() / (a * a).sum(), of(a, b, top=4).recall.value]
        assert row == pytest.approx(expected, abs=1e-9)


def test_values_that_are_constant_in_a_resample_have_no_correlation_there() -> None:
    """However they are rounded."""
    x, y = noisy(60)
    for same in (0.1, 1 / 3, 1e5):
        x[:30] = same
        found = Pairs.of(x, y, np.ones(60), 5).measures(np.repeat([[3.7, 0.0], [3.7, 3.7]], 30, axis=1))
        assert np.isnan(found[0, :2]).all()
        assert np.isfinite(found[0, 2:]).all()
        assert np.isfinite(found[1]).all()


def test_undefined_values_are_null() -> None:
    both_zero = of(np.zeros(8), np.zeros(8))
    assert [getattr(both_zero, name) for name in MEASURES] == [Measure(None)] * 5
    assert both_zero.top == 0
    constant = of(np.full(8, 0.1), np.arange(8))  # 0.1 isn't its own mean, in floating point
    assert constant.pearson == constant.spearman == Measure(None)
    assert constant.slope.value == pytest.approx(35.0)
    assert values(of([], [])) == [None] * 5
    assert of([], []).n == 0


def test_a_slope_beyond_all_numbers_of_the_file_is_null() -> None:
    found = of([1e-30, 2e-30, 3e-30, 2e-30, 1e-30], [1e30, 2e30, 1e30, 3e30, 1e30])
    assert found.slope == Measure(None)
    assert found.pearson.value is not None


def test_fewer_than_five_items_have_no_interval() -> None:
    four, five = (of(*noisy(n)) for n in (4, 5))
    assert [(m.low, m.high) for m in (getattr(four, name) for name in MEASURES)] == [(None, None)] * 5
    assert None not in values(four)
    assert five.pearson.low is not None
    assert five.pearson.high is not None


def test_intervals_of_normal_data_are_the_textbooks() -> None:
    x, y = noisy(800)
    found = of(x, y)
    fisher = np.tanh(np.arctanh(found.pearson.value) + np.asarray([-1.96, 1.96]) / np.sqrt(797))
    width = fisher[1] - fisher[0]
    assert [found.pearson.low, found.pearson.high] == pytest.approx(fisher, abs=0.15 * width)
    half = 1.96 / np.linalg.norm(x)
    assert [found.slope.low, found.slope.high] == pytest.approx(
        found.slope.value + half * np.asarray([-1, 1]), abs=0.2 * half
    )
    share = found.sign.value
    half = 1.96 * np.sqrt(share * (1 - share) / 800)
    assert [found.sign.low, found.sign.high] == pytest.approx([share - half, share + half], abs=0.2 * half)


def intervals_one_at_a_time(
    x: np.ndarray, y: np.ndarray, weight: np.ndarray, draw: Any, rounds: int = 2000
) -> dict[str, tuple[float, float]]:
    """Percentiles over resamples that `draw` gives, each computed as if it were what was measured."""
    many = []
    for _ in range(rounds):
        one = draw()
        a, b, w = x[one], y[one], weight[one].astype(int)
        a, b = np.repeat(a, w), np.repeat(b, w)
        many.append([np.corrcoef(a, b)[0, 1], stats.spearmanr(a, b).statistic])
    low, high = np.percentile(many, [2.5, 97.5], axis=0)
    return {"pearson": (low[0], high[0]), "spearman": (low[1], high[1])}


def assert_near(found: Calibration, expected: dict[str, tuple[float, float]]) -> None:
    for name, (low, high) in expected.items():
        one = getattr(found, name)
        assert [one.low, one.high] == pytest.approx([low, high], abs=0.2 * (high - low))


def test_items_are_drawn_within_their_strata() -> None:
    """Ten large ones of weight 1, thirty others that stand for 9 each: so many of each are in every resample."""
    rng = np.random.default_rng(3)
    x, y = noisy(40, 4, noise=0.8)
    x[:10], y[:10] = 4 * x[:10], 4 * y[:10]
    weight = np.where(np.arange(40) < 10, 1, 9)
    strata = np.arange(10), np.arange(10, 40)
    within = intervals_one_at_a_time(
        x, y, weight, lambda: np.concatenate([rng.choice(held, size=len(held)) for held in strata])
    )
    assert_near(of(x, y, weight), within)
    alike = of([1.0] * 25, [1.0] * 5 + [0.0] * 20, [1.0] * 5 + [3.0] * 20)
    assert [alike.slope.value, alike.slope.low, alike.slope.high] == pytest.approx([5 / 65] * 3)
    mixed = of([1.0] * 25, [1.0] * 5 + [0.0] * 20)  # one stratum: how many of each are drawn varies
    assert mixed.slope.high - mixed.slope.low > 0.1


def test_whole_prompts_are_drawn_where_there_are_five() -> None:
    """Estimates are off by as much in all of a prompt: the interval is wider than if its items were strangers."""
    rng = np.random.default_rng(5)
    prompt = np.repeat(np.arange(12), 20)
    x = rng.normal(size=240) + rng.normal(size=12)[prompt]
    y = x + 0.3 * rng.normal(size=240) + 1.5 * rng.normal(size=12)[prompt]
    parts = [np.flatnonzero(prompt == one) for one in range(12)]
    clustered = intervals_one_at_a_time(
        x, y, np.ones(240), lambda: np.concatenate([parts[i] for i in rng.integers(12, size=12)])
    )
    found, plain = of(x, y, prompt=prompt), of(x, y)
    assert_near(found, clustered)
    assert found.pearson.high - found.pearson.low > 1.5 * (plain.pearson.high - plain.pearson.low)
    assert values(found) == values(plain)
    assert of(x, y, prompt=prompt % 4) == plain
    names = np.asarray([f"prompt {i}" for i in range(12)])[np.argsort(rng.random(12))]
    assert of(x, y, prompt=names[prompt]).pearson.low == pytest.approx(found.pearson.low, abs=0.1)


def test_the_seed_decides() -> None:
    x, y = noisy(60)
    assert of(x, y) == of(x, y)
    assert of(x, y).pearson.low != of(x, y, seed=1).pearson.low
    assert values(of(x, y)) == values(of(x, y, seed=1))


def test_a_weighted_sample_says_what_all_would() -> None:
    """Of 4,000 the 40 largest estimates and 160 others: over many draws, on the mean, near the values of all."""
    rng = np.random.default_rng(6)
    x = np.exp(1.5 * rng.normal(size=4000)) * rng.choice([-1, 1], size=4000)
    y = 0.8 * x + np.exp(rng.normal(size=4000)) * rng.choice([-1, 1], size=4000)
    found, unweighted = [], []
    for seed in range(60):
        drawn = sample(abs(x), 40, 160, seed)
        found.append(values(of(x[drawn.index], y[drawn.index], drawn.weight, seed=seed)))
        unweighted.append(values(of(x[drawn.index], y[drawn.index], seed=seed)))
    everything = np.asarray(values(of(x, y)))
    assert np.mean(found, axis=0)[:4] == pytest.approx(everything[:4], abs=0.03)
    assert np.mean(found, axis=0)[4] == pytest.approx(everything[4], abs=0.1)
    # Left alone the large ones, which were all drawn, would make estimates look better than they are.
    assert (np.mean(unweighted, axis=0)[[1, 2]] > everything[[1, 2]] + 0.03).all()


@pytest.mark.timed
def test_thirty_thousand_take_no_time() -> None:
    x, y = noisy(30_000)
    start = time.thread_time()
    found = of(x, y, np.resize([1.0, 2.0], 30_000))
    assert time.thread_time() - start < 2  # half a second here
    assert found.pearson.high - found.pearson.low < 0.02


def test_it_can_be_written_and_read_back() -> None:
    for found in (of(*noisy(30)), of([], []), of([0.0] * 6, [1.0] * 6)):
        assert read(Calibration, json.loads(json.dumps(asdict(found), allow_nan=False)), "calibration") == found


def test_kinds_of_sites() -> None:
    found = {site: kind_of(site) for site in SITES}
    assert found == {
        "resid_pre": "resid",
        "z": "attention",
        "attn_out": "attention",
        "resid_mid": "resid",
        "mlp_in": "mlp",
        "mlp_out": "mlp",
        "resid_post": "resid",
    }
