"""run-all: the stages one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from circuitcli.core.words import duration
from circuitcli.results import extend
from circuitcli.runtime.clock import process_seconds
from circuitcli.stages import ablate, cache_acts, labels, questions
from circuitcli.stages.sequences import hushed
from circuitcli.stages.stage import Job, Outcome
from circuitcli.stages.subject import chosen
from circuitcli.stages.text_identity import text_identity

if TYPE_CHECKING:
    from circuitcli.stages.estimate import Estimate
    from circuitcli.stages.preview import Preview


def run(job: Job, show: Callable[[Outcome], None]) -> list[Outcome]:
    """Do every stage that isn't done; `show` is called after each.

    A device that was named, text, questions, labels and the graphs that are to be extended are tried first, before
    anything is written or computed. Before activations are cached it says what that and the ablations will take, if
    there are any.

    Raises:
        InputError: One of them isn't there, or isn't fit.
        ResourceError: They would take more memory or disk than there is.
    """
    named = job.settings.runtime.device not in ("auto", "cpu")
    stages = job.stages.in_run_all
    todo = {spec.name for spec in stages if job.force or job.run.record(spec.name) is None}
    if named and todo:
        job.runtime  # noqa: B018 -- asks for the device
    text_identity(job)
    if "attribute" in todo:
        questions.identity(job)
    extend.read(job.results())
    labels.check(job)
    outcomes = []
    for spec in stages:
        if spec.name == cache_acts.NAME:
            extend.earlier(job.results())  # again, as the run has recorded its model and SAEs by now
            labels.check(job)
            if "attribute" in todo:
                questions.asked(job, say=hushed)  # the stage itself says what there is to say
            if spec.name in todo and ablate.NAME in job.stages.ancestors("graph"):
                _announce(job)
        outcomes.append(spec.work()(job))
        show(outcomes[-1])
    return outcomes


def _announce(job: Job) -> None:
    from circuitcli.runtime.device import out_of_memory
    from circuitcli.stages import preview

    try:
        expected = preview.preview(job.subject, job.run.free_disk())
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return  # with smaller batches the stages may still get by
    if expected is not None:
        for line in expected.words:
            job.report.say(line)
        soon, so_far = expected.cache_seconds + expected.ablate.seconds, process_seconds()
        job.report.say(f"run-all: about {duration(so_far + soon)} in all, {so_far:.0f} s of them so far.")
        expected.ablate.check(allow_over_memory=job.settings.runtime.allow_over_memory)


def dry_run_of_questions(job: Job) -> dict[str, int]:
    """How much is asked, as far as that is known before anything is computed; nothing is written.

    Raises:
        CircuitError: As the questions are read: see `questions.asked`.
    """
    subject = chosen(job, job.run, force=job.force)
    asked = questions.asked(job, subject)
    return {
        "prompts": len(asked),
        "tokens": sum(len(one.ids) for one in asked),
        "positions": sum(sum(one.counts) for one in asked),
        "sites": len(subject.entries),
    }


def dry_run(job: Job) -> tuple[Preview | None, Estimate | None]:
    """What is still to do would take: the ablations of a run whose activations are cached, else caching as well."""
    record = job.run.record(cache_acts.NAME)
    if record is None or job.force:
        from circuitcli.stages import preview

        found = preview.of_settings(job)
        return found, found.ablate
    return None, ablate.preview(job)
