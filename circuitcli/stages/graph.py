"""graph: pick the largest mean effects, or what answers the question of prompts, and draw the nodes that they join."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from circuitcli.core.circuit import Circuit
from circuitcli.errors import InputError
from circuitcli.results import answer, carried, extend
from circuitcli.results.circuit import build
from circuitcli.results.labels import SAVED, applied
from circuitcli.stages import annotations as annotating
from circuitcli.stages import formats as formatting
from circuitcli.stages import labels as labelling
from circuitcli.stages.checks import refuse_to_extend
from circuitcli.stages.formats import Formats
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.store import circuits, files

NAME = "graph"
ATTRIBUTE = "attribute"  # the stage whose answer is drawn where the graph builds on it
_EDITED = "graph/circuit.edited.json"


def run(job: Job, edited: Path | None = None) -> Outcome:
    """Draw the circuit in every chosen format, with the labels and groups of an edited circuit.json if one is given."""
    job.parents(NAME)  # a stage that is missing is told before graphs and labels that can't be read
    if ATTRIBUTE in job.stages[NAME].parents:
        refuse_to_extend(job.settings)
        made = partial(answer.build, job.results())
    else:
        made = partial(build, job.results(), extend.earlier(job.results()))
    annotations, source = annotating.of_run(job, edited), labelling.check(job)
    inputs: dict[str, Any] = {
        "extended": extend.digests(job.results()),
        "edits": annotating.document(annotations),  # as older runs have recorded them
        **labelling.inputs(source),
    }
    if edited is None:
        _keep_edited(job)
    validated = carried.done(job.results())
    if validated is not None:
        inputs["validation"] = validated
    formats, relabel = formatting.of_run(job), labelling.again(job)

    def work(todo: Work) -> None:
        kept = {} if todo.anew or relabel else formatting.intact(todo, formats)
        if kept and labelling.intact(todo):
            _add(job, todo, formats, kept)
        else:
            circuit = carried.carried(job.results(), made())
            _draw(job, todo, applied(circuit, annotations), source, formats)
        annotating.keep(job, annotations)

    return stage(job, NAME, inputs, work, again=relabel or formats.added)


def _keep_edited(job: Job) -> None:
    """Put a circuit.json that somebody edited in its place aside, before another is drawn there."""
    record, path = job.run.record(NAME), job.run.path(circuits.CIRCUIT)
    entry = record.files.get(circuits.CIRCUIT) if record else None
    if entry is None or not path.is_file() or job.run.as_recorded(path, entry):
        return
    try:
        circuits.read(path)
    except InputError:
        return  # damaged: there is nothing to keep
    aside = job.run.path(_EDITED)
    path.replace(aside)
    job.report.say(f"graph: {path.name} was edited; it is kept as {aside.name}, whose labels `graph --load` takes.")


def _add(job: Job, todo: Work, formats: Formats, kept: dict[str, list[str]]) -> None:
    """Draw what isn't there yet from circuit.json, and keep the rest as it is."""
    record, circuit = job.run.require(NAME), formatting.document(job)
    missing = [name for name in formats.all if name not in kept]
    drawn = formatting.draw(job, circuit, missing, formats)
    _write(job, todo, formats, drawn, kept)
    todo.files |= {name: todo.known[name] for name in (SAVED,) if name in todo.known}
    todo.facts.update(record.facts)


def _draw(job: Job, todo: Work, circuit: Circuit, source: labelling.Source, formats: Formats) -> None:
    """Draw a circuit in all formats, those that are there from before among them, with the labels of its features."""
    labels = labelling.find(job, source, circuit.nodes)
    if labels is not None:
        circuit = labels.put_on(circuit)
    drawn = formatting.draw(job, circuit, formats.all, formats)
    formatting.say_what_became(job, formats, drawn)
    _write(job, todo, formats, drawn, {})
    if labels is not None:
        labelling.save(todo, circuit, labels)
    todo.facts.update(nodes=len(circuit.nodes), edges=len(circuit.edges), share_drawn=circuit.metadata.share_drawn)


def _write(
    job: Job, todo: Work, formats: Formats, drawn: dict[str, dict[str, bytes]], kept: dict[str, list[str]]
) -> None:
    """Write what was drawn and note what was kept, in the order of the formats."""
    todo.expect({path: name for name in drawn for path in drawn[name]})
    for name in formats.all:
        for path, data in drawn.get(name, {}).items():
            files.write(job.run.path(path), data)
            todo.files[path] = job.run.entry(job.run.path(path))
        todo.files |= {path: todo.known[path] for path in kept.get(name, ())}
