"""What m is of every circuit that is judged, on every example."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from circuitcli.core.evidence.lineup import Row, keep, keeps_errors
from circuitcli.executors import Done
from circuitcli.stages.judging import Opened
from circuitcli.stages.lines import Line, Sent, every
from circuitcli.stages.portion_task import Bench
from circuitcli.stages.portions import Portions
from circuitcli.store import tables


@dataclass(frozen=True, eq=False)
class Judging:
    """Judges the circuits of some lines, as a step."""

    lines: tuple[Sent, ...]

    def of(self, at: Bench, done: Done) -> list[tables.Columns]:
        """Rows of validation.parquet."""
        return judged(at, [line.line() for line in self.lines], done)


def verdicts(found: Sequence[Line], numbers: Sequence[int], portions: Portions) -> Iterator[tables.Columns]:
    """Of the circuits of all lines, each on the examples of the halves that it is measured on."""
    step = Judging(tuple(map(Sent.of, found)))
    return portions.kept("validation", "Judging circuits", numbers, {"lines": _digest(found)}, step)


def judged(at: Bench, found: Sequence[Line], done: Done) -> list[tables.Columns]:
    """What m is of circuits on some examples, as rows of validation.parquet."""
    parts = []
    for number, example in at.examples.items():
        half = at.half[number]
        opened = at.judge.open(example, number)
        about = {"half": half, "example": number}
        whole = _columns("", 0, [("kept", "everything", 0, -1)], np.asarray([at.judge.clean(opened)]))
        parts.append(about | whole)
        for line, rows in every(found, half):
            told = [(row.errors, row.part, row.n, row.node) for row in rows]
            parts.append(about | _columns(line.curve, line.draw, told, m_of(at, opened, line, rows)))
        done(1)
    return parts


def m_of(at: Bench, opened: Sequence[Opened], line: Line, rows: Sequence[Row]) -> np.ndarray:
    """What m is of some circuits of a line on an example."""
    ranks = {site: rank.to(at.judge.model.device) for site, rank in line.ranks.items()}

    def work(part: slice) -> Tensor:
        kept = {site: keep(rows[part], rank) for site, rank in ranks.items()}
        errors = {site: keeps_errors(rows[part], one) for site, one in kept.items()}
        return at.judge.m(opened, line.kind, kept, errors)

    longest = max(len(one.tokens) for one in opened)
    return np.asarray(torch.cat(list(at.batches(len(rows), longest, work))).double().cpu().numpy())


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
