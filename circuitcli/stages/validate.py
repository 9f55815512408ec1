"""validate: how much of what the model does on some examples a circuit does, beside other circuits of its size.

1.  Examples are read, and halved (`examples`, `halves`).
2.  On the discovery half every feature, neuron and dimension is estimated, and the strongest features are measured
    (`scoring`): by these, circuits of growing size are made (`lines`).
3.  On the evaluation half m is measured of each (`verdicts`), and of the given or found circuit without each feature.
4.  With the whole circuit ablated, the text of the run is read again (`joint`).
5.  Features that are audited are taken away, and kept alone, on all examples (`auditing`), and ranked (`standing`).

What was measured is kept example by example, some in a file, so that whatever is interrupted goes on from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.stages import examples as reading
from circuitcli.stages import kinds, sharing
from circuitcli.stages.auditing import named
from circuitcli.stages.evaluation import Evaluation
from circuitcli.stages.given import Given, given
from circuitcli.stages.pieces import Piece
from circuitcli.stages.sharing import Part, Shared
from circuitcli.stages.stage import Job, Outcome, Work, stage, unstarted
from circuitcli.store import tables, validations

if TYPE_CHECKING:
    from circuitcli.core.evidence.joint import Changes
    from circuitcli.stages.foreseen import Foreseen
    from circuitcli.stages.lines import Line, Scores

NAME = validations.STAGE


def run(job: Job) -> Outcome:
    """Judge the circuit of the settings.

    Raises:
        UsageError, InputError: The circuit or the examples aren't as they should be; see `given` and `examples`.
    """
    of, inputs = _asked(job)
    return stage(job, NAME, inputs, lambda todo: _work(of, todo))


def share(job: Job, part: Part) -> Shared | None:
    """Measure a part of what is measured, and what others leave; None if the stage is done.

    Raises:
        UsageError, InputError: As of the stage, or the folder can't be written.
    """
    of, inputs = _asked(job)
    todo = sharing.begin(job, NAME, inputs, part, lambda todo: of.batch_size)
    if todo is None:
        return None
    found = _measured(of, todo)
    if of.audited:
        _audited(of, todo, found.scores)
    return sharing.ended(todo)


def merge(job: Job) -> Outcome:
    """End the stage: verify that all is measured, and do the rest.

    Raises:
        InputError: Something is missing, or somebody is still at work on it.
    """
    of, inputs = _asked(job)
    return sharing.merge(job, NAME, inputs, lambda todo: _work(of, todo))


def dry_run(job: Job) -> Foreseen | None:
    """What the stage would take, by a few of its passes; None if it is done. Nothing is written.

    Raises:
        UsageError, InputError: As of the stage.
    """
    from circuitcli.stages.foreseen import foreseen

    of, inputs = _asked(job)
    todo = unstarted(job, NAME, inputs)
    return None if todo is None else foreseen(of, judged=bool(todo.known))


def _asked(job: Job) -> tuple[Evaluation, dict[str, str]]:
    """What is judged, and what decides its numbers beside the settings."""
    job.parents(NAME)
    kinds.check(job.run)
    of = Evaluation(job, given(job), audited=named(job))
    return of, {"examples": reading.identity(job), "features": _identity(of.circuit)}


def _identity(circuit: Given | None) -> str:
    """What identifies the features that are judged: redrawing their graph changes nothing."""
    if circuit is None:
        return ""
    told = "\n".join([*(str(one) for one, _ in circuit.features), *circuit.found_on])
    return hashlib.sha256(told.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True, eq=False)
class _Measured:
    """What was measured: what the discovery half says, the circuits made of it, and what m is of them."""

    scores: Scores
    lines: list[Line]
    judged: Iterator[tables.Columns]


def _work(of: Evaluation, todo: Work) -> None:
    """All of it."""
    run, found = todo.job.run, _measured(of, todo)
    audited = _audited(of, todo, found.scores) if of.audited else None
    todo.expect(dict.fromkeys(validations.FILES))
    todo.files |= validations.write(run, _told(of), found.judged, _nodes(found.lines))
    todo.files[validations.JOINT] = run.entry(run.path(validations.JOINT), tables.rows(run.path(validations.JOINT)))
    if audited is not None:
        _audit(of, todo, found, *audited)
    todo.facts.update(
        baseline=of.court.kind,
        circuit=of.circuit.what if of.circuit else "",
        examples={half: of.halves.count(half) for half in ("discovery", "evaluation")},
        scored={line.curve: len(line.ranking) for line in found.lines if line.kind == "features" and line.curve},
        measured=int(sum(np.isfinite(values).sum() for values in found.scores.exact.values())),
    )


def _measured(of: Evaluation, todo: Work) -> _Measured:
    """All that is measured but of audited features."""
    from circuitcli.stages.verdicts import verdicts

    portions = of.portions(todo)
    with todo.planning():
        todo.planned_batch(of.batch_size)  # of the plan: what is resumed repeats the arithmetic
    scores = of.scoring.scores(of.discovery, portions)
    lines = of.lines(scores)
    judged = verdicts(lines, range(len(of.examples)), portions)
    _joint(of, todo, lines[0])
    return _Measured(scores, lines, judged)


def _joint(of: Evaluation, todo: Work, line: Line) -> None:
    """What the circuit ablated over text changes; not measured again where it is there."""
    from circuitcli.stages.joint import AT_ONCE

    job, count = todo.job, len(of.inputs.passes.sample.lengths)
    with todo.planning():
        there = todo.found(validations.JOINT)
        todo.expect({validations.JOINT: None})
    parts = [range(start, min(start + AT_ONCE, count)) for start in range(0, count, AT_ONCE)]
    piece = Piece(
        name="joint",
        units=count,
        there=job.run.path(validations.JOINT).is_file,
        tasks=lambda: [of.over_text(line, part, todo.plan.threads) for part in parts],
        write=lambda results: _write_joint(job, results),
    )
    todo.make(
        "Ablating the circuit over text", "sequences", [] if there else [piece], of.inputs.places, of=[piece.name]
    )


def _write_joint(job: Job, parts: Sequence[Changes | None]) -> None:
    from circuitcli.stages.joint import MOST, largest

    found = largest(parts, MOST)
    assert found is not None  # some sequence of a sample has a position that counts
    text = job.subject.tokenizer.text
    validations.write_joint(job.run, {**vars(found), "token": [text(token) for token in found.token_id.tolist()]})


def _audited(of: Evaluation, todo: Work, scores: Scores) -> tuple[list[tables.Columns], list[tables.Columns]]:
    """Whether the model needs some features, and where they rank."""
    from circuitcli.stages.standing import Standing

    portions, scoring = of.portions(todo), of.scoring
    audit = list(of.auditing.measured(len(of.examples), portions))
    ranks = Standing(of, scoring, scoring.strongest(scores.atp["features"])).ranks(of.audited, audit, portions)
    return audit, ranks


def _audit(
    of: Evaluation, todo: Work, found: _Measured, audit: list[tables.Columns], ranks: list[tables.Columns]
) -> None:
    """What is told of audited features."""
    todo.expect(dict.fromkeys((validations.AUDIT, validations.RANKS)))
    todo.files |= validations.write_audit(todo.job.run, audit, ranks)
    [estimated] = (line for line in found.lines if line.curve == "atp")
    rank = {one: int(estimated.ranks[one.site][one.index]) + 1 for one in of.audited}
    todo.facts["ranks_by_atp"] = {
        str(one): place if place <= len(estimated.ranking) else None for one, place in rank.items()
    }


def _told(of: Evaluation) -> list[validations.Example]:
    pieces = of.job.subject.tokenizer.pieces
    return [
        validations.Example(
            example.name, half, tuple(tuple(pieces(list(one.ids))) for one in example.sequences), example.unit
        )
        for example, half in zip(of.examples, of.halves, strict=True)
    ]


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
