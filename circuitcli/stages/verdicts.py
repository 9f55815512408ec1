"""What m is of every circuit that is judged, on every example."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuitcli.core.evidence.examples import Example, Half
from circuitcli.core.evidence.lineup import Row, keep, keeps_errors
from circuitcli.stages.judging import Judge, Opened
from circuitcli.stages.lines import Line, every
from circuitcli.stages.portions import Done, Portions
from circuitcli.stages.screening import Batches
from circuitcli.store import tables


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Judges circuits on examples.

    Attributes:
        judge: Opens examples, and measures.
        examples: All of them.
        halves: The half of each.
        batches: Work over rows of so many positions.
    """

    judge: Judge
    examples: Sequence[Example]
    halves: Sequence[Half]
    batches: Batches

    def all(self, found: Sequence[Line], portions: Portions) -> Iterator[tables.Columns]:
        """Of the circuits of all lines, each on the examples of the halves that it is measured on."""

        def work(some: Sequence[int], done: Done) -> list[tables.Columns]:
            return self.judged(some, found, done)

        numbers, what = range(len(self.examples)), {"lines": _digest(found)}
        return portions.kept("validation", "Judging circuits", numbers, what, work)

    def judged(self, numbers: Sequence[int], found: Sequence[Line], done: Done) -> list[tables.Columns]:
        """Of some examples, as rows of validation.parquet."""
        parts = []
        for number in numbers:
            half = self.halves[number]
            opened = self.judge.open(self.examples[number], number)
            about = {"half": half, "example": number}
            whole = _columns("", 0, [("kept", "everything", 0, -1)], np.asarray([self.judge.clean(opened)]))
            parts.append(about | whole)
            for line, rows in every(found, half):
                told = [(row.errors, row.part, row.n, row.node) for row in rows]
                parts.append(about | _columns(line.curve, line.draw, told, self.of(opened, line, rows)))
            done(1)
        return parts

    def of(self, opened: Sequence[Opened], line: Line, rows: Sequence[Row]) -> np.ndarray:
        """What m is of some circuits of a line on an example."""
        ranks = {site: rank.to(self.judge.model.device) for site, rank in line.ranks.items()}

        def work(part: slice) -> Tensor:
            kept = {site: keep(rows[part], rank) for site, rank in ranks.items()}
            errors = {site: keeps_errors(rows[part], one) for site, one in kept.items()}
            return self.judge.m(opened, line.kind, kept, errors)

        longest = max(len(one.tokens) for one in opened)
        return np.asarray(torch.cat(list(self.batches(len(rows), longest, work))).double().cpu().numpy())


def _columns(curve: str, draw: int, rows: Sequence[tuple[str, str, int, int]], m: np.ndarray) -> tables.Columns:
    errors, part, n, node = (list(column) for column in zip(*rows, strict=True))
    return {"curve": curve, "draw": draw, "errors": errors, "part": part, "n": n, "node": node, "m": m}


def _digest(found: Sequence[Line]) -> str:
    """What identifies the circuits that are measured."""
    told = hashlib.sha256()
    for line in found:
        told.update(repr((line.curve, line.draw, line.rows, line.found)).encode())
        told.update(line.ranking.site.astype("<i8").tobytes() + line.ranking.index.astype("<i8").tobytes())
    return told.hexdigest()
