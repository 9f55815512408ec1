"""The one mechanism behind all stages: fingerprint, skip, resume, refuse, redo, and record.

A fingerprint hashes what decides a stage's numbers: its settings, what it read from outside, its parents' results.
A stage that is done says so and does nothing; half done, it goes on from its shards; changed, one that needs no model
is redone, and one that does names what changed and asks for --force.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from circuitcli import __version__
from circuitcli.errors import InputError, quoted
from circuitcli.settings import defaults, kept
from circuitcli.stages.pieces import Piece, Pieces, Whole
from circuitcli.stages.spec import STAGES, Stages, StageSpec
from circuitcli.stages.tools import Tools
from circuitcli.store import claims, files, records
from circuitcli.store.records import FileEntry, Plan, Record
from circuitcli.store.run import Run

if TYPE_CHECKING:
    from circuitcli.executors import Places
    from circuitcli.results.results import Results
    from circuitcli.runtime.device import Runtime
    from circuitcli.stages.subject import Subject

# So many files are named when something is wrong with more.
_NAMED = 6
_LIBRARIES = ("torch", "transformer_lens", "transformers", "numpy", "pyarrow")


@dataclass(frozen=True)
class Job(Tools):
    """What a stage works on, and with."""

    run: Run
    force: bool = False
    verify: bool = False  # whether what is done is read again and compared with its hashes, not only with its sizes
    stages: Stages = STAGES

    def threads(self, spec: StageSpec) -> int:
        """Those of torch where a stage is computed: in this process, or in the executor's workers."""
        return (self.executor.threads() if spec.spreads else None) or self.runtime.threads

    @cached_property
    def subject(self) -> Subject:
        """The model and the SAEs that the run recorded.

        Raises:
            InputError: It hasn't yet, or not as this version does.
        """
        from circuitcli.stages.subject import recorded

        return recorded(self, self.run)

    def claims(self, stage: str) -> Path:
        """The folder in which processes that share a stage say what each of them does."""
        return self.run.path(f"{self.stages[stage].folder}/claims")

    def results(self) -> Results:
        """What the run has finished by now, read with the job's settings."""
        from circuitcli.results.results import Results

        return Results(self.run, self.settings, lambda tokens: self.subject.tokenizer.pieces(tokens))

    def parent(self, stage: str) -> Record:
        """The record of a stage that this one builds on.

        Raises:
            InputError: It isn't done, or was done with other settings than the run has now.
        """
        record = self.run.require(stage)
        spec = self.stages[stage]
        stale = self.changes({**record.inputs, **record.choice}, (*spec.decides, *spec.chooses))
        if stale:
            raise InputError(
                f"The {stage} stage of {self.run.root} was made with other settings: {', '.join(stale)}.",
                hint=f"Run `circuit {stage} --run {quoted(self.run.root)}` again"
                f"{' with --force' if spec.needs_model else ''}.",
            )
        return record

    def parents(self, stage: str) -> dict[str, str]:
        """What identifies the results that a stage builds on, by the stage that they are of.

        Raises:
            InputError: One isn't done, or was done with other settings than the run has now.
        """
        return {name: self.parent(name).result for name in self.stages[stage].parents}


