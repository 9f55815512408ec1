"""validate: how much of what the model does on some examples a circuit does, beside other circuits of its size.

1.  Examples are read, and halved (`examples`, `halves`).
2.  On the discovery half every feature, neuron and dimension is estimated, and the strongest features are measured
    (`screening`): by these, circuits of growing size are made (`lines`).
3.  On the evaluation half m is measured of each (`judging`), and of the given or found circuit without each feature.
4.  With the whole circuit ablated, the text of the run is read again (`joint`).

What was measured is kept example by example, some in a file, so that whatever is interrupted goes on from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitcli.core.sites import Site
from circuitcli.stages import examples as reading
from circuitcli.stages.given import Given, given
from circuitcli.stages.halves import halves
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.store import tables, validations
from circuitcli.store.records import fingerprint

if TYPE_CHECKING:
    from torch import Tensor

    from circuitcli.core.evidence.examples import Example, Half
    from circuitcli.runtime.device import Runtime
    from circuitcli.stages.judging import Components, Judge, Opened
    from circuitcli.stages.lines import Line, Scores

NAME = validations.STAGE
_BLOCK = 8  # examples whose numbers are kept in one file


def run(job: Job) -> Outcome:
    """Judge the circuit of the settings.

    Raises:
        UsageError, InputError: The circuit or the examples aren't as they should be; see `given` and `examples`.
    """
    job.parents(NAME)
    circuit = given(job)
    inputs = {"examples": reading.identity(job), "features": _identity(circuit)}
    return stage(job, NAME, inputs, lambda todo: _Validation(job, todo, circuit).work())


def _identity(circuit: Given | None) -> str:
    """What identifies the features that are judged: redrawing their graph changes nothing."""
    if circuit is None:
        return ""
    told = "\n".join([*(str(one) for one, _ in circuit.features), *circuit.found_on])
    return hashlib.sha256(told.encode(errors="surrogatepass")).hexdigest()


@dataclass(eq=False)
class _Validation:
    """The work of the stage."""

    job: Job
    todo: Work
    circuit: Given | None

    @cached_property
    def examples(self) -> list[Example]:
        """What the circuit is judged on."""
        return reading.examples(self.job)

    @cached_property
    def halves(self) -> list[Half]:
        """The half of each example."""
        settings = self.job.settings
        found_on = self.circuit.found_on if self.circuit else ()
        return halves(self.examples, settings.validate.split, settings.seed, found_on)

    @cached_property
    def judge(self) -> Judge:
        """The run's model and dictionaries, with the baseline."""
        from circuitcli.stages.inputs import Inputs
        from circuitcli.stages.judging import Judge

        return Judge(Inputs(self.job), reading.baseline(self.job))

    @cached_property
    def runtime(self) -> Runtime:
        """At the batch size and threads of the plan, so that what is resumed repeats the arithmetic."""
        passes = self.judge.inputs.passes
        each = passes.row_bytes(None) + 8 * self._longest * max(self.judge.widths("features").values())
        return self.todo.planned_batch(passes.runtime.rows_at_once(each, self._longest))

    @cached_property
    def _longest(self) -> int:
        return max(len(one.ids) for example in self.examples for one in example.sequences)

    def batches(self, count: int, positions: int, work: Callable[[slice], Tensor]) -> Iterator[Tensor]:
        """Work over rows of so many positions; a batch of the plan has the longest sequence's."""
        from circuitcli.stages.batching import by_positions

        made = by_positions(self.runtime, self.runtime.batch_size or 1, self._longest, self.job.report.say)
        return made(count, positions, work)

    def work(self) -> None:
        """All of it."""
        from circuitcli.stages.lines import lines

        settings = self.job.settings.validate
        discovery = [i for i, half in enumerate(self.halves) if half == "discovery"]
        scores = self._scores(discovery)
        found = lines(
            scores, self.circuit, nodes=settings.nodes, more=settings.sizes, draws=settings.draws,
            seed=self.job.settings.seed,
        )  # fmt: skip
        judged = self._judged(found)
        self.todo.expect(dict.fromkeys(validations.FILES))
        self.todo.files |= validations.write(self.job.run, self._told(), judged, _nodes(found))
        self._over_text(found[0])
        self.todo.facts.update(
            baseline=self.judge.kind,
            circuit=self.circuit.what if self.circuit else "",
            examples={half: self.halves.count(half) for half in ("discovery", "evaluation")},
            scored={line.curve: len(line.ranking) for line in found if line.kind == "features" and line.curve},
            measured=int(sum(np.isfinite(values).sum() for values in scores.exact.values())),
        )

    def _scores(self, discovery: Sequence[int]) -> Scores:
        """What the discovery half says of single components."""
        from circuitcli.stages.lines import Scores

        screened = self._blocks("screened", "Estimating effects", discovery, {}, self._screen)
        atp: dict[Components, dict[Site, np.ndarray]] = {
            kind: {site: np.zeros(width) for site, width in self.judge.widths(kind).items()}
            for kind in ("features", "neurons", "dimensions")
        }
        activation = {site: np.zeros_like(values) for site, values in atp["features"].items()}
        for table in screened:
            for kind, sites in atp.items():
                _scatter(sites, table, "atp", table["kind"] == kind, len(discovery))
            _scatter(activation, table, "activation", table["kind"] == "features", len(discovery))
        candidates = self._candidates(atp["features"])
        exact = {site: np.full(len(values), np.nan) for site, values in activation.items()}
        for site, features in candidates.items():
            exact[site][features] = 0.0
        what = {"candidates": {str(site): features.tolist() for site, features in candidates.items()}}
        work = lambda numbers, done: self._measure(numbers, candidates, done)  # noqa: E731
        for table in self._blocks("measured", "Measuring effects", discovery, what, work):
            _scatter(exact, table, "exact", np.ones(len(table["exact"]), np.bool_), len(discovery))
        return Scores(atp, activation, exact)

    def _candidates(self, atp: Mapping[Site, np.ndarray]) -> dict[Site, np.ndarray]:
        """The features whose effects are measured: the strongest estimates."""
        from circuitcli.core.evidence.lineup import ranked

        size = {site: np.abs(values) for site, values in atp.items()}
        some = ranked(size, {site: values > 0 for site, values in size.items()})
        index, site = some.index[: self.job.settings.validate.candidates], some.site
        return {of: np.sort(index[site[: len(index)] == place]) for place, of in enumerate(some.sites)}

    def _screen(self, numbers: Sequence[int], done: Callable[[int], None]) -> list[tables.Columns]:
        from circuitcli.stages.screening import screen

        totals: dict[tuple[Components, Site], np.ndarray] = {}
        activation: dict[Site, np.ndarray] = {}
        for number in numbers:
            found = screen(self.judge, self.examples[number], number)
            for kind, sites in found.atp.items():
                for site, values in sites.items():
                    totals[kind, site] = totals.get((kind, site), 0.0) + values.double().cpu().numpy()
            for site, values in found.activation.items():
                activation[site] = activation.get(site, 0.0) + values.double().cpu().numpy()
            done(1)
        return [
            _screened(kind, site, values, activation[site] if kind == "features" else np.zeros_like(values))
            for (kind, site), values in totals.items()
        ]

    def _measure(
        self, numbers: Sequence[int], candidates: Mapping[Site, np.ndarray], done: Callable[[int], None]
    ) -> list[tables.Columns]:
        import torch

        from circuitcli.stages.screening import measure

        sites = {base for one in self.judge.dictionaries for base in (one.reads, *self.judge.model.bases(one.writes))}
        parts = []
        for number in numbers:
            opened = self.judge.open(self.examples[number], number, read=sorted(sites, key=lambda site: site.order))
            for site, features in candidates.items():
                index = torch.as_tensor(features, device=self.judge.model.device)
                effect = measure(self.judge, opened, site, index, self.batches).numpy()
                there = np.flatnonzero(effect)
                parts.append(
                    {
                        "example": np.full(len(there), number, np.int32),
                        "layer": site.layer,
                        "site": site.name,
                        "feature": features[there],
                        "exact": effect[there],
                    }
                )
            done(1)
        return parts

    def _judged(self, found: Sequence[Line]) -> list[tables.Columns]:
        """What m is of every circuit on every example."""
        numbers = list(range(len(self.examples)))
        what = {"lines": _digest(found)}
        work = lambda some, done: self._judge(some, found, done)  # noqa: E731
        return self._blocks("validation", "Judging circuits", numbers, what, work)

    def _judge(
        self, numbers: Sequence[int], found: Sequence[Line], done: Callable[[int], None]
    ) -> list[tables.Columns]:
        from circuitcli.stages.lines import every

        parts = []
        for number in numbers:
            half = self.halves[number]
            opened = self.judge.open(self.examples[number], number)
            about = {"half": half, "example": number}
            parts.append(
                about | _columns("", 0, [("kept", "everything", 0, -1)], np.asarray([self.judge.clean(opened)]))
            )
            for line, rows in every(found, half):
                m = self._line(opened, line, rows)
                told = [(row.errors, row.part, row.n, row.node) for row in rows]
                parts.append(about | _columns(line.curve, line.draw, told, m))
            done(1)
        return parts

    def _line(self, opened: Sequence[Opened], line: Line, rows: Sequence[Any]) -> np.ndarray:
        """What m is of some circuits of a line on an example."""
        import torch

        from circuitcli.core.evidence.lineup import keep, keeps_errors

        ranks = {site: rank.to(self.judge.model.device) for site, rank in line.ranks.items()}

        def work(part: slice) -> Tensor:
            kept = {site: keep(rows[part], rank) for site, rank in ranks.items()}
            errors = {site: keeps_errors(rows[part], one) for site, one in kept.items()}
            return self.judge.m(opened, line.kind, kept, errors)

        longest = max(len(one.tokens) for one in opened)
        return np.asarray(torch.cat(list(self.batches(len(rows), longest, work))).double().cpu().numpy())

    def _blocks(
        self,
        table: str,
        words: str,
        numbers: Sequence[int],
        what: dict[str, Any],
        work: Callable[[Sequence[int], Callable[[int], None]], list[tables.Columns]],
    ) -> list[tables.Columns]:
        """What work says of examples, some in a file, and those that are there already not again."""
        self.runtime  # noqa: B018  the plan has a batch size before anything is measured
        blocks = [list(numbers[i : i + _BLOCK]) for i in range(0, len(numbers), _BLOCK)]
        shards = {}
        for block in blocks:
            told = {"table": table, "examples": block, **what}
            shards[f"validation/{table}-{fingerprint({'stage': self.todo.plan.fingerprint, **told})[:16]}.parquet"] = (
                told
            )
        self.todo.expect(shards)
        missing = [name for name in shards if not self.todo.found(name)]
        run = self.job.run
        with self.job.report.track(words, sum(len(shards[name]["examples"]) for name in missing), "examples") as done:
            for name in missing:
                tables.write(run.path(name), f"validation/{table}", work(shards[name]["examples"], done))
        found = []
        for name in shards:
            self.todo.files[name] = run.entry(run.path(name), tables.rows(run.path(name)))
            found.append(tables.read(run.path(name)))
        return found

    def _over_text(self, line: Line) -> None:
        """Ablate the whole circuit over the run's text; by 0 where its baseline is that of counterfactuals."""
        import torch

        from circuitcli.stages.joint import joint, zero

        count = max((row.n for row in line.found if row.part == "circuit"), default=0)
        sites, ranking = list(line.ranking.sites), line.ranking
        circuit = {
            site: torch.as_tensor(ranking.index[:count][ranking.site[:count] == place], device=self.judge.model.device)
            for place, site in enumerate(sites)
        }
        replaced = zero if self.judge.kind == "patch" else self.judge.instead
        columns = joint(self.judge.inputs, self.judge.dictionaries, circuit, replaced)
        self.todo.expect({validations.JOINT: None})
        self.todo.files[validations.JOINT] = validations.write_joint(self.job.run, columns)

    def _told(self) -> list[validations.Example]:
        pieces = self.job.subject.tokenizer.pieces
        return [
            validations.Example(
                example.name, half, tuple(tuple(pieces(list(one.ids))) for one in example.sequences), example.unit
            )
            for example, half in zip(self.examples, self.halves, strict=True)
        ]


