"""How bench spends its time, on a clock that only the work moves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from circuitcli.stages.rounds import LEAST_PAIRS, Clock, Ratio, Times, Visit, interval, spend

STEADY, NOISY = Visit("steady", ("plain",)), Visit("noisy", ("plain", "gemm"))


class Machine:
    """Ways of working that take so many seconds, those of `noise` by a log-normal factor, on a machine that drifts."""

    def __init__(self, seconds: dict[str, float], noise: dict[str, float], *, drift: float = 0.0) -> None:
        self.time, self.drift = 0.0, drift
        draw = np.random.default_rng(0)
        self.calls = dict.fromkeys(seconds, 0)

        def way(name: str):
            def work() -> None:
                self.calls[name] += 1
                busy = math.exp(self.drift * self.time)
                self.time += seconds[name] * busy * math.exp(noise.get(name, 0.0) * draw.standard_normal())

            return work

        self.ways = {name: way(name) for name in seconds}

    def times(self, budget: float) -> Times:
        return Times(Clock(budget, lambda: self.time), lambda: None)


SECONDS = {"plain": 0.3, "gemm": 0.1, "steady": 0.6, "noisy": 1.2}


def test_time_goes_where_the_interval_is_widest():
    machine = Machine(SECONDS, {"noisy": 0.2, "steady": 0.06})
    times = machine.times(400.0)
    spend(times, [STEADY, NOISY], machine.ways)
    steady, noisy = (len(times.costs[visit]) for visit in (STEADY, NOISY))
    assert noisy > 3 * steady > 3 * LEAST_PAIRS
    widths = [times.ratio("plain", way).width for way in ("steady", "noisy")]
    assert widths[1] == pytest.approx(widths[0], rel=0.25), "they end up alike"


@pytest.mark.parametrize("budget", [9.0, 30.0, 200.0])
def test_the_budget_is_used_and_kept(budget):
    machine = Machine(SECONDS, {"noisy": 0.5})
    times, told = machine.times(budget), []
    spend(times, [STEADY, NOISY], machine.ways, told.append)
    longest = max(max(costs) for costs in times.costs.values())
    assert budget - longest <= machine.time <= budget + longest
    assert budget - longest - 1 <= sum(told) <= budget
    assert not any(count < 0 for count in told)


def test_a_small_budget_has_one_round_and_no_intervals():
    """A timing between the rounds of two ways counts in both: three plain ones, not four."""
    machine = Machine(SECONDS, {"noisy": 0.2})
    times = machine.times(0.001)
    spend(times, [STEADY, NOISY], machine.ways)
    assert [len(costs) for costs in times.costs.values()] == [1, 1]
    assert machine.calls == {"plain": 3, "gemm": 2, "steady": 1, "noisy": 1}
    ratio = times.ratio("plain", "noisy")
    assert (ratio.low, ratio.high, (ratio * 2.0).high, ratio.width) == (None, None, None, math.inf)
    assert (ratio * 2.0).value == pytest.approx(0.6 / times.of("noisy"))


def test_rounds_of_one_way_share_no_timing():
    """Or their ratios would hang together, and the interval be too narrow."""
    machine = Machine(SECONDS, {})
    times = machine.times(1e6)
    for _ in range(3):
        times.round(STEADY, machine.ways)
    assert machine.calls["plain"] == 6


def test_what_is_known_well_enough_is_left():
    machine = Machine(SECONDS, {})
    times = machine.times(1e6)
    spend(times, [STEADY, NOISY], machine.ways)
    assert machine.time < 20
    assert times.ratio("noisy", "plain").value == pytest.approx(4.0)
    assert times.ratio("gemm", "noisy").value == pytest.approx(1 / 12)


def test_a_machine_that_grows_slower_gives_the_same_ratio():
    """By its rounds: the medians of the ways are off by far more."""
    machine = Machine(SECONDS, {"noisy": 0.05}, drift=0.03)
    times = machine.times(100.0)
    spend(times, [NOISY], machine.ways)
    ratio = times.ratio("noisy", "plain")
    assert ratio.low < 4.0 < ratio.high
    assert ratio.value == pytest.approx(4.0, rel=0.05)
    assert max(times.seconds["plain"]) > 5 * min(times.seconds["plain"])


def test_work_that_is_over_at_once_is_repeated():
    machine = Machine({"quick": 1e-4, "slow": 1.0}, {})
    times = machine.times(1.0)
    times.round(Visit("slow", ("quick",)), machine.ways)
    assert times.seconds["quick"] == pytest.approx([1e-4, 1e-4])
    assert machine.calls["quick"] > 500


def test_the_interval_by_the_textbook():
    """exp(mean ± 2.776 s/√5) of five logarithms."""
    logs = np.array([0.1, -0.2, 0.05, 0.3, 0.0])
    half = 2.776 * math.sqrt(((logs - 0.05) ** 2).sum() / 4 / 5)
    found = interval(np.exp(logs).tolist())
    assert found.value == pytest.approx(math.exp(0.05))
    assert (found.low, found.high) == pytest.approx((math.exp(0.05 - half), math.exp(0.05 + half)))
    assert found.rounds == 5
    assert (found * 10.0).high == pytest.approx(10 * found.high)
    assert interval([4.0]) == Ratio(4.0, None, None, 1)
    assert interval([2.0, 8.0]).low is None


def test_intervals_hold_what_they_say():
    """Of 400 simulated benches of three, six and forty rounds about 95% hold the true ratio."""
    draw = np.random.default_rng(1)
    for rounds in (3, 6, 40):
        found = [interval(np.exp(0.3 * draw.standard_normal(rounds)).tolist()) for _ in range(400)]
        assert 0.92 <= np.mean([one.low <= 1.0 <= one.high for one in found]) <= 0.98