@dataclass
class Work:
    """What a stage's work is given, and what it has to fill in.

    Attributes:
        job: Settings, run and report.
        plan: What is planned so far; change it with `expect`.
        anew: Whether nothing of an earlier attempt is kept.
        known: What the record said of the files that are kept, if the stage was done.
        reopened: The stage that took the record back, if one did.
        files: The finished files, by name; every one of them must be planned.
        facts: What the stage reports.
        shared: Whether other processes write the run at the same time, whose unfinished files stay.
        pieces: Who does its pieces.
    """

    job: Job
    name: str
    plan: Plan
    anew: bool
    known: dict[str, FileEntry]
    reopened: str = ""
    files: dict[str, FileEntry] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    shared: bool = False
    pieces: Pieces = field(default_factory=Whole)
    _begun: bool = False

    def begin(self) -> None:
        """Make the first change to the run, once. A work that refuses its inputs before this leaves it as it was."""
        if self._begun or not self.pieces.begins():
            return
        self._begun = True
        if not self.shared:
            self.job.run.sweep()
        if self.anew:
            self.job.run.discard(self.name, self.job.stages.descendants(self.name))
        self.job.run.reopen(self.name, self.job.stages.descendants(self.name))
        self.job.run.save_settings(kept(self.job.settings))
        self.job.run.save_plan(self.name, self.plan)

    def expect(self, shards: dict[str, Any]) -> None:
        """Plan files before any of them is written."""
        new = set(shards) - set(self.plan.shards)
        self.pieces.check(len(new))
        self.begin()
        if new:
            self.plan = records.Plan(**{**vars(self.plan), "shards": {**self.plan.shards, **shards}})
            self.job.run.save_plan(self.name, self.plan)

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Within it nobody else plans the stage, whose plan is as others have left it."""
        with self.pieces.planning():
            if self.shared:
                self.plan = self.job.run.plan(self.name) or self.plan
            yield

    def make(self, what: str, unit: str, pieces: Sequence[Piece], places: Places, *, of: Collection[str]) -> None:
        """Have pieces done; see `pieces`."""
        self.pieces.make(self.job, what, unit, pieces, places, of=of)

    def found(self, name: str) -> bool:
        """Whether a planned file is there from an earlier attempt.

        Raises:
            InputError: It isn't what was recorded.
        """
        there = name in self.plan.shards and self.job.run.path(name).is_file()
        if there and name in self.known:
            self.job.run.verify(self.name, name, self.known[name])
        return there

    def unchanged(self, name: str) -> bool:
        """Whether a file of the stage, which was done, is as its record said."""
        path, known = self.job.run.path(name), self.known.get(name)
        return known is not None and path.is_file() and files.digest(path) == known.sha256

    def planned_batch(self, size: int) -> Runtime:
        """The runtime at the plan's batch size and threads; a plan that has none yet takes this batch size."""
        self.pieces.check(int(self.plan.batch_size == 0))
        self.begin()
        if self.plan.batch_size == 0:
            self.plan = records.Plan(**{**vars(self.plan), "batch_size": size})
            self.job.run.save_plan(self.name, self.plan)
        return self.job.runtime.with_plan(batch_size=self.plan.batch_size, threads=self.plan.threads)


Status = Literal["done", "skipped"]


@dataclass(frozen=True)
class Outcome:
    """What came of a stage: its record, and whether anything was to do."""

    name: str
    status: Status
    record: Record