def _columns(curve: str, draw: int, rows: Sequence[tuple[str, str, int, int]], m: np.ndarray) -> tables.Columns:
    errors, part, n, node = (list(column) for column in zip(*rows, strict=True))
    return {"curve": curve, "draw": draw, "errors": errors, "part": part, "n": n, "node": node, "m": m}


def _screened(kind: str, site: Site, atp: np.ndarray, activation: np.ndarray) -> tables.Columns:
    """What isn't 0."""
    there = np.flatnonzero((atp != 0) | (activation != 0))
    return {
        "kind": kind, "layer": site.layer, "site": site.name, "feature": there.astype(np.int32),
        "atp": atp[there], "activation": activation[there],
    }  # fmt: skip


def _scatter(into: Mapping[Site, np.ndarray], table: tables.Columns, column: str, rows: np.ndarray, count: int) -> None:
    """Add a column's share of so many examples to the components that its rows are of."""
    for site, values in into.items():
        here = np.flatnonzero(rows & (table["layer"] == site.layer) & (table["site"] == site.name))
        np.add.at(values, table["feature"][here], table[column][here].astype(np.float64) / count)


def _digest(found: Sequence[Line]) -> str:
    """What identifies the circuits that are measured."""
    told = hashlib.sha256()
    for line in found:
        told.update(repr((line.curve, line.draw, line.rows, line.found)).encode())
        told.update(line.ranking.site.astype("<i8").tobytes() + line.ranking.index.astype("<i8").tobytes())
    return told.hexdigest()


def _nodes(found: Sequence[Line]) -> list[tables.Columns]:
    """What each curve chooses, of random ones the first draw; as many as its largest circuit but that of all."""
    parts = []
    for line in found:
        if line.curve and not line.draw:
            count = max(row.n for row in line.rows)
            sites = list(line.ranking.sites)
            of = [sites[place] for place in line.ranking.site[:count]]
            number = np.arange(len(of), dtype=np.int32)
            parts.append(
                {
                    "node": number,
                    "curve": line.curve,
                    "rank": number,
                    "layer": [site.layer for site in of],
                    "site": [site.name for site in of],
                    "feature": line.ranking.index[:count],
                    "score": line.ranking.score[:count],
                }
            )
    return parts
