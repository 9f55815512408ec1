"""From a validated run to a circuit that is held to what was measured of it there."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from circuitcli.core.attributed import EXACT, node_name
from circuitcli.core.circuit import Circuit, Edge
from circuitcli.core.evidence.thresholds import Asked, CircuitTest, Dictionary, EdgeSize, Faithful, Place
from circuitcli.core.words import amount, short, with_interval
from circuitcli.errors import InputError
from circuitcli.results import found
from circuitcli.results.dictionaries import entries_of
from circuitcli.settings import nest
from circuitcli.stages import examples as reading
from circuitcli.stages import questions
from circuitcli.stages.choice_file import Choices
from circuitcli.stages.example_data import data
from circuitcli.stages.question_file import Written
from circuitcli.stages.sequences import hushed
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.store import attributions, circuits, validations

_COMMIT = re.compile(r"[0-9a-f]{40}")
_LESS = 0.9  # of f, where there are too few examples for an interval
_HALF = 0.5  # of |effect|
# What replaces by something of the text.
_OF_TEXT = ("mean", "resample")
_EVALUATION, _ATTRIBUTE, _CACHE, _FETCH = "evaluation", "attribute", "cache-acts", "fetch-saes"
_AGAIN = "Judge it again: `circuit validate --force` on this run."


@dataclass(frozen=True)
class Edges:
    """The edges that are tested, with what measures them again, and what is to be said of them."""

    sizes: tuple[EdgeSize, ...] = ()
    questions: tuple[Asked, ...] = ()
    settings: Mapping[str, Any] | None = None  # flat
    of_text: bool = False
    said: str = ""


def made(job: Job, count: int) -> tuple[Circuit, list[str]]:
    """The circuit that a run's validation judged, held to f of the evaluation half and its strongest edges.

    f must stay at or above the lower end of its interval, and each edge keep its sign and half of its |effect|.

    Args:
        job: The run.
        count: Most edges.

    Returns:
        The circuit, and what is to be said of its thresholds.

    Raises:
        InputError: The run has no validation of a circuit that is as it was then, or nothing is to be tested.
    """
    circuit, path = _circuit(job)
    bounds, said = _faithful(circuit)
    edges = _edges(job, circuit, path, count)
    if not bounds and not edges.sizes:
        raise InputError(
            f"There is nothing to hold this circuit to. {' '.join([*said, edges.said])}",
            hint="Validate another circuit.",
        )
    record, cached = job.run.require(validations.STAGE), job.run.require(_CACHE)
    baseline = str(record.facts["baseline"])
    of_text = baseline in _OF_TEXT or edges.of_text
    about = {"validate.metric": job.settings.validate.metric, "validate.baseline": baseline, **(edges.settings or {})}
    test = CircuitTest(
        model_identity=str(job.run.require(_FETCH).inputs["model identity"]),
        dictionaries=tuple(Dictionary(*entry.at, entry.facts.sha256) for entry in entries_of(job.run)),
        text=str(cached.inputs["text"]) if of_text else None,
        settings=nest({**_settings(job, of_text=of_text), **about}),
        examples=tuple(_examples(job)),  # without a bound too, which somebody may add
        faithfulness=bounds,
        questions=edges.questions,
        edges=edges.sizes,
    )
    return replace(circuit, test=test), [*said, edges.said]


def _circuit(job: Job) -> tuple[Circuit, Path | None]:
    """The circuit that was judged, with its validation, and its file; without one its features alone."""
    record = job.parent(validations.STAGE)
    job.parents(validations.STAGE)
    if record.inputs["examples"] != reading.identity(job):
        raise InputError(f"The examples changed since {job.run.root} was validated.", hint=_AGAIN)
    asked = job.settings.validate
    if asked.pinned or asked.circuit == "none" or not record.inputs["features"]:
        return found.build(job.results()), None
    path = job.run.root / circuits.CIRCUIT if asked.circuit == "auto" else circuits.locate(Path(asked.circuit))
    validated = job.results().validation
    circuit = validated.put_on(circuits.read(path))
    if circuit.validation != validated.record:
        raise InputError(f"{path} has other features than those that were validated.", hint=_AGAIN)
    return circuit, path


def _faithful(circuit: Circuit) -> tuple[tuple[Faithful, ...], list[str]]:
    """Bounds of f on the evaluation half, by what stays of the errors, and where they are from."""
    bounds, said = [], []
    for one in circuit.validation.budgets if circuit.validation else ():
        f = one.faithfulness
        if one.half != _EVALUATION or f.value is None:
            continue
        least = math.floor(1000 * (_LESS * f.value if f.low is None else f.low)) / 1000
        name = f"Faithfulness with errors {one.errors}, {with_interval(f)} on {amount(one.examples, 'example')},"
        if least <= 0:
            said.append(f"{name} isn't tested: it isn't above 0, as far as can be told.")
            continue
        bounds.append(Faithful(errors=one.errors, at_least=least))
        end = f"{_LESS:.0%} of it, as so few examples give no interval" if f.low is None else "its interval's lower end"
        said.append(f"{name} must be at least {short(least)}: {end}.")
    return tuple(bounds), said


def _edges(job: Job, circuit: Circuit, path: Path | None, count: int) -> Edges:
    """The strongest edges that can be measured again."""
    if path is None:
        return Edges(said="It has no edges: what was judged is features, and no graph.")
    if count == 0:
        return Edges(said="No edges are tested.")
    if path != job.run.root / circuits.CIRCUIT:
        return Edges(said=f"Edges aren't tested: {path} isn't this run's own graph, which says how they were measured.")
    if circuit.metadata.attribution is not None:
        return _of_prompts(job, circuit, count)
    if len(circuit.metadata.runs) > 1:
        return Edges(said="Edges aren't tested: those of several runs are of several texts.")
    job.parent("effects")
    return Edges(
        sizes := _largest(circuit.edges, count),
        settings=job.chosen(STAGES["ablate"].decides),
        of_text=True,
        said=_told(len(sizes), "whose sources are ablated again over the run's text"),
    )


def _of_prompts(job: Job, circuit: Circuit, count: int) -> Edges:
    """Of an attribution: edges that were measured, as an estimate says nothing sure."""
    facts, settings = job.parent(_ATTRIBUTE).facts, job.settings.attribute
    exact = [edge for edge in circuit.edges if edge.method == EXACT]
    if not exact or settings.half:
        why = "they are of a half of the questions" if settings.half else "none of those drawn was measured"
        return Edges(said=f"Edges aren't tested: {why}.")
    sizes = _largest(exact, count)
    return Edges(
        sizes if facts["positions"] == "separate" else _placed(job, sizes),
        tuple(map(_asked, questions.written(job))),
        {
            "attribute.baseline": facts["baseline"],
            "attribute.freeze": facts["frozen"],
            "attribute.positions": facts["positions"],
        },
        of_text=facts["baseline"] in _OF_TEXT,
        said=_told(len(sizes), "measured on the run's questions"),
    )


def _largest(edges: Sequence[Edge], count: int) -> tuple[EdgeSize, ...]:
    order = sorted((edge for edge in edges if edge.effect_mean), key=lambda edge: -abs(edge.effect_mean))
    return tuple(
        EdgeSize(
            source=edge.source,
            target=edge.target,
            sign="+" if edge.effect_mean > 0 else "-",
            at_least=float(f"{_HALF * abs(edge.effect_mean):.3g}"),
        )
        for edge in order[:count]
    )


def _placed(job: Job, sizes: Sequence[EdgeSize]) -> tuple[EdgeSize, ...]:
    """The same with the places at which the run measured them: it leaves out those whose estimates are smallest."""
    results = job.results()
    nodes, edges = (results.table(name) for name in (attributions.NODES, attributions.EDGES))
    columns = (np.asarray(nodes[name]).tolist() for name in ("kind", "layer", "site", "feature"))
    names = [node_name(kind, layer, site, feature, -1) for kind, layer, site, feature in zip(*columns, strict=True)]
    starts = np.searchsorted(nodes["prompt"], edges["prompt"])
    ends = [(starts + edges[end]).tolist() for end in ("source", "target")]
    found: dict[tuple[str, str], list[Place]] = {(one.source, one.target): [] for one in sizes}
    for number, up, down in zip(edges["prompt"].tolist(), *ends, strict=True):
        if (names[up], names[down]) in found:
            found[names[up], names[down]].append(Place(number, int(nodes["pos"][up]), int(nodes["pos"][down])))
    return tuple(replace(one, places=tuple(found[one.source, one.target])) for one in sizes)


def _told(count: int, how: str) -> str:
    return f"The {amount(count, 'largest edge', 'largest edges')}, {how}, must keep sign and half of |effect|."


def _settings(job: Job, *, of_text: bool) -> dict[str, Any]:
    """Those that decide what is measured, flat; where no text counts a little of the demo's is read."""
    found = job.chosen((*STAGES[_FETCH].decides, "seed", "runtime.dtype", "texts."))
    identity, revision = str(job.run.require(_FETCH).inputs["model identity"]), entries_of(job.run)[0].revision
    found["model_revision"] = identity if _COMMIT.fullmatch(identity) else "main"
    found["saes.revision"] = revision or "main"
    if of_text:
        if job.settings.texts.file == "-":
            raise InputError(
                "The run's text came from stdin, which can't be read again.",
                hint="Make the run of a file: --text FILE.",
            )
        return found
    kept = {key: value for key, value in found.items() if not key.startswith("texts.")}
    own = {key: found[key] for key in ("texts.max_tokens", "texts.prepend_bos")}
    return {**kept, "texts.source": "demo", "texts.num_sequences": 2, **own}


def _examples(job: Job) -> Iterator[Asked]:
    """Those of the evaluation half, as they were written."""
    told, written = validations.examples(job.run), data(job)
    rows: Sequence[Asked] = [
        *map(_asked, reading.chosen(job, written.prompts, hushed)),
        *map(_asked, reading.chosen(job, written.choices, hushed)),
    ]
    if written.kind == "text":
        rows = [Asked(text=one.name) for one in told]
    for one, row in zip(told, rows, strict=True):
        if one.half == _EVALUATION:
            yield row


def _asked(row: Written | Choices) -> Asked:
    if isinstance(row, Choices):
        return Asked(question=row.question, choices=row.choices, answer=row.right, counterfactual=row.counterfactual)
    target, against = (f"id:{one}" if isinstance(one, int) else one for one in (row.target, row.against))
    return Asked(prompt=row.prompt, target=target, against=against, counterfactual=row.counterfactual)
