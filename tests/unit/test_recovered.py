"""Precision, recall and the area under the ROC curve, beside counting."""

import numpy as np
import pytest

from circuitcli.core.recovered import Recovery, found, recovery


def test_by_hand() -> None:
    effect = np.asarray([-4.0, 0.004, 0.0039, 0.0, 2.0])
    assert found(effect).tolist() == [True, True, False, False, True]
    true = np.asarray([True, False, True, False, True])
    # Found are 0, 1 and 4, of which 1 isn't true; of what is true 2 is missed. Of six pairs 2 and 1 alone are wrong.
    assert recovery(effect, true) == Recovery(2 / 3, 2 / 3, 5 / 6)


@pytest.mark.parametrize("seed", range(20))
def test_the_area_is_the_chance_that_something_true_is_larger(seed: int) -> None:
    rng = np.random.default_rng(seed)
    effect = rng.integers(-3, 4, 30) * rng.choice([1.0, 0.5], 30)
    true = rng.random(30) < 0.4
    above = [(abs(a) > abs(b)) + 0.5 * (abs(a) == abs(b)) for a in effect[true] for b in effect[~true]]
    here = np.abs(effect) >= 1e-3 * np.abs(effect).max()
    expected = Recovery((here & true).sum() / here.sum(), (here & true).sum() / true.sum(), np.mean(above))
    assert vars(recovery(effect, true)) == pytest.approx(vars(expected))


def test_where_nothing_is_found_or_nothing_is_false() -> None:
    assert recovery(np.zeros(3), np.asarray([True, False, False])) == Recovery(None, 0.0, 0.5)
    assert recovery(np.asarray([1.0, 2.0]), np.asarray([True, True])) == Recovery(1.0, 1.0, None)


def test_how_zeros_were_rounded_decides_nothing() -> None:
    effect, true = np.asarray([3.0, 2e-8, -1e-9, 0.0, 1e-4]), np.asarray([True, True, False, False, False])
    assert recovery(effect, true).auroc == pytest.approx((3 + (0.5 + 0.5 + 0)) / 6)
    assert recovery(effect * [1, -0.0, 5, 0, 2], true).auroc == recovery(effect, true).auroc
    above = np.asarray([3.0, 4e-5, 0.0, 0.0, 3.1e-5])  # no rounding any more
    assert recovery(above, true).auroc == 1
