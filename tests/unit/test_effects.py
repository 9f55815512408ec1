"""Mean effects and their intervals: plain loops, closed forms, and the cases without an interval."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitcli.core.effects import MeanEffects, mean_effects
from circuitcli.core.sites import FeatureId, Site

FEATURE = FeatureId(Site(0, "mlp_out"), 5)


def summarise(dense: np.ndarray, sequences: list[int], seed: int = 0) -> MeanEffects:
    """`dense` holds the effect in each context on each target; zeros aren't stored."""
    context, target = np.nonzero(dense)
    effect = dense[context, target].astype(np.float64)
    return mean_effects(context, target, effect, np.asarray(sequences), dense.shape[1], seed=seed, feature=FEATURE)


@given(
    st.integers(2, 8).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(0, 3), min_size=n, max_size=n),
            st.lists(st.lists(st.sampled_from([0, 0, 1.0, -2.0, 0.5]), min_size=3, max_size=3), min_size=n, max_size=n),
        )
    )
)
def test_mean_and_deviation_count_contexts_without_a_change_as_0(case: tuple[list[int], list[list[float]]]) -> None:
    sequences, table = case
    dense = np.asarray(table)
    found = summarise(dense, sequences)
    assert found.mean == pytest.approx(dense.mean(0), abs=1e-12)
    assert found.std == pytest.approx(dense.std(0, ddof=1), abs=1e-12)
    assert np.isnan(found.ci_low).all() == (len(set(sequences)) < 2)


def test_fewer_than_two_contexts_have_no_deviation_and_no_interval() -> None:
    found = summarise(np.asarray([[2.0, -1.0]]), [4])
    assert found.mean.tolist() == [2.0, -1.0]
    assert np.isnan([found.std, found.ci_low, found.ci_high]).all()


def test_one_sequence_alone_has_a_deviation_but_no_interval() -> None:
    found = summarise(np.asarray([[1.0], [3.0]]), [4, 4])
    assert found.std[0] == pytest.approx(np.sqrt(2))
    assert np.isnan([found.ci_low, found.ci_high]).all()


def test_a_feature_that_changes_nothing_has_no_rows() -> None:
    found = summarise(np.zeros((3, 0)), [0, 1, 2])
    assert [len(part) for part in (found.mean, found.std, found.ci_low, found.ci_high)] == [0, 0, 0, 0]


def test_the_interval_of_normal_data_is_the_textbooks() -> None:
    n = 400
    sample = np.random.default_rng(1).normal(0.5, 2.0, size=(n, 3))
    found = summarise(sample, list(range(n)))
    half = 1.96 * sample.std(0, ddof=1) / np.sqrt(n)
    assert found.ci_low == pytest.approx(sample.mean(0) - half, abs=0.15 * half.max())
    assert found.ci_high == pytest.approx(sample.mean(0) + half, abs=0.15 * half.max())


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng, covered = np.random.default_rng(2), 0
    for seed in range(200):
        found = summarise(rng.normal(1.0, 1.0, size=(40, 1)), list(range(40)), seed=seed)
        covered += found.ci_low[0] <= 1.0 <= found.ci_high[0]
    assert 0.88 * 200 <= covered <= 0.99 * 200


def test_contexts_of_one_sequence_are_drawn_together() -> None:
    """Eight copies of each of fifty sequences say no more than one copy: the interval must not shrink by √8."""
    single = np.random.default_rng(3).normal(size=(50, 1))
    alone = summarise(single, list(range(50)))
    copied = summarise(np.repeat(single, 8, axis=0), np.repeat(np.arange(50), 8).tolist())
    width = alone.ci_high[0] - alone.ci_low[0]
    assert copied.ci_high[0] - copied.ci_low[0] == pytest.approx(width, rel=1e-9)


def test_the_interval_against_resampling_one_sequence_at_a_time() -> None:
    rng = np.random.default_rng(4)
    sequences = rng.integers(0, 12, size=60)
    dense = np.where(rng.random((60, 2)) < 0.5, rng.normal(1, 1, size=(60, 2)), 0)
    found = summarise(dense, sequences.tolist())
    names, means = np.unique(sequences), []
    for _ in range(4000):  # with other random numbers
        drawn = np.concatenate([np.flatnonzero(sequences == s) for s in rng.choice(names, size=len(names))])
        means.append(dense[drawn].mean(0))
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    width = (high - low).max()
    assert found.ci_low == pytest.approx(low, abs=0.08 * width)
    assert found.ci_high == pytest.approx(high, abs=0.08 * width)


def test_many_targets_are_all_treated_alike() -> None:
    """More targets than are resampled at once; each holds the same effects."""
    column = np.random.default_rng(5).normal(size=(6, 1))
    found = summarise(np.repeat(column, 5000, axis=1), list(range(6)))
    alone = summarise(column, list(range(6)))
    assert found.ci_low == pytest.approx(np.full(5000, alone.ci_low[0]))
    assert found.ci_high == pytest.approx(np.full(5000, alone.ci_high[0]))
