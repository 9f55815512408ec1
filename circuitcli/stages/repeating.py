"""Making a repeat of a discovery: a run of its own, within the run that it repeats, by the tool's own stages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, cast

from circuitcli.errors import InputError
from circuitcli.settings import kept
from circuitcli.stages.repeats import Cause, Repeat
from circuitcli.stages.report import Within
from circuitcli.stages.spec import STABILITY, STAGES, StageSpec
from circuitcli.stages.stage import Job
from circuitcli.store.run import Run

# What is compared with the run's own once it was read: the stage that reads it, its name there, and what it is called.
_READ = (("cache-acts", "text", "text"), ("attribute", "questions", "questions"))
# How to go on without one.
_WITHOUT: dict[Cause, str] = {"seed": "--seeds 0", "half": "--halves 0", "intervention": "--interventions none"}


def of(job: Job, repeat: Repeat) -> Job:
    """The job of a repeat, on its own run; of the run itself with the settings that the others have."""
    run = job.run if repeat.own else Run(job.run.path(f"{STABILITY}/{repeat.name}"), STAGES.folders)
    drawn = cast(Literal["effects", "attribution"], repeat.settings.graph.of)
    return Job(repeat.settings, Within(job.report), run, stages=STAGES.drawing(drawn), executor=job.executor)


def is_done(job: Job, repeat: Repeat) -> bool:
    """Whether nothing of it is to do."""
    known = of(job, repeat)
    return repeat.own or all(_is_done(known, spec) for spec in known.stages.in_run_all)


def _is_done(known: Job, spec: StageSpec) -> bool:
    record = known.run.record(spec.name)
    if record is None or known.changes({**record.inputs, **record.choice}, (*spec.decides, *spec.chooses)):
        return False
    files = ((known.run.path(name), entry) for name, entry in record.files.items())
    if not all(path.is_file() and known.run.as_recorded(path, entry, hashed=spec.hashed) for path, entry in files):
        return False
    parents = {name: known.run.record(name) for name in spec.parents}
    return all(made is not None and record.inputs.get(name) == made.result for name, made in parents.items())


def refuse_other(job: Job, repeats: Sequence[Repeat]) -> None:
    """Refuse repeats that were begun when the run was another: they are too dear to throw away unasked.

    Raises:
        InputError: With what is other now.
    """
    for repeat in repeats:
        known = of(job, repeat)
        for name in repeat.takes:
            taken, record = known.run.record(name), job.run.require(name)
            if taken is not None and taken.result != record.result:
                raise _other(known.run, [f"{name} was done again since then"])
        for spec in known.stages.values():
            plan = known.run.plan(spec.name) if spec.needs_model else None
            if plan is not None and (changes := known.changes(plan.inputs, spec.decides)):
                raise _other(known.run, changes)


def _other(run: Run, changes: Sequence[str]) -> InputError:
    return InputError(
        f"The repeat {run.root} was made from other inputs: {', '.join(changes)}.",
        hint="Give --force to make all repeats again, or take --seeds, --halves and --interventions as they were.",
    )


def forget(job: Job, repeats: Sequence[Repeat]) -> None:
    """Remove what repeats have written, as their plans list it."""
    for repeat in repeats:
        known = of(job, repeat)
        for name in reversed(list(known.stages)):
            known.run.discard(name)


def make(job: Job, repeat: Repeat) -> None:
    """Do all that isn't done of a repeat.

    Raises:
        InputError: It can't be made, or the text, or the questions, aren't what the run read any more.
    """
    known = of(job, repeat)
    with known.run.locked(job.report.say), _named(repeat):
        known.run.sweep()
        known.run.save_settings(kept(repeat.settings))
        for name in repeat.takes:
            known.run.adopt(name, job.run)
        for spec in known.stages.in_run_all:
            spec.work()(known)
            _refuse_other_text(job, known, spec.name)


@contextmanager
def _named(repeat: Repeat) -> Iterator[None]:
    """What is wrong, with the repeat in which it is."""
    try:
        yield
    except InputError as error:
        raise InputError(
            f"The repeat {repeat.name} can't be made. {error.message}",
            hint=f"Go on without: {_WITHOUT[repeat.cause]}. Of a run by itself: {error.hint}",
        ) from None


def _refuse_other_text(job: Job, known: Job, stage: str) -> None:
    for made, what, word in _READ:
        if stage == made and known.run.require(made).inputs.get(what) != job.run.require(made).inputs.get(what):
            raise InputError(
                f"The {word} changed since {job.run.root} read it.",
                hint=f"Give the {word} as it was, or `circuit {made} --force` on this run.",
            )


def took(job: Job, repeat: Repeat) -> float:
    """Seconds that the run itself took for what a repeat has to do; half of them for a half."""
    stages = [spec.name for spec in of(job, repeat).stages.in_run_all if spec.name not in repeat.takes]
    seconds = sum(record.seconds for record in map(job.run.record, stages) if record is not None)
    return seconds / 2 if repeat.cause == "half" else seconds


def weighs(job: Job, repeat: Repeat) -> int:
    """Bytes that the run itself has on disk of what a repeat has to do; half of them for a half."""
    stages = [spec.name for spec in of(job, repeat).stages.in_run_all if spec.name not in repeat.takes]
    entries = [entry for name in stages if (record := job.run.record(name)) for entry in record.files.values()]
    size = sum(entry.bytes or 0 for entry in entries)
    return size // 2 if repeat.cause == "half" else size
