"""What `circuit validate` shows: how much a circuit carries, beside other sets, and what each of its nodes adds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from circuitcli.cli import cut, evidence_words
from circuitcli.cli.console import Terminal
from circuitcli.cli.layout import Column
from circuitcli.core.evidence.summary import Point
from circuitcli.core.words import UNKNOWN, amount, with_interval
from circuitcli.results.labels import labelled
from circuitcli.results.results import Results
from circuitcli.results.validation import Validated

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job

_NODES = 20
_ERRORS = {"kept": "errors kept", "sites": "at its sites", "removed": "removed"}


def show(results: Results, terminal: Terminal) -> None:
    """What a run's validation says; curves and nodes of the evaluation, where there is one."""
    found = results.validation
    terminal.notes(evidence_words.sentences(found))
    _budget(found, terminal)
    _rivals(found, terminal)
    _curves(found, terminal)
    _areas(found, terminal)
    _nodes(results, terminal)


def plot(job: Job, terminal: Terminal) -> list[str]:
    """Draw the curves, and tell where they are; none where matplotlib isn't installed, which is told too."""
    from circuitcli.stages import curves

    paths = [str(path) for path in curves.draw(job)]
    for path in paths:
        terminal.line(path)
    return paths


def document(results: Results) -> dict[str, Any]:
    """The same for --json, of both halves."""
    found = results.validation
    return {
        "validation": asdict(found.record),
        "curves": [asdict(point) for point in found.points],
        "areas": [asdict(area) for area in found.area_list],
        "nodes": found.node_rows,
        "said": evidence_words.sentences(found),
    }


def _budget(found: Validated, terminal: Terminal) -> None:
    """The error budget: what stays of what the dictionaries leave out, on each half."""
    terminal.table(
        f"The circuit's {amount(found.record.n, 'feature')}, by what stays of the dictionaries' errors",
        ("half", "examples", "errors", "m(∅)", "m(M)", "faithfulness", "completeness"),
        [
            (
                budget.half,
                f"{budget.examples:,}",
                budget.errors,
                f"{budget.nothing:.3f}",
                f"{budget.everything:.3f}",
                with_interval(budget.faithfulness),
                with_interval(budget.completeness),
            )
            for budget in found.record.budgets
        ],
    )


def _rivals(found: Validated, terminal: Terminal) -> None:
    """Other sets of as many components; what the circuit is above them by is a paired difference."""
    first = found.record.budgets[0]
    here = [(rival, b.errors) for b in found.record.budgets if b.half == first.half for rival in b.rivals]
    order = list(dict.fromkeys(rival.curve for rival, _ in here))
    terminal.table(
        f"Other sets of {found.record.n} on {first.examples:,} {first.half} examples",
        ("chosen by", "errors", "faithfulness", "circuit above by"),
        [
            (rival.curve, errors, with_interval(rival.faithfulness), with_interval(rival.above))
            for rival, errors in sorted(here, key=lambda pair: order.index(pair[0].curve))
        ],
    )


def _curves(found: Validated, terminal: Terminal) -> None:
    """Each curve at each size, by variant of the errors."""
    first = found.record.budgets[0]
    here = [point for point in found.points if point.half == first.half]
    variants = [name for name in _ERRORS if name in {point.errors for point in here}]
    by: dict[tuple[str, int], dict[str, Point]] = {}
    for point in here:
        by.setdefault((point.curve, point.n), {})[point.errors] = point
    terminal.table(
        f"Curves on {first.examples:,} {first.half} examples: faithfulness of the first n of each",
        (
            "chosen by",
            "n",
            *(_ERRORS[errors] for errors in variants),
            Column(f"completeness, {_ERRORS[variants[0]]}", spared=True),
        ),
        [
            (
                curve,
                f"{n:,}",
                *(with_interval(points[errors].faithfulness) if errors in points else UNKNOWN for errors in variants),
                with_interval(points[variants[0]].completeness) if variants[0] in points else UNKNOWN,
            )
            for (curve, n), points in by.items()
        ],
    )


def _areas(found: Validated, terminal: Terminal) -> None:
    """Areas under curves, on the half that is told."""
    half = found.record.budgets[0].half
    terminal.table(
        f"Analogues of MIB's CPR and CMD on {half} examples (MIB scores heads and MLPs: not its numbers)",
        ("chosen by", "errors", "of", "CPR, analogue", "CMD, analogue"),
        [
            (area.curve, area.errors, f"{area.scored:,}", with_interval(area.cpr), with_interval(area.cmd))
            for area in found.area_list
            if area.half == half
        ],
    )


def _nodes(results: Results, terminal: Terminal) -> None:
    """What is lost without each node, most first."""
    found = results.validation
    if not found.shares:
        return
    first, labels = found.shares[0], labelled(results.run).labels
    rows = found.node_rows[: len(first.node)]
    order = sorted(range(len(rows)), key=lambda i: -(rows[i]["share"]["value"] or 0.0))[:_NODES]
    known = [labels.get(rows[i]["feature"], "") for i in order]
    columns: list[tuple[str | Column, list[str]]] = [
        ("node", [rows[i]["feature"] for i in order]),
        ("rank", [str(rows[i]["rank"]) for i in order]),
        ("share", [with_interval(first.share[i]) for i in order]),
        (Column("p", spared=True), [_p(first.p[i]) for i in order]),
        ("q", [_p(first.q[i]) for i in order]),
    ]
    if any(one.value is not None for one in first.alone):
        columns.append(("alone", [with_interval(first.alone[i]) for i in order]))
    if any(known):
        columns.append((Column("label", cut.at_end), [label or UNKNOWN for label in known]))
    terminal.table(
        f"Nodes by marginal share: what the circuit loses without each ({first.half}, errors {first.errors})",
        [name for name, _ in columns],
        list(zip(*(cells for _, cells in columns), strict=True)),
    )


def _p(value: float) -> str:
    """As far as so many flips of signs can tell."""
    return f"{value:.4f}"
