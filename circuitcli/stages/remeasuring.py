"""Measuring anew what a circuit is held to: its faithfulness on examples, and the effects of some of its edges.

All of it is measured as validate, attribute and ablate measure it, and no more than what is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from circuitcli.core.attributed import Measure, node_name
from circuitcli.core.evidence import summary
from circuitcli.core.evidence.examples import Half
from circuitcli.core.evidence.faithfulness import Scale, measured
from circuitcli.core.evidence.lineup import Row, listed
from circuitcli.core.evidence.measured import CIRCUIT, Measured
from circuitcli.core.evidence.thresholds import EdgeSize
from circuitcli.core.sites import parse_feature
from circuitcli.core.strata import StratifiedSample
from circuitcli.results import edges
from circuitcli.stages import wiring
from circuitcli.stages.evaluation import Evaluation
from circuitcli.stages.given import given
from circuitcli.stages.lines import Line
from circuitcli.stages.prompts import Prompts
from circuitcli.stages.questions import Reader
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job, unstarted
from circuitcli.stages.study import Study
from circuitcli.stages.thresholds import Held
from circuitcli.stages.verdicts import judged
from circuitcli.store import reduced
from circuitcli.store.tables import Columns

# A measurement, and why there is none.
Found = tuple[Measure, str]
_HALF: Half = "evaluation"  # none of the examples has a part in finding the circuit
_ATTRIBUTE = "attribute"


def faithfulness(job: Job, held: Held) -> dict[str, Found]:
    """Faithfulness of a circuit on its examples, by what is kept of the dictionaries' errors.

    Raises:
        InputError: An example isn't as it should be.
    """
    of = Evaluation(job, given(job), held.examples)
    bench = of.bench(job.runtime.threads, [_HALF] * len(of.examples))
    lines = _lines(of, [one.errors for one in held.test.faithfulness])
    with job.report.track("Measuring faithfulness", len(of.examples), "examples") as done:
        parts = judged(bench, lines, done)
    found = summary.budgets(Measured.of(_joined(parts), job.settings.seed))
    why = "without its features the model does as well, so that f isn't defined: m(M) = m(∅)"
    return {budget.errors: (budget.faithfulness, why) for budget in found}


def _lines(of: Evaluation, variants: Sequence[str]) -> list[Line]:
    """The circuit, and nothing, with each variant of the errors."""
    assert of.circuit is not None
    features = [(one.site, one.index, score) for one, score in of.circuit.features]
    ranking = listed(features, of.judge.widths("features"))
    whole, none = (
        tuple(Row(errors, part, n) for errors in variants)  # type: ignore[arg-type]
        for part, n in (("circuit", len(ranking)), ("nothing", 0))
    )
    return [Line(CIRCUIT, "features", ranking, whole), Line("", "features", ranking, none)]


def _joined(parts: Sequence[Columns]) -> Columns:
    """One table; a column of a part may be one value."""
    return {
        name: np.concatenate([np.broadcast_to(np.asarray(part[name]), len(part["m"])) for part in parts])
        for name in parts[0]
    }


def edges_of_prompts(job: Job, held: Held) -> dict[str, Found]:
    """The measured effects of edges of an attribution, mean over its questions, by their names.

    Raises:
        InputError: A question isn't as it should be.
    """
    todo, patch = unstarted(job, _ATTRIBUTE, {}), job.settings.attribute.baseline == "patch"
    assert todo is not None
    reader = Reader(job.subject, job.report.say, {})
    prompts = Prompts(todo, [reader.of_file(one, patch=patch) for one in held.questions])
    wanted = held.test.edges
    effect, there = np.zeros((len(wanted), len(prompts))), np.zeros((len(wanted), 2), np.bool_)
    with job.report.track("Measuring edges", len(prompts), "prompts") as done:
        for number in range(len(prompts)):
            study = prompts.study(number)
            named = _named(study, number, separate=job.settings.attribute.positions == "separate")
            there |= [[bool(named.get(end)) for end in (one.source, one.target)] for one in wanted]
            pairs = np.asarray([*_pairs(study, number, named, wanted)], np.int64).reshape(-1, 3)
            if len(pairs):
                of, table = pairs[:, 0], {"source": pairs[:, 1], "target": pairs[:, 2]}
                every = StratifiedSample(np.arange(len(of)), np.ones(len(of)))
                exact = wiring.measure(study, table, every, prompts.dictionary, prompts.batches)
                effect[:, number] = np.bincount(of, exact, len(wanted))
            done(1)
    return {
        one.name: (_mean(row, job.settings.seed), "")
        if both.all()
        else (Measure(None), f"{one.target if both[0] else one.source} is active on none of the prompts")
        for one, row, both in zip(wanted, effect, there, strict=True)
    }


def _named(study: Study, number: int, *, separate: bool) -> dict[str, list[int]]:
    """The nodes of a prompt by their names, which stand for one position or for all."""
    table = study.columns(number)
    columns = ("kind", "layer", "site", "feature", "pos")
    found: dict[str, list[int]] = {}
    for node, (kind, layer, site, feature, pos) in enumerate(zip(*(table[name] for name in columns), strict=True)):
        name = node_name(str(kind), int(layer), str(site), int(feature), int(pos) if separate else -1)
        found.setdefault(name, []).append(node)
    return found


def _pairs(
    study: Study, number: int, named: dict[str, list[int]], wanted: Sequence[EdgeSize]
) -> Iterator[tuple[int, int, int]]:
    """Which edge, and the nodes at its ends, of which the second comes behind the first; at its places alone."""
    pos = np.concatenate([*(source.pos.cpu().numpy() for source in study.sources), [len(study.prompt) - 1]])
    place = np.searchsorted(study.starts, np.arange(study.nodes + 1), side="right")
    for i, one in enumerate(wanted):
        places = None if one.places is None else {(place.question, place.source, place.target) for place in one.places}
        for up in named.get(one.source, ()):
            for down in named.get(one.target, ()):
                there = places is None or (number, pos[up], pos[down]) in places
                if there and place[up] < place[down] and pos[up] <= pos[down]:
                    yield i, up, down


def _mean(values: np.ndarray, seed: int) -> Measure:
    """With its interval over prompts: what a share of a whole of 1 is."""
    one = np.ones(len(values))
    return measured(Scale.of(0 * one, one, seed).faithfulness(values[None]))


def mean_effects(job: Job, held: Held) -> dict[str, Found]:
    """The mean effects of edges over the text, by their names; their sources are ablated again.

    Raises:
        InputError: A source is no feature of the dictionaries.
    """
    for name in ("ablate", "effects"):
        STAGES[name].work()(job)
    results, wanted = job.results(), {(one.source, one.target): one.name for one in held.test.edges}
    known = {
        wanted[edge.source, edge.target]: Measure(edge.effect_mean, edge.ci_low, edge.ci_high)
        for edge in edges.between(results.table(reduced.EFFECTS), wanted)
    }
    ablated = {str(one) for one in results.planned}
    return {
        name: (known.get(name, Measure(0.0)), "")  # a mean effect of none isn't kept
        if str(parse_feature(source)) in ablated
        else (Measure(None), f"{source} fires nowhere in the text")
        for (source, _), name in wanted.items()
    }