def stage(
    job: Job, name: str, facts_of_inputs: dict[str, Any], work: Callable[[Work], None], *, again: str | None = None
) -> Outcome:
    """Do a stage's work unless it is done.

    Args:
        job: The run and its settings.
        name: Of the stage.
        facts_of_inputs: What decides the numbers besides the stage's settings and its parents' results: digests.
        work: Plans and writes the files.
        again: What there is to do though it is done, to be said; None if nothing is.

    Raises:
        InputError: The stage was made, or begun, from other inputs, and needs --force.
    """
    todo = unstarted(job, name, facts_of_inputs, again=again)
    if todo is None:
        job.report.say(f"{name}: already done.")
        claims.sweep(job.claims(name))  # of parts that it was done in
        return Outcome(name, "skipped", job.run.require(name))
    if not todo.anew and job.run.record(name) is None:
        job.report.say(f"{name}: {_going_on(job.stages[name], todo.reopened)}.")
    started = time.monotonic()
    device = str(job.runtime.device) if job.stages[name].needs_model else "cpu"
    work(todo)
    todo.begin()
    done = Record(
        fingerprint=todo.plan.fingerprint,
        inputs=todo.plan.inputs,
        choice=job.chosen(job.stages[name].chooses),
        files=todo.files,
        facts=todo.facts,
        versions=versions(),
        device=device,
        seconds=round(time.monotonic() - started, 3),
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    job.run.save_record(name, done)
    claims.sweep(job.claims(name))
    return Outcome(name, "done", done)


def unstarted(job: Job, name: str, facts_of_inputs: dict[str, Any], *, again: str | None = None) -> Work | None:
    """What a stage has to work on, before anything is changed; None if it is done and nobody says why to do it again.

    Raises:
        InputError: A parent isn't done, or the stage was made, or begun, from other inputs, and needs --force.
    """
    spec = job.stages[name]
    inputs = {**job.chosen(spec.decides), **job.parents(name), **facts_of_inputs}
    record, plan = job.run.record(name), None if job.force else job.run.plan(name)
    same = record is not None and _same(record, inputs, spec) and not job.changes(record.choice, spec.chooses)
    if same and not job.force and record is not None:
        wrong = _amiss(job, name, record)
        if not wrong and again is None:
            return None
        if wrong:
            what = (
                "made again, because of what isn't as it was recorded"
                if spec.remade
                else "going on with what is missing"
            )
            more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
            job.report.say(f"{name}: {what}: {', '.join(wrong[:_NAMED])}{more}.")
        else:
            job.report.say(f"{name}: {again}.")
    if plan and not _same(plan, inputs, spec):
        _changed(job, name, records.changes({**defaults(), **_deciding(plan, spec)}, {**defaults(), **inputs}))
        plan = None
    return Work(
        job,
        name,
        replace(plan, reopened="")
        if plan
        else Plan(records.fingerprint(inputs), inputs, 0, job.threads(spec) if spec.needs_model else 1),
        anew=plan is None,
        known=record.files if plan and record else {},
        reopened=plan.reopened if plan else "",
    )


def _going_on(spec: StageSpec, reopened: str) -> str:
    """What becomes of a stage that has a plan and no record: it was interrupted, or taken back."""
    if not reopened:
        return "going on from where it stopped"
    return f"made again, as {reopened} was" if spec.remade else f"what still fits is kept, as {reopened} was made again"


def _same(told: Plan | Record, inputs: Mapping[str, Any], spec: StageSpec) -> bool:
    """Whether a plan or a record is of these inputs: it can't name settings that came later, whose defaults it has."""
    later = {key for key in defaults().keys() - told.inputs.keys() if inputs.get(key) == defaults()[key]}
    counted = _deciding(told, spec)
    then = told.fingerprint if counted == told.inputs else records.fingerprint(counted)
    return then == records.fingerprint({key: inputs[key] for key in inputs.keys() - later})


def _deciding(told: Plan | Record, spec: StageSpec) -> dict[str, Any]:
    """What decided a plan or a record, without settings that decide no such thing any more."""
    return {key: v for key, v in told.inputs.items() if key not in defaults() or key.startswith(spec.decides)}


def _changed(job: Job, name: str, what: list[str]) -> None:
    """A stage that was made from other inputs: redo it if that is cheap, with all that builds on it, else ask."""
    lost = (name, *job.stages.descendants(name))
    costly = [stage for stage in lost if job.stages[stage].needs_model and job.run.plan(stage)]
    if costly:
        raise InputError(
            f"{' and '.join(costly)} of {job.run.root} {'was' if len(costly) == 1 else 'were'} made from other inputs: "
            f"{', '.join(what)}.",
            hint="Give --force to do this again, or name a new run with --run.",
        )
    job.report.say(f"{name}: made again, because of {', '.join(what)}.")


def _uncounted(done: int) -> None:
    pass


def _amiss(job: Job, name: str, record: Record) -> list[str]:
    """The files of a done stage that are missing, or not as they were recorded: by their sizes, and where its spec says
    so, or everything is to be verified, by their hashes.

    Raises:
        InputError: One isn't as it was recorded, and the stage isn't one that is done again for that.
    """
    spec = job.stages[name]
    hashed = job.verify or spec.hashed
    found = []
    with (
        job.report.track(f"Verifying {name}", len(record.files), "files")
        if job.verify
        else nullcontext(_uncounted) as done
    ):
        for file, entry in record.files.items():
            path = job.run.path(file)
            if not path.is_file() or (spec.remade and not job.run.as_recorded(path, entry, hashed=hashed)):
                found.append(file)
            elif not spec.remade:
                job.run.verify(name, file, entry, hashed=hashed)
            done(1)
    return found


def versions() -> dict[str, str]:
    """Of this package, and of the libraries that compute."""
    from importlib import metadata

    return {"circuitcli": __version__, **{library: metadata.version(library) for library in _LIBRARIES}}
