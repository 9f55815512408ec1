"""What `circuit validate --audit` shows: of each feature whether the model needs it, in words and in tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from circuitcli.cli.console import Terminal
from circuitcli.cli.layout import Column
from circuitcli.core.attributed import Measure
from circuitcli.core.evidence.audited import LITTLE, TOP, Audited
from circuitcli.core.words import UNKNOWN, amount, short, spread, with_interval
from circuitcli.results.audit import Audit, audit_rows

if TYPE_CHECKING:
    from circuitcli.results.results import Results

_TOLD, _OTHER = "evaluation", "discovery"


def show_audit(results: Results, terminal: Terminal) -> None:
    """A paragraph about each audited feature, and what they are told from; nothing where none is audited."""
    found = results.validation.audits
    if not found:
        return
    unit = results.validation.record.unit
    terminal.notes(paragraphs(found, unit))
    terminal.table(
        f"Audited features: what m loses without each, in {unit}, and what each does alone (errors kept)",
        ("feature", "half", "fires on", "mean activation", "drop", "share", Column("p", spared=True), "q",
         "alone", "in the circuit"),
        [row for half in (_TOLD, _OTHER) for one in found for row in [_row(one, half)]],
    )  # fmt: skip
    terminal.table(
        f"Their ranks by |measured effect| on {found[0].ranks.halves} random halves of all examples",
        ("feature", "median", "best–worst", "first in", f"top {TOP} in", "of", "by |atp|", "of firing", "over seeds"),
        [_ranks(one) for one in found],
    )


def document_audit(results: Results) -> dict[str, Any]:
    """The same for --json."""
    found = results.validation.audits
    return {"features": list(audit_rows(found)), "said": paragraphs(found, results.validation.record.unit)}


def paragraphs(found: list[Audit], unit: str) -> list[str]:
    """One about each feature."""
    return [" ".join(_sentences(one, unit)).replace("-", "−") for one in found]


def _sentences(one: Audit, unit: str) -> Iterator[str]:
    first, other = one.halves[_TOLD], one.halves[_OTHER]
    yield _verdict(one, first, unit)
    if first.fires:
        where = f"{first.fires} of the {amount(first.examples, f'{_TOLD} example')}"
        yield f"It fires on {where}, at {first.activation:.2f} on average where it does."
        yield f"Alone it does {with_interval(first.alone)} of what the model does, errors kept."
    if one.in_circuit is not None:
        yield f"Its marginal share in the circuit is {with_interval(one.in_circuit)}."
    if other.fires:
        yield (
            f"On {amount(other.examples, f'{_OTHER} example')}, of which it fires on {other.fires}, "
            f"{_change(other.drop, unit)} without it, {with_interval(other.share)} of what the model does."
        )
    else:
        yield f"It fires on none of the {amount(other.examples, f'{_OTHER} example')}."
    if first.fires or other.fires:
        yield from _ranked(one)


def _verdict(one: Audit, first: Audited, unit: str) -> str:
    """What the evaluation examples say, and by which numbers."""
    on = f"on {amount(first.examples, f'{_TOLD} example')}"
    q = UNKNOWN if first.q is None else f"{first.q:.4f}"
    numbers = f"{_change(first.drop, unit)} without it, {with_interval(first.share)} of what the model does (q = {q})"
    if first.verdict == "silent":
        return f"{one.feature} can't be judged {on}: it fires on none of them."
    if first.verdict == "needed":
        return f"{one.feature} is needed {on}: {numbers}."
    if first.verdict == "against":
        return f"{one.feature} isn't needed {on}, it works against the metric: {numbers}."
    if first.verdict == "not needed":
        return f"{one.feature} isn't needed {on}: {numbers}, and the whole interval is within ±{short(LITTLE)}."
    return f"Whether {one.feature} is needed can't be told {on}: {numbers}."


def _ranked(one: Audit) -> Iterator[str]:
    """Where it stands among others, and how steadily."""
    ranks = one.ranks
    yield (
        f"By |measured effect| it ranks {spread(ranks.best, ranks.median, ranks.worst)} among "
        f"{amount(ranks.among, 'measured feature')} over {ranks.halves} random halves of all examples: first in "
        f"{ranks.first}, among the {TOP} strongest in {ranks.top}."
    )
    if one.by_atp is not None:
        yield f"By |atp| on the {_OTHER} examples it is {one.by_atp:,} of the {one.firing:,} that fire."
    if one.over_seeds is not None:
        yield f"Where discoveries with other seeds have it, it ranks {spread(*one.over_seeds)}."


def _row(one: Audit, half: str) -> tuple[str, ...]:
    found = one.halves[half]
    return (
        str(one.feature),
        half,
        f"{found.fires}/{found.examples}",
        UNKNOWN if found.activation is None else f"{found.activation:.2f}",
        with_interval(found.drop, _fine),
        with_interval(found.share),
        *(UNKNOWN if value is None else f"{value:.4f}" for value in (found.p, found.q)),
        with_interval(found.alone),
        UNKNOWN if one.in_circuit is None or half != _TOLD else with_interval(one.in_circuit),
    )


def _ranks(one: Audit) -> tuple[str, ...]:
    ranks = one.ranks
    return (
        str(one.feature),
        f"{ranks.median:g}",
        f"{ranks.best}–{ranks.worst}",
        f"{ranks.first}/{ranks.halves}",
        f"{ranks.top}/{ranks.halves}",
        f"{ranks.among:,}",
        UNKNOWN if one.by_atp is None else f"{one.by_atp:,}",
        f"{one.firing:,}",
        UNKNOWN if one.over_seeds is None else spread(*one.over_seeds),
    )


def _change(drop: Measure, unit: str) -> str:
    """`m falls by 0.312 (0.221–0.410) nats`."""
    if drop.value is None:
        return "m isn't defined"
    if drop.value >= 0:
        return f"m falls by {with_interval(drop, _fine)} {unit}"
    low, high = (None if end is None else -end for end in (drop.high, drop.low))
    return f"m rises by {with_interval(Measure(-drop.value, low, high), _fine)} {unit}"


def _fine(value: float) -> str:
    """Three decimals: what ablating one feature does is often little."""
    return f"{value:.3f}".replace("-0.000", "0.000")
