"""What a validation will take, before it starts: from how much there is to do, and a few of its passes made now.

    estimating    what one example took, times the tokens of the discovery half
    measuring     what a feature that is at work took, times as many as are at work of the candidates
    judging       what a circuit took, of features or of neurons, times all circuits on the tokens of all examples
    over text     what one sequence took, times the tokens of the sample
    auditing      what the audited features took on one example, times the tokens of all; and measuring once more, of
                  the evaluation half

Time is taken to be linear in tokens: prompts are short, and a pass over them is made of products over tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from circuitcli.core.evidence.measured import HALVES
from circuitcli.runtime.device import free_memory, held_memory
from circuitcli.stages.evaluation import Evaluation
from circuitcli.stages.lines import Line, Scores
from circuitcli.stages.portion_task import Bench
from circuitcli.stages.scoring import effects, opened
from circuitcli.stages.screening import Screened, screen
from circuitcli.stages.verdicts import m_of

T = TypeVar("T")
_TRIED = 3  # examples that are estimated
_JUDGED = 32  # circuits of a line that are judged on one of them, at most


@dataclass(frozen=True)
class Part:
    """A part of the work.

    Attributes:
        what: In words.
        count: How many examples, features on examples, circuits on examples, or sequences.
        seconds: What it takes.
    """

    what: str
    count: int
    seconds: float


@dataclass(frozen=True)
class Foreseen:
    """What is expected of all parts.

    Attributes:
        parts: In their order.
        memory_bytes: What the process holds at most.
        free_memory_bytes: What there is.
    """

    parts: tuple[Part, ...]
    memory_bytes: int
    free_memory_bytes: int

    @property
    def seconds(self) -> float:
        """Of all parts."""
        return sum(part.seconds for part in self.parts)


def foreseen(of: Evaluation, *, judged: bool = False) -> Foreseen:
    """What judging takes; some examples are estimated, and on one of them features and circuits are measured.

    Args:
        of: What is judged, and with what.
        judged: Whether all of that is done, and only features are to be audited.
    """
    with of.job.report.track("Trying a few", 0, ""):
        return _Trial(of, *_spread(of)).foreseen(judged=judged)


def _spread(of: Evaluation) -> tuple[list[int], np.ndarray]:
    """A few examples of discovery of all lengths, one of middle length first; and how many tokens every example has."""
    tokens = np.asarray([sum(len(one.ids) for one in example.sequences) for example in of.examples])
    order = np.asarray(of.discovery)[np.argsort(tokens[of.discovery], kind="stable")]
    places = np.linspace(0, len(order) - 1, _TRIED + 2).round().astype(int)[1:-1]
    middle = places[_TRIED // 2]
    return [int(order[middle]), *(int(order[i]) for i in sorted(set(places.tolist()) - {int(middle)}))], tokens


@dataclass(eq=False)
class _Trial:
    """What a few passes took.

    Attributes:
        of: What is judged, and with what.
        tried: The examples that are tried.
        tokens: Of every example.
    """

    of: Evaluation
    tried: list[int]
    tokens: np.ndarray

    @cached_property
    def bench(self) -> Bench:
        """As the stage works."""
        return self.of.bench(self.of.job.runtime.threads)

    def foreseen(self, *, judged: bool) -> Foreseen:
        """All parts; those of judging circuits where that isn't done."""
        of = self.of
        of.judge.open(of.examples[self.tried[0]], self.tried[0])  # whatever is slow the first time only
        screened, seconds = _timed(lambda: [screen(of.judge, of.examples[one], one) for one in self.tried])
        share = int(self.tokens[of.discovery].sum()) / int(self.tokens[self.tried].sum())
        scores = self._scores(screened)
        lines = of.lines(scores)
        parts: list[Part] = []
        if not judged:
            parts += [
                Part("estimating components", len(of.discovery), seconds * share),
                self._measuring("measuring features", screened, scores, of.discovery),
                self._judging(lines),
                self._over_text(lines[0]),
            ]
        if of.audited:
            compared = self._measuring("measuring features to compare", screened, scores, of.evaluation)
            parts += [self._auditing(), compared]
        device = of.job.runtime.device
        rows = min(of.batch_size, max(len(line.rows) for line in lines))
        held = held_memory(device)
        return Foreseen(tuple(parts), held + rows * of.row_bytes, held + free_memory(device))

    def _scores(self, screened: Sequence[Screened]) -> Scores:
        """What the examples that were tried say of components; none of them is measured."""
        kinds = screened[0].atp
        atp = {kind: {site: _sum([one.atp[kind][site] for one in screened]) for site in kinds[kind]} for kind in kinds}
        activation = {site: _sum([one.activation[site] for one in screened]) for site in screened[0].activation}
        return Scores(atp, activation, {site: np.full(len(values), np.nan) for site, values in activation.items()})

    def _measuring(self, what: str, screened: Sequence[Screened], scores: Scores, numbers: Sequence[int]) -> Part:
        """Of the candidates, those that are at work: all of them on the first example that was tried."""
        chosen = self.of.scoring.strongest(scores.atp["features"])
        at_work = [
            sum(int(one.atp["features"][site][features].count_nonzero()) for site, features in chosen.items())
            for one in screened
        ]
        _, seconds = _timed(lambda: effects(self.bench, opened(self.bench, self.tried[0]), chosen))
        share = int(self.tokens[list(numbers)].sum()) / int(self.tokens[self.tried[0]])
        scale = sum(at_work) / len(at_work) / max(1, at_work[0])
        count = round(sum(at_work) / len(at_work) * len(numbers))
        return Part(what, count, seconds * scale * share)

    def _auditing(self) -> Part:
        """Of every audited feature on every example: a pass without it, and one of it alone."""
        auditing, number = self.of.auditing, self.tried[0]
        _, seconds = _timed(lambda: auditing.on(self.bench, number))
        share = int(self.tokens.sum()) / int(self.tokens[number])
        return Part("auditing features", len(self.of.audited) * len(self.tokens), seconds * share)

    def _judging(self, lines: Sequence[Line]) -> Part:
        """All circuits, by what some of features and some of neurons or dimensions took."""
        of, number = self.of, self.tried[0]
        example = of.judge.open(of.examples[number], number)
        seconds: dict[bool, float] = {}
        tokens, count, total = {half: self.tokens[[h == half for h in of.halves]] for half in HALVES}, 0, 0.0
        for line in lines:
            features = line.kind == "features"
            if features not in seconds:
                rows = line.rows[:_JUDGED]
                seconds[features] = _timed(lambda: m_of(self.bench, example, line, rows))[1] / len(rows)  # noqa: B023
            circuits = {"evaluation": len(line.rows), "discovery": len(line.found)}
            count += sum(circuits[half] * len(tokens[half]) for half in HALVES)
            total += seconds[features] * sum(circuits[half] * int(tokens[half].sum()) for half in HALVES)
        return Part("judging circuits", count, total / int(self.tokens[number]))

    def _one_over_text(self, line: Line, seq: int) -> Callable[[], object]:
        of = self.of
        return lambda: of.over_text(line, [seq], of.job.runtime.threads).compute(of.inputs.sources)

    def _over_text(self, line: Line) -> Part:
        """The circuit over the sample, by what a sequence of middle length took."""
        sample = self.of.judge.inputs.passes.sample
        counted = np.flatnonzero(sample.counted.any(1))
        middle = counted[np.argsort(sample.lengths[counted], kind="stable")[len(counted) // 2]]
        _, seconds = _timed(self._one_over_text(line, int(middle)))
        share = int(sample.lengths[counted].sum()) / int(sample.lengths[middle])
        return Part("ablating it over text", len(counted), seconds * share)


def _sum(values: Sequence[Tensor]) -> np.ndarray:
    return np.asarray(torch.stack(list(values)).double().sum(0).cpu().numpy())


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    started = time.perf_counter()
    found = work()
    return found, time.perf_counter() - started
