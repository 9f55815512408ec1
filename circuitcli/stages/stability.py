"""stability: make a run's discovery again and again, and count what comes up how often.

1.  The repeats are made, each a run of its own (`repeats`); those that are done already are kept.
2.  Their circuits are compared: survival, Jaccard indices, ranks (`core.stability`).
3.  The run's own circuit is drawn with the survival of its nodes and edges.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from circuitcli import plugins
from circuitcli.core.circuit import Circuit
from circuitcli.core.stability import Discovery, discovery, strength_in_words
from circuitcli.core.words import amount, duration, quantity
from circuitcli.errors import InputError
from circuitcli.results import answer
from circuitcli.results import circuit as drawing
from circuitcli.results.results import Results
from circuitcli.results.stability import ALL, TABLE
from circuitcli.stages import repeating
from circuitcli.stages.repeats import Repeat, Repeats, planned_of
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.stages.survival import rows, summary, survivors
from circuitcli.store import circuits, files, tables

NAME = "stability"
FORMATS = ("html", "svg", "json")


def run(job: Job) -> Outcome:
    """Compare the repeats of a run's discovery, once all of them are made.

    Raises:
        InputError: The run isn't finished; or a repeat can't be made, or was made from other inputs.
        UsageError: There is nothing to compare.
    """
    job.parents(NAME)  # a stage that is missing is told first
    planned = planned_of(job)
    return stage(job, NAME, {}, lambda todo: _work(job, todo, planned))


def dry_run(job: Job) -> list[dict[str, Any]]:
    """What is to do for each cause, by what the run itself took: repeats, those not made yet, seconds and bytes.

    Raises:
        InputError: The run isn't finished.
        UsageError: There is nothing to compare.
    """
    job.parents(NAME)
    planned, found = planned_of(job), []
    for cause, many in planned.of.items():
        missing = [repeat for repeat in many if job.force or not repeating.is_done(job, repeat)]
        missing = [repeat for repeat in missing if not repeat.own]
        found.append(
            {
                "cause": cause,
                "repeats": [repeat.value for repeat in many],
                "missing": len(missing),
                "seconds": round(sum(repeating.took(job, repeat) for repeat in missing), 1),
                "bytes": sum(repeating.weighs(job, repeat) for repeat in missing),
            }
        )
    return found


def _work(job: Job, todo: Work, planned: Repeats) -> None:
    if not job.force:
        repeating.refuse_other(job, planned.others)
    todo.begin()
    if job.force:
        repeating.forget(job, planned.others)
    planned = planned.without(_make(job, planned.others))
    for line in planned.notes:
        job.report.say(f"{NAME}: {line}")
    own = _own_circuit(job, planned)
    mine = discovery(own)
    found: dict[str, dict[str, Discovery]] = {
        cause: {repeat.name: mine if repeat.own else discovery(_circuit(job, repeat)) for repeat in many}
        for cause, many in planned.of.items()
    }
    found[ALL] = {name: one for many in found.values() for name, one in many.items()}  # the run itself counts once
    _write(job, todo, planned, mine, {cause: list(many.values()) for cause, many in found.items()})
    todo.facts["ranked_by"] = strength_in_words(own.metadata, own.nodes)


def _make(job: Job, wanted: Sequence[Repeat]) -> dict[str, str]:
    """Make what isn't made, and say what that takes: by what the run itself took, then by what the first one did.

    Returns:
        Why repeats that nobody named can't be made, by their names.
    """
    missing, refused = [repeat for repeat in wanted if not repeating.is_done(job, repeat)], {}
    if not missing:
        return {}
    expected = [repeating.took(job, repeat) for repeat in missing]
    size = sum(repeating.weighs(job, repeat) for repeat in missing)
    job.report.say(
        f"{NAME}: {amount(len(missing), 'repeat')} of the discovery; by what the run itself took, about "
        f"{duration(sum(expected))} and {quantity(size)} on disk."
    )
    started = time.monotonic()
    with job.report.track("Repeating the discovery", len(missing), "repeats") as done:
        for number, repeat in enumerate(missing):
            try:
                repeating.make(job, repeat)
            except InputError as error:
                if not repeat.usual:
                    raise
                refused[repeat.name] = error.message
            done(1)
            if number == 0 and len(missing) > 1:
                seconds = time.monotonic() - started
                scale = seconds / expected[0] if expected[0] else 1.0
                left = duration(scale * sum(expected[1:]))
                job.report.say(f"{NAME}: the first took {duration(seconds)}; the others take about {left}.")
    return refused


def _circuit(job: Job, repeat: Repeat) -> Circuit:
    """What a repeat has found."""
    return circuits.read(circuits.locate(repeating.of(job, repeat).run.root))


def _own_circuit(job: Job, planned: Repeats) -> Circuit:
    """What the run itself has found, whatever was drawn of it and added to it."""
    results = Results(job.run, planned.base, lambda tokens: job.subject.tokenizer.pieces(tokens))
    return answer.build(results) if planned.base.graph.of == "attribution" else drawing.build(results, [])


def _write(job: Job, todo: Work, planned: Repeats, own: Discovery, found: Mapping[str, Sequence[Discovery]]) -> None:
    """The table, the graph, and what is to be told."""
    counts = {cause: len(many) for cause, many in planned.of.items()}
    pictures = _pictures(survivors(drawing.of_run(job.results()), found[ALL], counts))
    todo.expect({TABLE: None, **dict.fromkeys(pictures)})
    count = tables.write(
        job.run.path(TABLE), TABLE.removesuffix(".parquet"), [rows(cause, many, own) for cause, many in found.items()]
    )
    todo.files[TABLE] = job.run.entry(job.run.path(TABLE), count)
    for name, data in pictures.items():
        files.write(job.run.path(name), data)
        todo.files[name] = job.run.entry(job.run.path(name))
    strongest = min(own.ranks, key=lambda name: own.ranks[name], default=None)
    causes = {cause: summary(many, own, strongest, job.settings.seed) for cause, many in found.items()}
    for cause, repeats in planned.of.items():
        causes[cause]["values"] = [repeat.value for repeat in repeats]
    todo.facts.update(
        strongest=strongest,
        nodes=len(own.nodes),
        edges=len(own.edges),
        notes=list(planned.notes),
        causes=causes,
    )


def _pictures(circuit: Circuit) -> dict[str, bytes]:
    """The files of the circuit, by path in the run."""
    made: dict[str, bytes] = {}
    for name in FORMATS:
        made |= {f"{NAME}/{file}": data for file, data in plugins.load("renderers", name).files(circuit).items()}
    return made
