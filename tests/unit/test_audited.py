"""Whether the model needs a feature: verdicts on made-up numbers, and ranks by plain loops."""

import numpy as np
import pytest
from scipy import stats

from circuitcli.core.evidence.audited import Audited, audited, ranked_on, ranks
from circuitcli.core.evidence.faithfulness import Scale

EXAMPLES = 30


def found(*lost: np.ndarray, span: float = 2.0, fires: int = 1, alone: float = 0.25) -> list[Audited]:
    """Features whose m(M) − m(M∖v) is given on each example; m(M) − m(∅) is 2 on average, or `span`."""
    n = len(lost[0])
    random = np.random.default_rng(1)
    nothing = random.normal(-5, 1, n)
    everything = nothing + span + 0.1 * random.normal(0, 1, n)
    without = np.stack([everything - one for one in lost])
    by_itself = np.tile(nothing + alone * (everything - nothing), (len(lost), 1))
    count = np.full(without.shape, fires)
    return audited(Scale.of(nothing, everything, 0), without, by_itself, count, 3.0 * count)


def noisy(mean: float, spread: float, n: int = EXAMPLES) -> np.ndarray:
    """Differences of exactly this mean."""
    noise = np.random.default_rng(2).normal(0, spread, n)
    return mean + noise - noise.mean()


VERDICTS = {
    "needed": noisy(0.5, 0.2),
    "against": noisy(-0.5, 0.2),
    "not needed": noisy(0.001, 0.02),
    "unclear": noisy(0.1, 2.0),
}


@pytest.mark.parametrize("verdict", VERDICTS)
def test_verdicts(verdict: str) -> None:
    [one] = found(VERDICTS[verdict])
    assert one.verdict == verdict
    assert one.drop.value == pytest.approx(VERDICTS[verdict].mean())
    low, high = (end for end in (one.drop.low, one.drop.high) if end is not None)
    assert low < one.drop.value < high
    test = stats.bootstrap((VERDICTS[verdict],), np.mean, method="percentile", rng=np.random.default_rng(5))
    width = test.confidence_interval.high - test.confidence_interval.low
    assert high - low == pytest.approx(width, rel=0.15)


def test_little_is_not_needed_however_sure() -> None:
    """2% of what the model does, on every example alike: the sign test is sure of it, and it is no more than that."""
    [one] = found(noisy(0.04, 0.001))
    assert one.q is not None
    assert one.q < 0.001
    assert one.verdict == "not needed"
    assert one.share.value == pytest.approx(0.02, abs=0.002)


def test_little_of_what_is_not_there_says_nothing() -> None:
    """Where the model does no better than with nothing a share is of nothing: what is lost still counts."""
    assert [one.verdict for one in found(noisy(0.0001, 0.01), noisy(0.5, 0.2), span=0.0)] == ["unclear", "needed"]


def test_of_few_examples_nothing_is_said() -> None:
    """Four have no interval; of five that agree the sign test says 2/32."""
    for n in (4, 5):
        [one] = found(noisy(0.5, 0.01, n))
        assert one.verdict == "unclear"
    assert one.p == pytest.approx(2 / 32)


def test_one_that_does_not_fire_is_not_tested() -> None:
    one, _ = found(noisy(0.5, 0.2), noisy(0.3, 0.2))
    nothing, everything = np.zeros(EXAMPLES), np.ones(EXAMPLES)
    silent = np.stack([everything, everything - 0.5])
    fires = np.stack([np.zeros(EXAMPLES, int), np.arange(EXAMPLES) % 3])
    off, on = audited(Scale.of(nothing, everything, 0), silent, silent, fires, 2.5 * fires)
    assert (off.verdict, off.fires, off.activation, off.p, off.q) == ("silent", 0, None, None, None)
    assert (on.fires, on.activation) == (20, 2.5)
    assert on.q == on.p, "q is of those that were tested"
    assert one.q is not None


def test_q_is_of_all_features_together() -> None:
    lost = [noisy(mean, 1.0) for mean in (0.9, 0.5, 0.4, 0.1)]
    told = found(*lost)
    np.testing.assert_allclose([one.q for one in told], stats.false_discovery_control([one.p for one in told]))
    assert [one.p for one in told] == [found(one)[0].p for one in lost], "p is of each by itself"


def test_alone_is_a_share() -> None:
    [one] = found(noisy(0.5, 0.2), alone=0.25)
    assert one.alone.value == pytest.approx(0.25)


def test_ranks_by_plain_loops() -> None:
    random = np.random.default_rng(3)
    own, others = random.normal(0.3, 1, 12), random.normal(0, 1, (12, 40))
    expected = [
        1 + sum(abs(other) > abs(mine) for other in row.tolist())
        for mine, row in zip(own.tolist(), others, strict=True)
    ]
    got = ranked_on(own, others)
    assert got.tolist() == expected
    assert len(set(expected)) > 2
    told = ranks(got, 41)
    assert (told.best, told.worst, told.median) == (min(expected), max(expected), np.median(expected))
    assert (told.halves, told.among) == (12, 41)
    assert told.top == sum(rank <= 10 for rank in expected)


def test_a_feature_that_does_nothing_ranks_last() -> None:
    assert ranked_on(np.zeros(2), np.asarray([[1.0, 0.0], [0.0, 0.0]])).tolist() == [3, 3]
    told = ranks(np.asarray([1, 1, 11]), 20)
    assert (told.first, told.top) == (2, 2)
