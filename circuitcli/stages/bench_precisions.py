"""bench --precisions: how fast the engine is in each precision that a device has, and how far from float32 on the CPU.

1.  The case is in float32 on the CPU. There ablations are chosen, and some of them made the plain way
    (`core.reference`): all precisions are held against these.
2.  Each precision takes the same weights, rounded, and the same dictionaries, which stay in float32. What fires is
    found again, and the same ablations are made, at the same contexts.
3.  Rounds time each between two timings of float32 on the same device (see `rounds`). Ablations are made as in a run,
    with logits and the clean passes that they need.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch

from circuitcli.runtime.device import Runtime, device_name, synchronize
from circuitcli.runtime.engine import Engine, engine
from circuitcli.runtime.precision import FLOAT32, Precision, precisions
from circuitcli.stages.cases import Case
from circuitcli.stages.report import Report
from circuitcli.stages.rounds import Clock, Ratio, Times, Visit, spend
from circuitcli.stages.timed import Discrepancy, Effect, Part, Workload

# Rounds that should fit into the budget, and its share that the plain way may take.
_ROUNDS, _COMPARING = 5, 0.25


@dataclass(frozen=True)
class Row:
    """One precision.

    Attributes:
        precision: Its name.
        engine: How ablations are made in it.
        ablation_ms: Of one ablation with logits, the median.
        ablations_per_second: By that.
        times_faster: Than float32 on the same device; None of float32 itself.
        worst_relative_difference: From float32 on the CPU, the plain way, of a row's largest value: of
            log-probabilities, and of latents.
        latents_compared, latents_left_out: How many; those that nearly fire may flip, and are left out.
    """

    precision: str
    engine: Engine
    ablation_ms: float
    ablations_per_second: float
    times_faster: Ratio | None
    worst_relative_difference: float
    latents_compared: int
    latents_left_out: int


@dataclass(frozen=True)
class Timings:
    """What was found; `held_against` so many ablations that were made the plain way."""

    subject: str
    device: str
    threads: int
    site: str
    downstream: list[str]
    tokens: int
    sequences: int
    contexts: int
    ablations: int
    held_against: int
    budget: float
    seconds: float
    rounds: int
    precisions: list[Row]


def run(case: Case, runtime: Runtime, report: Report, budget: float) -> Timings:
    """Time each precision within a budget of seconds, or in as few rounds as there must be.

    Args:
        case: In float32 on the CPU.
        runtime: The device whose precisions are timed.
        report: Told how far it is.
        budget: Seconds.

    Raises:
        InputError: Nothing fires at the edited site.
    """
    clock, cases = Clock(budget), _cases(case, runtime)
    with report.track("Timing", math.ceil(budget), "s") as done:
        started = clock.spent
        here, works = _works(case, cases, runtime, 1)
        built = clock.spent - started
        expected = list(here.expected(lambda: clock.spent < _COMPARING * budget))
        found = {one: _difference(one, work, expected) for one, work in works.items()}
        size, visits = 1, _visits(works)
        times = _once(Times(clock, partial(synchronize, runtime.device)), visits, works)
        while (more := min(_fitting(times, size, built), len(case.lengths))) >= 2 * size:  # a few take little
            started = clock.spent
            here, works = _works(case, cases, runtime, size := more)
            built = clock.spent - started
            times = _once(Times(clock, times.wait), visits, works)
        spend(times, visits, _ways(works), done)
    return Timings(
        subject=case.name,
        device=device_name(runtime.device),
        threads=runtime.threads,
        site=str(here.site),
        downstream=[str(site) for site in here.downstream],
        tokens=here.width,
        sequences=len(here.lengths),
        contexts=here.contexts,
        ablations=len(here.ablations),
        held_against=len(expected),
        budget=budget,
        seconds=clock.spent,
        rounds=sum(map(len, times.costs.values())),
        precisions=[_row(one, work, times, found[one]) for one, work in works.items()],
    )


def _once(times: Times, visits: Sequence[Visit], works: Mapping[Precision, Workload]) -> Times:
    """A round of each."""
    for visit in visits:
        times.round(visit, _ways(works))
    return times


def _fitting(times: Times, size: int, built: float) -> int:
    """How many sequences leave time for `_ROUNDS` rounds, from a round of so many, and the seconds to make these."""
    return int(times.clock.left / (_ROUNDS * sum(max(costs) for costs in times.costs.values()) + built) * size)


def _cases(case: Case, runtime: Runtime) -> dict[Precision, Case]:
    """The case on a device in each of its precisions: one model for each dtype, the same dictionaries for all."""
    device = runtime.device
    models = {torch.float32: case.model} if device.type == "cpu" else {}
    saes, tokens = {site: one.to(device) for site, one in case.saes.items()}, case.tokens.to(device)
    for dtype in dict.fromkeys(one.dtype for one in precisions(device)):
        models[dtype] = models.get(dtype) or case.again(replace(runtime, dtype=dtype))
    return {one: replace(case, model=models[one.dtype], saes=saes, tokens=tokens) for one in precisions(device)}


def _works(
    case: Case, cases: Mapping[Precision, Case], runtime: Runtime, sequences: int
) -> tuple[Workload, dict[Precision, Workload]]:
    """Ablations in so many sequences, of what fires in float32 on the CPU: there, and the same in each precision."""
    here = Workload(case.first(sequences), replace(runtime, device=case.model.device, dtype=FLOAT32.dtype))
    found = {}
    for one, other in cases.items():
        with one.kept():
            there = replace(runtime, dtype=one.dtype)
            found[one] = Workload(other.first(sequences), there, here.places, at=here.ablations.contexts)
    return here, found


def _difference(one: Precision, work: Workload, expected: Sequence[tuple[int, Mapping[Part, Effect]]]) -> Discrepancy:
    with one.kept():
        return work.difference(expected)


def _visits(works: Mapping[Precision, Workload]) -> list[Visit]:
    return [Visit(one.name, (FLOAT32.name,)) for one in works if one != FLOAT32]


def _ways(works: Mapping[Precision, Workload]) -> dict[str, Callable[[], object]]:
    def made(one: Precision, work: Workload) -> object:
        with one.kept():
            return work.ways["engine with logits"]()

    return {one.name: partial(made, one, work) for one, work in works.items()}


def _row(one: Precision, work: Workload, times: Times, found: Discrepancy) -> Row:
    seconds = times.of(one.name) / len(work.ablations)
    return Row(
        precision=one.name,
        engine=engine(work.model),
        ablation_ms=1e3 * seconds,
        ablations_per_second=1 / seconds,
        times_faster=None if one == FLOAT32 else times.ratio(FLOAT32.name, one.name),
        worst_relative_difference=found.worst,
        latents_compared=found.compared,
        latents_left_out=found.left_out,
    )


def document(timings: Timings) -> dict[str, object]:
    """What --json prints."""
    return asdict(timings)
