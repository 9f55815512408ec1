"""bench: how fast the engine is here, against the plain way and against what the machine's products allow.

`timed` has the workload and the ways to do it, `rounds` how the time is spent. A share is operations by formula
(`core.flops`), over the time times the rate of products measured beside it; that is always of float32, in which SAEs
compute: a model in bfloat16 may go beyond it. A round of a few ablations is tried first; then as many ablations and
sequences are taken as leave time for `ROUNDS` rounds.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import partial

from circuitcli.runtime.device import Runtime, device_name, peak_memory, synchronize
from circuitcli.runtime.engine import Engine, engine, slowness
from circuitcli.stages.cases import Case
from circuitcli.stages.report import Report
from circuitcli.stages.rounds import SHORTEST, Clock, Ratio, Times, Visit, spend
from circuitcli.stages.timed import FEW, PLACES, Discrepancy, Workload

# Rounds of everything that should fit into the budget, and its share that comparing engine and plain way may take.
ROUNDS, _COMPARING = 5, 0.25
VISITS = (
    Visit("raw", ("plain",)),
    Visit("engine", ("plain", "gemm", "clean")),
    Visit("engine with logits", ("plain", "gemm", "clean with logits")),
    Visit("cache", ("gemm",)),
)
_ENGINES = ("engine", "engine with logits")
_ONCE = ("raw", "plain", "gemm")  # ways that take as long whatever the number of sequences


@dataclass(frozen=True)
class Timings:
    """What was found. Milliseconds are of one ablation, medians; shares are of the rate of products.

    `ratios` has each ratio of times with its 95% interval (see `rounds`): those of the fields `plain_over_raw`,
    `speedup`, `gemm_share` and the like, and `clean_share`, of the engine's time.
    """

    subject: str
    device: str
    dtype: str
    threads: int
    engine: Engine
    site: str
    downstream: list[str]
    tokens: int
    sequences: int
    contexts: int
    ablations: int
    batch_size: int
    mean_l0: float
    budget: float
    seconds: float
    rounds: int
    cache_tokens_per_second: float
    cache_gemm_share: float
    raw_forward_ms: float
    plain_ms: float
    plain_over_raw: float
    engine_ms: float
    engine_ms_with_logits: float
    speedup: float
    speedup_with_logits: float
    gemm_gflops: float
    gemm_share: float
    gemm_share_with_logits: float
    ablations_per_second: float
    clean_ms_per_sequence: float
    clean_ms_per_sequence_with_logits: float
    peak_memory_bytes: int
    worst_relative_difference: float
    latents_compared: int
    latents_left_out: int
    ratios: dict[str, Ratio]


def run(case: Case, runtime: Runtime, report: Report, budget: float) -> Timings:
    """Time everything within a budget of seconds, or in as few rounds as there must be.

    Raises:
        InputError: Nothing fires at the edited site.
    """
    clock = Clock(budget)
    model = case.model
    if engine(model) == "whole":
        report.say(slowness(case.name, model, float(case.lengths.float().mean())))
    with report.track("Timing", math.ceil(budget), "s") as done:
        one = Workload(case.first(1), runtime)
        difference = one.difference(one.expected(lambda: clock.spent < _COMPARING * budget))
        work, times = _fitting(case, one, report, Times(clock, partial(synchronize, model.device)))
        spend(times, VISITS, work.ways, done)
    return _timings(work, times, difference)


def _fitting(case: Case, one: Workload, report: Report, trial: Times) -> tuple[Workload, Times]:
    """A workload that leaves time for `ROUNDS` rounds, or the least there is, and what was timed of it on the way."""
    runtime = one.runtime
    few = one if one.places == FEW else Workload(case.first(1), runtime, FEW)
    for visit in VISITS:
        trial.round(visit, few.ways)
        if visit is VISITS[0]:
            _tell_least(few, report, trial)
    if few is not one:
        positions = _positions(trial, len(few.ablations))
        if positions < 2:
            return few, trial
        trial = Times(trial.clock, trial.wait)
        if positions < PLACES[0]:
            return Workload(case.first(1), runtime, (positions, PLACES[1])), trial
        for visit in VISITS:
            trial.round(visit, one.ways)
    return _grown(case, one, trial)


def _grown(case: Case, work: Workload, times: Times) -> tuple[Workload, Times]:
    """With as many sequences as leave time for `ROUNDS` rounds; several at once may take a GPU little more than one."""
    while (size := _sequences(times, len(work.lengths), len(case.lengths))) >= 2 * len(work.lengths):
        work, times = Workload(case.first(size), work.runtime), Times(times.clock, times.wait)
        for visit in VISITS:
            times.round(visit, work.ways)
    return work, times


def _tell_least(few: Workload, report: Report, trial: Times) -> None:
    """Say what the one round that there must be takes, if that is more than there is time for.

    From the shorter time of a plain ablation, two passes: two plain ones more, four clean passes, that of cache-acts,
    and the engine twice, each time a clean pass and about one more, or one for each ablation.
    """
    plain, ablations = min(trial.seconds["plain"]), 1 if few.model.resumes_at_places else len(few.ablations)
    least = trial.clock.spent + plain * (2 + 5 / 2 + 1 + ablations) + 12 * SHORTEST
    if least > trial.clock.budget:
        report.say(
            f"The least that can be timed takes about {least:,.0f} s, more than --budget {trial.clock.budget:g}."
        )


def _positions(trial: Times, ablations: int) -> int:
    """At how many positions of a sequence ablations leave time for `ROUNDS` rounds, from the times of a few."""
    engine = sum(trial.of(name) for name in _ENGINES)
    others = sum(trial.of(name) * len(seconds) for name, seconds in trial.seconds.items() if name not in _ENGINES)
    affordable = (trial.clock.left / ROUNDS - others) / engine * ablations
    return min(max(int(affordable / PLACES[1]), 0), PLACES[0])


def _sequences(trial: Times, now: int, most: int) -> int:
    """How many sequences leave time for `ROUNDS` rounds, from the times of so many now."""
    count = {name: len(seconds) for name, seconds in trial.seconds.items()}
    fixed = sum(trial.of(name) * count[name] for name in _ONCE)
    each = sum(trial.of(name) * n for name, n in count.items() if name not in _ONCE)
    return min(max(int((trial.clock.left / ROUNDS - fixed) / each * now), 1), most)


def _timings(work: Workload, times: Times, difference: Discrepancy) -> Timings:
    n, model = len(work.ablations), work.model
    gemm = work.gemm_flops
    ratios = {
        "plain_over_raw": times.ratio("plain", "raw") * 0.5,
        "speedup": times.ratio("plain", "engine") * float(n),
        "speedup_with_logits": times.ratio("plain", "engine with logits") * float(n),
        "gemm_share": times.ratio("gemm", "engine") * (work.engine_flops(logits=False) / gemm),
        "gemm_share_with_logits": times.ratio("gemm", "engine with logits") * (work.engine_flops(logits=True) / gemm),
        "cache_gemm_share": times.ratio("gemm", "cache") * (work.cache_flops() / gemm),
        "clean_share": times.ratio("clean", "engine"),
        "clean_share_with_logits": times.ratio("clean with logits", "engine with logits"),
    }
    return Timings(
        subject=work.case.name,
        device=device_name(model.device),
        dtype=str(work.runtime.dtype).removeprefix("torch."),
        threads=work.runtime.threads,
        engine=engine(model),
        site=str(work.site),
        downstream=[str(site) for site in work.downstream],
        tokens=work.width,
        sequences=len(work.lengths),
        contexts=work.contexts,
        ablations=n,
        batch_size=work.ablations.batch_size,
        mean_l0=len(work.acts[work.site].value) / float((work.lengths - 1).sum()),
        budget=times.clock.budget,
        seconds=times.clock.spent,
        rounds=sum(map(len, times.costs.values())),
        cache_tokens_per_second=int(work.lengths.sum()) / times.of("cache"),
        cache_gemm_share=ratios["cache_gemm_share"].value,
        raw_forward_ms=1e3 * times.of("raw"),
        plain_ms=1e3 * times.of("plain"),
        plain_over_raw=ratios["plain_over_raw"].value,
        engine_ms=1e3 * times.of("engine") / n,
        engine_ms_with_logits=1e3 * times.of("engine with logits") / n,
        speedup=ratios["speedup"].value,
        speedup_with_logits=ratios["speedup_with_logits"].value,
        gemm_gflops=gemm / times.of("gemm") / 1e9,
        gemm_share=ratios["gemm_share"].value,
        gemm_share_with_logits=ratios["gemm_share_with_logits"].value,
        ablations_per_second=n / times.of("engine with logits"),
        clean_ms_per_sequence=1e3 * times.of("clean") / len(work.lengths),
        clean_ms_per_sequence_with_logits=1e3 * times.of("clean with logits") / len(work.lengths),
        peak_memory_bytes=peak_memory(model.device),
        worst_relative_difference=difference.worst,
        latents_compared=difference.compared,
        latents_left_out=difference.left_out,
        ratios=ratios,
    )  # fmt: skip


def document(timings: Timings) -> dict[str, object]:
    """What --json prints."""
    return asdict(timings)
