"""attribute: why a prompt goes on with a token: the effect of each node, and through which others it comes about.

1.  Each prompt is opened: its nodes, and what gradients say of them (`study`).
2.  What is measured of them follows from the method and the budget (`extent`, `measuring`).
3.  Between the strongest nodes edges are computed (`wiring`), and the largest measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from circuitcli.core.strata import StratifiedSample
from circuitcli.core.words import amount, duration
from circuitcli.errors import InputError
from circuitcli.stages import kinds, questions, sharing
from circuitcli.stages.sharing import Part, Shared
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.store import attributions, tables

if TYPE_CHECKING:
    from circuitcli.core.attributed import Method
    from circuitcli.stages.prompt_task import Step
    from circuitcli.stages.prompts import Prompts
    from circuitcli.stages.study import Rule
    from circuitcli.stages.wiring import Wired

NAME = "attribute"
RULES: tuple[Rule, ...] = ("atp", "relp")
T = TypeVar("T")


def run(job: Job) -> Outcome:
    """Answer the questions of the settings.

    Raises:
        UsageError, InputError: A question isn't as it should be; see `questions`.
    """
    inputs = _asked(job)
    return stage(job, NAME, inputs, lambda todo: _Attribution(job, todo).work())


def share(job: Job, part: Part) -> Shared | None:
    """Measure a part of what is measured, and what others leave; None if the stage is done.

    Raises:
        UsageError, InputError: As of the stage, or the folder can't be written.
    """
    inputs = _asked(job)
    todo = sharing.begin(job, NAME, inputs, part, lambda todo: _Attribution(job, todo).tried())
    if todo is None:
        return None
    _Attribution(job, todo).measured()
    return sharing.ended(todo)


def merge(job: Job) -> Outcome:
    """End the stage: verify that all is measured, and do the rest.

    Raises:
        InputError: Something is missing, or somebody is still at work on it.
    """
    return sharing.merge(job, NAME, _asked(job), lambda todo: _Attribution(job, todo).work())


def _asked(job: Job) -> dict[str, str]:
    """What decides the numbers beside the settings, once these were checked."""
    job.parents(NAME)  # a stage that is missing is told before a file that can't be read
    kinds.check(job.run)
    if job.settings.attribute.replace:
        from circuitcli.stages import replacing

        replacing.check(job)
    questions.targets(job)
    return {"questions": questions.identity(job)}


@dataclass(frozen=True, eq=False)
class Attributed:
    """What was found of prompts.

    Attributes:
        nodes, edges: Of each prompt.
        rows: What goes into each node that edges are of.
        estimate: What stands where nothing was measured.
        rule: By which edges are had.
    """

    nodes: list[tables.Columns]
    edges: list[tables.Columns]
    rows: list[tables.Columns]
    estimate: str
    rule: Rule


@dataclass(eq=False)
class _Attribution:
    """The work of the stage."""

    job: Job
    todo: Work
    seconds: dict[str, float] = field(default_factory=dict)

    @cached_property
    def prompts(self) -> Prompts:
        """What was asked, opened when it is needed."""
        from circuitcli.stages.prompts import Prompts

        return Prompts(self.todo)

    def work(self) -> None:
        """All of it."""
        found = self.measured()
        asked = [self._question(number) for number in range(len(self.prompts))]
        self.todo.expect(dict.fromkeys(attributions.FILES))
        self.todo.files |= attributions.write(self.job.run, asked, found.nodes, found.edges, found.rows)
        self._facts(found)

    def tried(self) -> int:
        """The batch size, once the first prompt was opened, so that what can't be done is refused beforehand."""
        method = self.job.settings.attribute.method
        with self.prompts.study(0).held("relp" if method == "relp" else "atp"):
            return self.prompts.setup.batch_size

    def measured(self) -> Attributed:
        """The nodes and edges of all prompts, with what is measured of them."""
        from circuitcli.stages import measuring, wiring

        nodes = self._timed("nodes", self._estimates)
        with self.todo.planning():
            extents = measuring.planned_nodes(self.prompts) or self._extents(nodes)
            shards = measuring.plan_nodes(self.prompts, extents)
        self._timed("measured", lambda: measuring.measure_nodes(self.prompts, shards, nodes))
        estimate = self._best(nodes)
        for table in nodes:
            _settle(table, estimate, measured=not self.replaced)
        rule: Rule = "relp" if estimate == "relp" else "atp"
        edges, rows = self._timed("edges", lambda: self._edges(nodes, rule))
        how = self.job.settings.attribute.edges
        if not self.replaced:
            self._timed("edges measured", lambda: measuring.measure_edges(self.prompts, edges, self._most, how))
            edges = [wiring.settled(part, fed) for part, fed in zip(edges, rows, strict=True)]
        return Attributed(nodes, edges, rows, estimate, rule)

    @property
    def replaced(self) -> bool:
        """Whether all is asked of the local replacement model, in which nothing need be measured."""
        return self.job.settings.attribute.replace

    def _timed(self, what: str, work: Callable[[], T]) -> T:
        started = time.perf_counter()
        found = work()
        self.seconds[what] = round(self.seconds.get(what, 0.0) + time.perf_counter() - started, 3)
        return found

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules by which gradients are had: both, but of a model that has no relp, which is said."""
        if self.job.settings.attribute.method == "relp":
            return RULES
        if self.replaced:
            return ("atp",)
        study = self.prompts.study(0)
        try:
            with study.held("relp"):
                return RULES
        except InputError as error:
            self.job.report.say(f"attribute: without relp. {error.message}")
            return ("atp",)

    def _estimates(self) -> list[tables.Columns]:
        """The nodes of each prompt with what gradients say of them."""
        from circuitcli.stages.prompt_steps import Estimating
        from circuitcli.stages.study import signature_of

        settings = self.job.settings.attribute
        step = Estimating(self.rules, settings.ig_steps if settings.method == "ig" else 0)
        found = self._each("Reading prompts", "prompts", [step] * len(self.prompts))
        self.prompts.signatures = [signature_of(table) for table in found]
        return found

    def _each(self, what: str, unit: str, steps: Sequence[Step[T]], total: int | None = None) -> list[T]:
        """What comes of a step for each prompt."""
        with self.job.tracking(what, sum(map(len, steps)) if total is None else total, unit) as done:
            return self.prompts.each(steps, done)

    def _size(self, table: tables.Columns) -> np.ndarray:
        """By what nodes are ranked before any is measured: the method's estimate, or the largest of all."""
        method = self.job.settings.attribute.method
        from circuitcli.stages import extent

        names: Sequence[Method] = (method,) if method in ("atp", "relp", "ig") else self.rules
        inner = table["kind"] != "target"
        return extent.largest({name: table[name][inner] for name in names})

    def _extents(self, nodes: Sequence[tables.Columns]) -> list[StratifiedSample]:
        """What is measured of each prompt, by method and budget."""
        from circuitcli.stages import extent

        settings, seed = self.job.settings.attribute, self.job.settings.seed
        if self.replaced or settings.method in ("atp", "relp", "ig"):
            return [extent.for_calibration(self._size(table), seed) for table in nodes]
        studies = range(len(nodes))
        seconds = [self.prompts.seconds_each * extent.operations(self.prompts.study(number)) for number in studies]
        total, count = float(sum(part.sum() for part in seconds)), sum(len(part) for part in seconds)
        what = f"attribute: {amount(count, 'node')}; measuring all takes about {duration(total)}"
        if settings.method == "exact" or total <= settings.budget:
            self.job.report.say(f"{what}.")
            return [extent.all_of(self.prompts.study(number)) for number in studies]
        found = [
            extent.within(self._size(table), part, settings.budget * float(part.sum()) / total, seed)
            for table, part in zip(nodes, seconds, strict=True)
        ]
        self.job.report.say(
            f"{what}, more than --budget {settings.budget:g} allows: {sum(len(part.index) for part in found):,} are "
            "measured, the others estimated; --method exact measures all."
        )
        return found

    def _best(self, nodes: Sequence[tables.Columns]) -> str:
        """The estimate that stands where nothing was measured, and by whose rule edges are had."""
        from circuitcli.stages import extent

        method = self.job.settings.attribute.method
        if self.replaced:
            return "atp"
        if method in ("atp", "relp", "ig"):
            return method
        joined = {name: np.concatenate([t[name] for t in nodes]) for name in ("exact", "drawn", *self.rules)}
        estimates: dict[Method, np.ndarray] = {rule: joined[rule] for rule in self.rules}
        return extent.better(estimates, joined["exact"], joined["drawn"])

    def _edges(self, nodes: Sequence[tables.Columns], rule: Rule) -> tuple[list[tables.Columns], list[tables.Columns]]:
        """Of each prompt the edges between its strongest nodes, and what goes into each of these in all."""
        from circuitcli.stages import wiring
        from circuitcli.stages.prompt_steps import Wiring

        if self.replaced:
            return self._edges_in_replacement()
        chosen = wiring.candidates(nodes, self._most)
        everything = wiring.all_of(self.prompts.study, chosen, self.job.settings.attribute.edges)
        steps = [Wiring(rule, part, everything) for part in chosen]
        return _apart(self._each("Computing edges", "nodes", steps))

    def _edges_in_replacement(self) -> tuple[list[tables.Columns], list[tables.Columns]]:
        from circuitcli.stages.prompt_steps import WiringReplaced

        steps = [WiringReplaced(self._most)] * len(self.prompts)
        return _apart(self._each("Computing edges", "nodes", steps, 0))

    @property
    def _most(self) -> int:
        """How many nodes have their edges computed: more than are kept, which influence chooses among these."""
        settings = self.job.settings.attribute
        return settings.candidates if settings.nodes == "auto" else max(settings.nodes, settings.candidates)

    def _question(self, number: int) -> attributions.Prompt:
        study, asked, tokenizer = self.prompts.study(number), self.prompts.asked[number], self.job.subject.tokenizer
        metric, other, probs = study.prompt.metric, asked.counterfactual_ids, study.prompt.logits.softmax(-1)
        explained = tuple(
            attributions.Target(tokenizer.text(one.target), one.target, float(probs[one.target]), weight)
            for one, weight in study.targets
        )
        return attributions.Prompt(
            prompt=asked.prompt,
            tokens=tuple(tokenizer.pieces(asked.ids)),
            ids=asked.ids,
            counts=asked.counts,
            target=tokenizer.text(metric.target),
            target_id=metric.target,
            against=None if metric.against is None else tokenizer.text(metric.against),
            against_id=metric.against,
            counterfactual=asked.counterfactual,
            counterfactual_tokens=None if other is None else tuple(tokenizer.pieces(other)),
            clean=study.prompt.clean,
            prob=sum(one.prob for one in explained),
            unit=metric.unit,
            targets=explained if len(explained) > 1 else (),
        )

    def _fidelity(self) -> list[dict[str, Any]]:
        """Of each prompt's replacement model; none without one."""
        from circuitcli.stages.prompt_steps import Fidelity

        if not self.replaced:
            return []
        steps = [Fidelity()] * len(self.prompts)
        return self._timed("fidelity", lambda: self._each("Running without errors", "prompts", steps))

    def _facts(self, found: Attributed) -> None:
        from circuitcli.results.attribution import calibrations
        from circuitcli.runtime.device import peak_memory
        from circuitcli.runtime.engine import engine

        written = [tables.read(self.job.run.path(name)) for name in (attributions.NODES, attributions.EDGES)]
        settings, seed = self.job.settings.attribute, self.job.settings.seed
        positions = settings.positions
        measured = sum(int((table["method"] == "exact").sum()) for table in found.nodes)
        count = sum(int((table["kind"] != "target").sum()) for table in found.nodes)
        self.todo.facts.update(
            method=settings.method,
            nodes=count,
            measured=measured,
            estimate="" if measured == count else found.estimate,
            edges=sum(len(part["weight"]) for part in found.edges),
            edges_measured=sum(int((part["method"] == "exact").sum()) for part in found.edges),
            edge_method=found.rule,
            calibration=[asdict(row) for row in calibrations(written[0], written[1], found.rule, seed)],
            baseline=self.prompts.setup.baseline,
            frozen=settings.freeze,
            replaced=self.replaced,
            fidelity=self._fidelity(),
            positions=("separate" if len(found.nodes) == 1 else "sum") if positions == "auto" else positions,
            engine=engine(self.prompts.inputs.passes.model),
            seconds_by_part=self.seconds,
            peak_memory_bytes=peak_memory(self.job.runtime.device),
        )


def _settle(table: tables.Columns, estimate: str, *, measured: bool) -> None:
    """The effect of each node, and how it was got; where what was measured doesn't count, by the estimate."""
    exact = np.isfinite(table["exact"]) & measured
    table["effect"] = np.where(exact, table["exact"], table[estimate])
    table["method"] = np.where(exact, "exact", estimate).astype(object)
    table["method"][table["kind"] == "target"] = ""


def _apart(found: Sequence[Wired]) -> tuple[list[tables.Columns], list[tables.Columns]]:
    """Edges, and what goes into each of their targets, of each prompt."""
    return [one.edges for one in found], [one.rows for one in found]
