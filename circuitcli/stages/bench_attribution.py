"""bench --attribution: how long a prompt's attribution takes, and what an honest plain loop would.

`timed_attribution` has the parts of it and both ways. Everything is timed once, whatever it takes; measuring nodes has
what is left of the budget, behind rounds of both ways beside each other (`rounds`).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from circuitcli.core.attribution.parts import Features
from circuitcli.runtime.device import Runtime, device_name, peak_memory, synchronize
from circuitcli.runtime.engine import Engine, engine
from circuitcli.stages.cases import PromptCase
from circuitcli.stages.report import Report
from circuitcli.stages.rounds import Clock, Ratio, Times, Visit, spend
from circuitcli.stages.study import Rule
from circuitcli.stages.timed_attribution import Sample, Workload

RULES: tuple[Rule, ...] = ("atp", "relp")
STEPS, GRAPHS = 10, (200, 2000)  # of integrated gradients, and nodes whose edges are computed
_ROUNDS = 0.3  # of the budget


@dataclass(frozen=True)
class Timings:
    """What was found. Seconds are of the one prompt, `plain_*` of one node and of the edges into one.

    Attributes:
        exact_seconds: Of all nodes; of `exact_measured` they were measured, of the others they follow from these.
        edges_seconds: By how many nodes have their edges computed.
        ratios: The plain loop's time over ours, with 95% intervals (see `rounds`): of all `nodes`, and `edges`.
        worst_relative_difference: Between the two: of `nodes` relative to m, of `edges` to the largest of a row.
    """

    subject: str
    device: str
    dtype: str
    threads: int
    engine: Engine
    tokens: int
    dictionaries: int
    nodes: int
    mean_l0: float
    budget: float
    seconds: float
    open_seconds: float
    estimate_seconds: dict[str, float]
    edges_seconds: dict[int, float]
    exact_seconds: float
    exact_measured: int
    plain_node_seconds: float
    plain_edges_seconds: float
    ratios: dict[str, Ratio]
    rounds: int
    worst_relative_difference: dict[str, float]
    peak_memory_bytes: int


def run(case: PromptCase, runtime: Runtime, report: Report, budget: float) -> Timings:
    """Time a prompt's attribution: measuring nodes as far as the budget of seconds goes, all else whatever it takes."""
    clock, work = Clock(budget), Workload(case, runtime, report)
    with report.track("Timing", 0, ""):
        work.open()  # whatever is slow the first time only isn't counted
        study, opened = work.timed(work.open)
        estimates: dict[str, float] = {}
        for rule in RULES:
            estimates[rule] = work.timed(partial(study.estimates, rule))[1]
        estimates[f"ig {STEPS}"] = work.timed(partial(study.integrated, STEPS, work.rows))[1]
        edges = {most: work.timed(partial(work.wire, study, most))[1] for most in GRAPHS}
        rounds = _rounds(Sample(work, study), work.nodes(study), _ROUNDS * budget)
        exact, measured = work.exact(study, clock.left)
        features = sum(len(one) for one in study.sources if isinstance(one, Features))
        return Timings(
            subject=case.name,
            device=device_name(case.model.device),
            dtype=str(runtime.dtype).removeprefix("torch."),
            threads=runtime.threads,
            engine=engine(case.model),
            tokens=len(case.tokens),
            dictionaries=len(case.saes),
            nodes=work.nodes(study),
            mean_l0=features / len(case.saes) / int(study.counts.sum()),
            budget=budget,
            seconds=clock.spent,
            open_seconds=opened,
            estimate_seconds=estimates,
            edges_seconds=edges,
            exact_seconds=exact,
            exact_measured=measured,
            **rounds,
            peak_memory_bytes=peak_memory(case.model.device),
        )


def _rounds(sample: Sample, nodes: int, budget: float) -> dict[str, Any]:
    """Both ways beside each other: their times, ratios, and how far apart their values are."""
    times = Times(Clock(budget), partial(synchronize, sample.study.model.device))
    spend(times, [Visit("nodes", ("plain node",)), Visit("edges", ("plain edges",))], sample.ways)
    return {
        "plain_node_seconds": times.of("plain node"),
        "plain_edges_seconds": times.of("plain edges"),
        "ratios": {
            "nodes": times.ratio("plain node", "nodes") * (nodes * sample.share),
            "edges": times.ratio("plain edges", "edges") * float(sample.targets),
        },
        "rounds": sum(map(len, times.costs.values())),
        "worst_relative_difference": sample.difference(),
    }


def document(timings: Timings) -> dict[str, Any]:
    """What --json prints."""
    return asdict(timings)
