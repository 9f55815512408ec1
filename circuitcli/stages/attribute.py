"""attribute: why a prompt goes on with a token: the effect of each node, and through which others it comes about.

1.  Each prompt is opened: its nodes, and what gradients say of them (`study`).
2.  What is measured of them follows from the method and the budget (`extent`); it is planned, so that an interrupted
    stage goes on with the same, and measured site by site.
3.  Between the strongest nodes edges are computed, and some of them measured (`wiring`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from circuitcli.core.calibration import calibrate
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from circuitcli.core.words import amount
from circuitcli.errors import InputError
from circuitcli.runtime.device import Runtime, peak_memory
from circuitcli.runtime.engine import engine
from circuitcli.stages import extent, questions, wiring
from circuitcli.stages.baselines import Baselines
from circuitcli.stages.estimate import duration
from circuitcli.stages.extent import Extent
from circuitcli.stages.inputs import Inputs
from circuitcli.stages.questions import Asked
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.stages.study import Rule, Study, open_study, sites_of
from circuitcli.store import attributions, tables
from circuitcli.store.records import fingerprint

NAME = "attribute"
RULES: tuple[Rule, ...] = ("atp", "relp")
_OPEN = 2**30  # bytes of opened prompts that are kept
_EDGES = 0.25  # of the budget, for measuring edges


def run(job: Job) -> Outcome:
    """Answer the questions of the settings.

    Raises:
        UsageError, InputError: A question isn't as it should be; see `questions`.
    """
    return stage(job, NAME, {"questions": questions.identity(job)}, lambda todo: _Attribution(job, todo).work())


@dataclass(eq=False)
class _Attribution:
    """The work of the stage."""

    job: Job
    todo: Work
    seconds: dict[str, float] = field(default_factory=dict)
    _open: dict[int, Study] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> Inputs:
        return Inputs(self.job)

    @cached_property
    def asked(self) -> list[Asked]:
        return questions.asked(self.job)

    @cached_property
    def baselines(self) -> Baselines:
        return Baselines(questions.baseline(self.job, self.asked), self.inputs, sites_of(self.inputs))

    @cached_property
    def runtime(self) -> Runtime:
        """At the batch size and threads of the plan, so that what is resumed repeats the arithmetic."""
        longest = max(len(one.ids) for one in self.asked)
        passes = self.inputs.passes
        size = passes.runtime.rows_at_once(passes.row_bytes(None), longest)
        return self.todo.planned_batch(size)

    def batches(self, count: int, positions: int, work: Callable[[slice], Tensor]) -> Iterator[Tensor]:
        """Work over rows, of which each has so many positions again; the plan's batch has them all."""
        longest = max(len(one.ids) for one in self.asked)
        size = max(1, (self.runtime.batch_size or 1) * longest // max(1, positions))
        return self.runtime.batches(count, size, work, say=self.job.report.say)

    def study(self, number: int) -> Study:
        """A prompt, opened; kept while there is room."""
        if number not in self._open:
            opened = open_study(
                self.inputs, self.baselines, self.asked[number], number, frozen=self.job.settings.attribute.freeze
            )
            if opened.nbytes + sum(one.nbytes for one in self._open.values()) > self.runtime.room(_OPEN):
                self._open.clear()
            self._open[number] = opened
        return self._open[number]

    def work(self) -> None:
        """All of it."""
        asked = self.asked
        with self.job.report.track("Reading prompts", len(asked), "prompts") as done:
            nodes = []
            for number in range(len(asked)):
                nodes.append(self._timed("nodes", self._estimates, number))
                done(1)
        extents = self._extents(nodes)
        self._measure(extents, nodes)
        estimate = self._chosen(nodes)
        for table in nodes:
            self._settle(table, estimate)
        edges, rows, edge_method = self._timed("edges", self._edges, nodes, estimate)
        self._write(nodes, edges, rows)
        self._facts(nodes, edges, estimate, edge_method)

    def _timed(self, what: str, work: Callable[..., Any], *given: Any) -> Any:
        started = time.perf_counter()
        found = work(*given)
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - started
        return found

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """The rules by which gradients are had: both, but of a model that has no relp, which is said."""
        wanted = self.job.settings.attribute.method
        if wanted == "relp":
            return RULES
        try:
            with self.study(0).held("relp"):
                return RULES
        except InputError as error:
            self.job.report.say(f"attribute: without relp: {error.message}")
            return ("atp",)

    def _estimates(self, number: int) -> tables.Columns:
        """The nodes of a prompt with what gradients say of them."""
        study, settings = self.study(number), self.job.settings.attribute
        table = study.columns(number)
        for name in ("atp", "relp", "ig", "exact"):
            table[name] = np.full(study.nodes + 1, np.nan)
        for rule in self.rules:
            table[rule][:-1] = study.estimates(rule)
        if settings.method == "ig":
            at_once = max(1, self.runtime.batch_size or 1)
            table["ig"][:-1] = study.integrated(settings.ig_steps, at_once)
        table["drawn"] = np.zeros(study.nodes + 1)
        return table

    @cached_property
    def _per(self) -> float:
        """Seconds of an operation."""
        return extent.rate(self.study(0), self.batches)

    def _size(self, table: tables.Columns) -> np.ndarray:
        """By what nodes are ranked before any is measured: the method's estimate, or the largest of all."""
        method = self.job.settings.attribute.method
        names = (method,) if method in ("atp", "relp", "ig") else self.rules
        return np.asarray(np.max([np.abs(table[name][:-1]) for name in names], axis=0))

    def _extents(self, nodes: list[tables.Columns]) -> list[Extent]:
        """What is measured of each prompt: as planned before, or by method and budget."""
        shards = [what for what in self.todo.plan.shards.values() if what]
        planned = {(what["prompt"], what["source"]): what for what in shards}
        if planned:
            return [self._as_planned(number, planned) for number in range(len(nodes))]
        settings, seed = self.job.settings.attribute, self.job.settings.seed
        studies = range(len(nodes))
        if settings.method in ("atp", "relp", "ig"):
            return [extent.for_calibration(self._size(table), seed) for table in nodes]
        seconds = [self._per * extent.operations(self.study(number)) for number in studies]
        total = float(sum(part.sum() for part in seconds))
        count = sum(len(part) for part in seconds)
        most = settings.budget if settings.method == "auto" else np.inf
        what = f"attribute: {amount(count, 'node')}; measuring all takes about {duration(total)}"
        if total <= most:
            self.job.report.say(f"{what}.")
            return [extent.all_of(self.study(number)) for number in studies]
        found = [
            extent.within(self._size(table), part, most * float(part.sum()) / total, seed)
            for table, part in zip(nodes, seconds, strict=True)
        ]
        self.job.report.say(
            f"{what}, more than --budget {most:g} allows: {extent.joined(found):,} are measured, the others are "
            "estimated; --method exact measures all."
        )
        return found

    def _as_planned(self, number: int, planned: dict[tuple[int, int], Any]) -> Extent:
        mine = [what for (prompt, _), what in sorted(planned.items()) if prompt == number]
        node, weight = (np.concatenate([np.asarray(what[name]) for what in mine]) for name in ("nodes", "weights"))
        return Extent(node.astype(np.int64), weight.astype(np.float64))

    def _measure(self, extents: Sequence[Extent], nodes: list[tables.Columns]) -> None:
        """Measure what is planned, a file for each prompt and site, and note it in the tables."""
        shards = [shard for number, part in enumerate(extents) for shard in self._shards(number, part)]
        self.todo.expect({shard.name: shard.planned for shard in shards})
        missing = [shard for shard in shards if not self.todo.found(shard.name)]
        started = time.perf_counter()
        with self.job.report.track("Measuring nodes", sum(len(shard.node) for shard in missing), "nodes") as done:
            for shard in missing:
                first = self.study(shard.prompt).starts[shard.source]
                effect = self.study(shard.prompt).measured(shard.source, shard.node - first, self.batches)
                attributions.write_measured(self.job.run, shard.name, shard.prompt, shard.node, effect)
                done(len(shard.node))
        self.seconds["measured"] = time.perf_counter() - started
        for shard in shards:
            path = self.job.run.path(shard.name)
            self.todo.files[shard.name] = self.job.run.entry(path, tables.rows(path))
            found = tables.read(path)
            nodes[shard.prompt]["exact"][found["node"]] = found["exact"]
            nodes[shard.prompt]["drawn"][shard.node] = shard.weight

    def _shards(self, number: int, part: Extent) -> Iterator[_Shard]:
        starts = self.study(number).starts
        of = np.searchsorted(starts, part.node, side="right") - 1
        for source in np.unique(of).tolist():
            here = of == source
            yield _Shard(self.todo.plan.fingerprint, number, source, part.node[here], part.weight[here])

    def _chosen(self, nodes: list[tables.Columns]) -> str:
        """The estimate that stands where nothing was measured: that of the method, or the one that correlates best."""
        method = self.job.settings.attribute.method
        if method in ("atp", "relp", "ig"):
            return method
        joined = {name: np.concatenate([t[name] for t in nodes]) for name in ("exact", "drawn", *self.rules)}
        there = joined["drawn"] > 0
        best: dict[str, float] = {}
        for rule in self.rules:
            found = calibrate(
                joined[rule][there], joined["exact"][there], joined["drawn"][there],
                of="nodes", method=rule, kind="all", total=len(there), seed=self.job.settings.seed,
            )  # fmt: skip
            best[rule] = -2.0 if found.pearson.value is None else found.pearson.value
        return max(best, key=lambda name: (best[name], name))

    def _settle(self, table: tables.Columns, estimate: str) -> None:
        """The effect of each node, and how it was got."""
        exact = np.isfinite(table["exact"])
        table["effect"] = np.where(exact, table["exact"], table[estimate])
        table["method"] = np.where(exact, "exact", estimate).astype(object)
        table["method"][-1] = ""

    def _edges(
        self, nodes: list[tables.Columns], estimate: str
    ) -> tuple[list[tables.Columns], list[tables.Columns], Rule]:
        rule: Rule = "relp" if estimate == "relp" else "atp"
        chosen = wiring.candidates(nodes, self._most)
        edges, rows = [], []
        with self.job.report.track("Computing edges", sum(int(part.sum()) for part in chosen), "nodes") as done:
            for number, part in enumerate(chosen):
                wired = wiring.wire(self.study(number), rule, part, number, self.runtime, done)
                edges.append(wired.edges)
                rows.append(wired.rows)
        settings = self.job.settings.attribute
        measured = wiring.to_measure(
            self.study, edges, settings.edges, _EDGES * settings.budget, self._per, self.job.settings.seed
        )
        with self.job.report.track("Measuring edges", sum(len(drawn.index) for drawn in measured), "edges") as done:
            for number, drawn in enumerate(measured):
                wiring.measure(
                    self.study(number), edges[number], drawn, self._dictionary, self.batches,
                    weights=settings.edges != "estimate",
                )  # fmt: skip
                done(len(drawn.index))
        return edges, rows, rule

    def _dictionary(self, site: Site) -> Dictionary:
        return self.inputs.passes.saes([site])[site]

    @property
    def _most(self) -> int:
        """How many nodes have their edges computed."""
        settings = self.job.settings.attribute
        return settings.candidates if settings.nodes == "auto" else max(settings.nodes, 1)

    def _write(self, nodes: list[tables.Columns], edges: list[tables.Columns], rows: list[tables.Columns]) -> None:
        asked = [self._question(number) for number in range(len(self.asked))]
        self.todo.expect(dict.fromkeys(attributions.FILES))
        self.todo.files |= attributions.write(self.job.run, asked, nodes, edges, rows)

    def _question(self, number: int) -> attributions.Prompt:
        study, asked, tokenizer = self.study(number), self.asked[number], self.job.subject.tokenizer
        metric, other = study.prompt.metric, asked.counterfactual_ids
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
            prob=float(study.prompt.logits.softmax(-1)[metric.target]),
            unit=metric.unit,
        )

    def _facts(
        self, nodes: list[tables.Columns], edges: list[tables.Columns], estimate: str, edge_method: Rule
    ) -> None:
        settings = self.job.settings.attribute
        positions = settings.positions
        measured = sum(int((table["method"] == "exact").sum()) for table in nodes)
        count = sum(len(table["node"]) - 1 for table in nodes)
        self.todo.facts.update(
            method=settings.method,
            measured=measured,
            nodes=count,
            edges=sum(len(part["weight"]) for part in edges),
            edges_measured=sum(int((part["method"] == "exact").sum()) for part in edges),
            edge_method=edge_method,
            estimate="" if measured == count else estimate,
            baseline=self.baselines.kind,
            frozen=settings.freeze,
            positions=("separate" if len(nodes) == 1 else "sum") if positions == "auto" else positions,
            engine=engine(self.inputs.passes.model),
            seconds_by_part={name: round(value, 3) for name, value in self.seconds.items()},
            peak_memory_bytes=peak_memory(self.job.runtime.device),
        )


@dataclass(frozen=True, eq=False)
class _Shard:
    """The nodes of one site of one prompt that are measured, and how many each stands for."""

    stage: str
    prompt: int
    source: int
    node: np.ndarray
    weight: np.ndarray

    @property
    def planned(self) -> dict[str, Any]:
        """What the plan says of it."""
        return {
            "prompt": self.prompt,
            "source": self.source,
            "nodes": self.node.tolist(),
            "weights": self.weight.tolist(),
        }

    @property
    def name(self) -> str:
        """Its file, named by what decides its content."""
        digest = fingerprint({"stage": self.stage, **self.planned})[:16]
        return f"attribution/measured-{digest}.parquet"
