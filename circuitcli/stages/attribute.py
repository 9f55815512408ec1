"""attribute: why a prompt goes on with a token: the effect of each node, and through which others it comes about.

1.  Each prompt is opened: its nodes, and what gradients say of them (`study`).
2.  What is measured of them follows from the method and the budget (`extent`, `measuring`).
3.  Between the strongest nodes edges are computed (`wiring`), and the largest measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from circuitcli.core.strata import StratifiedSample
from circuitcli.core.words import amount, duration
from circuitcli.errors import InputError
from circuitcli.stages import kinds, questions
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.store import attributions, tables

if TYPE_CHECKING:
    from circuitcli.core.attributed import Method
    from circuitcli.stages.prompts import Prompts
    from circuitcli.stages.study import Rule

NAME = "attribute"
RULES: tuple[Rule, ...] = ("atp", "relp")
T = TypeVar("T")


def run(job: Job) -> Outcome:
    """Answer the questions of the settings.

    Raises:
        UsageError, InputError: A question isn't as it should be; see `questions`.
    """
    job.parents(NAME)  # a stage that is missing is told before a file that can't be read
    kinds.check(job.run)
    if job.settings.attribute.replace:
        from circuitcli.stages import replacing

        replacing.check(job)
    questions.targets(job)
    return stage(job, NAME, {"questions": questions.identity(job)}, lambda todo: _Attribution(job, todo).work())


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
        from circuitcli.stages import measuring, wiring

        with self.job.report.track("Reading prompts", len(self.prompts), "prompts") as done:
            nodes = []
            for number in range(len(self.prompts)):
                nodes.append(self._timed("nodes", partial(self._estimates, number)))
                done(1)
        extents = measuring.planned_nodes(self.prompts) or self._extents(nodes)
        self._timed("measured", lambda: measuring.measure_nodes(self.prompts, extents, nodes))
        estimate = self._best(nodes)
        for table in nodes:
            _settle(table, estimate, measured=not self.replaced)
        rule: Rule = "relp" if estimate == "relp" else "atp"
        edges, rows = self._timed("edges", lambda: self._edges(nodes, rule))
        how = self.job.settings.attribute.edges
        if not self.replaced:
            self._timed("edges measured", lambda: measuring.measure_edges(self.prompts, edges, self._most, how))
            edges = [wiring.settled(part, fed) for part, fed in zip(edges, rows, strict=True)]
        asked = [self._question(number) for number in range(len(self.prompts))]
        self.todo.expect(dict.fromkeys(attributions.FILES))
        self.todo.files |= attributions.write(self.job.run, asked, nodes, edges, rows)
        self._facts(nodes, edges, estimate, rule)

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
        try:
            with self.prompts.study(0).held("relp"):
                return RULES
        except InputError as error:
            self.job.report.say(f"attribute: without relp. {error.message}")
            return ("atp",)

    def _estimates(self, number: int) -> tables.Columns:
        """The nodes of a prompt with what gradients say of them."""
        study, settings = self.prompts.study(number), self.job.settings.attribute
        table = study.columns(number)
        table |= {name: np.full(len(table["node"]), np.nan) for name in ("atp", "relp", "ig", "exact")}
        for rule in self.rules:
            table[rule][: study.nodes] = study.estimates(rule)
        if settings.method == "ig":
            table["ig"][: study.nodes] = study.integrated(
                settings.ig_steps, max(1, self.prompts.runtime.batch_size or 1)
            )
        return table | {"drawn": np.zeros(len(table["node"]))}

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

        if self.replaced:
            return self._edges_in_replacement()
        chosen = wiring.candidates(nodes, self._most)
        everything = wiring.all_of(self.prompts.study, chosen, self.job.settings.attribute.edges)
        edges, rows = [], []
        with self.job.report.track("Computing edges", sum(int(part.sum()) for part in chosen), "nodes") as done:
            for number, part in enumerate(chosen):
                found = wiring.wire(self.prompts.study(number), rule, part, number, done, everything=everything)
                edges.append(found.edges)
                rows.append(found.rows)
        return edges, rows

    def _edges_in_replacement(self) -> tuple[list[tables.Columns], list[tables.Columns]]:
        from circuitcli.stages import replacing

        edges, rows = [], []
        with self.job.report.track("Computing edges", 0, "nodes") as done:
            for number in range(len(self.prompts)):
                found = replacing.wire(self.prompts.study(number), self._most, number, done)
                edges.append(found.edges)
                rows.append(found.rows)
        return edges, rows

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
        from circuitcli.stages import replacing

        return self._timed("fidelity", lambda: replacing.fidelities(self.prompts)) if self.replaced else []

    def _facts(
        self, nodes: Sequence[tables.Columns], edges: Sequence[tables.Columns], estimate: str, rule: Rule
    ) -> None:
        from circuitcli.results.attribution import calibrations
        from circuitcli.runtime.device import peak_memory
        from circuitcli.runtime.engine import engine

        written = [tables.read(self.job.run.path(name)) for name in (attributions.NODES, attributions.EDGES)]
        settings = self.job.settings.attribute
        positions = settings.positions
        measured = sum(int((table["method"] == "exact").sum()) for table in nodes)
        count = sum(int((table["kind"] != "target").sum()) for table in nodes)
        self.todo.facts.update(
            method=settings.method,
            nodes=count,
            measured=measured,
            estimate="" if measured == count else estimate,
            edges=sum(len(part["weight"]) for part in edges),
            edges_measured=sum(int((part["method"] == "exact").sum()) for part in edges),
            edge_method=rule,
            calibration=[asdict(row) for row in calibrations(written[0], written[1], rule, self.job.settings.seed)],
            baseline=self.prompts.baselines.kind,
            frozen=settings.freeze,
            replaced=self.replaced,
            fidelity=self._fidelity(),
            positions=("separate" if len(nodes) == 1 else "sum") if positions == "auto" else positions,
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
