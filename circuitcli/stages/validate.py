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
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.stages import examples as reading
from circuitcli.stages import kinds
from circuitcli.stages.auditing import named
from circuitcli.stages.evaluation import Evaluation
from circuitcli.stages.given import Given, given
from circuitcli.stages.stage import Job, Outcome, Work, stage, unstarted
from circuitcli.store import tables, validations

if TYPE_CHECKING:
    from circuitcli.stages.foreseen import Foreseen
    from circuitcli.stages.lines import Line, Scores
    from circuitcli.stages.screening import Batches
    from circuitcli.store.records import FileEntry

NAME = validations.STAGE


def run(job: Job) -> Outcome:
    """Judge the circuit of the settings.

    Raises:
        UsageError, InputError: The circuit or the examples aren't as they should be; see `given` and `examples`.
    """
    of, inputs = _asked(job)
    return stage(job, NAME, inputs, lambda todo: _work(of, todo))


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


def _work(of: Evaluation, todo: Work) -> None:
    """All of it."""
    from circuitcli.stages.portions import Portions

    run, portions = todo.job.run, Portions(todo)
    batches = of.batches(todo.planned_batch(of.batch_size))  # of the plan: what is resumed repeats the arithmetic
    scores = of.scoring(batches).scores(of.discovery, portions)
    found = of.lines(scores)
    judged = of.verdicts(batches).all(found, portions)
    todo.expect(dict.fromkeys(validations.FILES))
    todo.files |= validations.write(run, _told(of), judged, _nodes(found))
    todo.files[validations.JOINT] = _joint(of, todo, found[0])
    if of.audited:
        _audit(of, todo, scores, found, batches)
    todo.facts.update(
        baseline=of.judge.kind,
        circuit=of.circuit.what if of.circuit else "",
        examples={half: of.halves.count(half) for half in ("discovery", "evaluation")},
        scored={line.curve: len(line.ranking) for line in found if line.kind == "features" and line.curve},
        measured=int(sum(np.isfinite(values).sum() for values in scores.exact.values())),
    )


def _joint(of: Evaluation, todo: Work, line: Line) -> FileEntry:
    """What the circuit ablated over text changes; not measured again where it is there."""
    run, name = todo.job.run, validations.JOINT
    if todo.found(name):
        return run.entry(run.path(name), tables.rows(run.path(name)))
    todo.expect({name: None})
    return validations.write_joint(run, of.over_text(line))


def _audit(of: Evaluation, todo: Work, scores: Scores, found: Sequence[Line], batches: Batches) -> None:
    """Whether the model needs some features, and where they rank."""
    from circuitcli.stages.portions import Portions
    from circuitcli.stages.standing import Standing

    portions, scoring = Portions(todo), of.scoring(batches)
    audit = list(of.auditing(batches).measured(portions))
    ranks = Standing(of, scoring, scoring.strongest(scores.atp["features"])).ranks(of.audited, audit, portions)
    todo.expect(dict.fromkeys((validations.AUDIT, validations.RANKS)))
    todo.files |= validations.write_audit(todo.job.run, audit, ranks)
    [estimated] = (line for line in found if line.curve == "atp")
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
