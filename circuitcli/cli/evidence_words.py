"""What a validation says in plain words: how much the circuit carries, beside what, and what that leaves open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from circuitcli.core.attributed import Measure
from circuitcli.core.evidence.faithfulness import SIGNIFICANT
from circuitcli.core.evidence.validated import REPLACED, Budget, Rival
from circuitcli.core.words import amount, with_interval

if TYPE_CHECKING:
    from circuitcli.results.validation import Validated

MUCH = 0.5  # a share below which something does the lesser part
_CALLED = {
    "random": "random features that fire",
    "activation": "the most active ones",
    "neurons": "neurons",
    "dimensions": "dimensions of the stream",
}


def sentences(found: Validated) -> list[str]:
    """Each on a line of its own, of the evaluation where there is one."""
    record = found.record
    here = [budget for budget in record.budgets if budget.half == record.budgets[0].half]
    first = here[0]
    said = [*_carried(found, first), *_rivals(first), *_errors(found, here), *_rest(first), *_nodes(found)]
    if first.half in found.doubtful:
        said.append(
            f"On the {first.half} examples the model does no better than with nothing, as far as can be told: "
            "none of these shares means much."
        )
    return [line.replace("-", "−") for line in said]


def called(curve: str, n: int) -> str:
    """A set of components in words: `42 random features that fire`."""
    return f"{n} {_CALLED[curve]}" if curve in _CALLED else f"the {n} of `{curve}`"


def _carried(found: Validated, first: Budget) -> Iterator[str]:
    """How much, on which half."""
    record = found.record
    size, unit = amount(record.n, "feature"), record.unit
    ends = f"m = {first.nothing:.2f} {unit} with nothing, {first.everything:.2f} with everything"
    instead = f"; what is left out becomes {REPLACED[record.baseline]}" if record.baseline in REPLACED else ""
    if first.faithfulness.value is None:
        yield f"Faithfulness isn't defined: m is the same with everything and with nothing ({ends}{instead})."
        return
    yield (
        f"On {_on(first)}, {_stay(first)}, the circuit's {size} do {with_interval(first.faithfulness)} of what the "
        f"model does ({ends}{instead})."
    )
    if first.faithfulness.value > 1:
        yield "More than 1: what lies outside the circuit works against the metric."
    for other in found.record.budgets:
        if other.half != first.half and other.errors == first.errors:
            yield f"On the {_on(other)} it is {with_interval(other.faithfulness)}."


def _rivals(first: Budget) -> Iterator[str]:
    """What it is above, what it is below, and what it can't be told from."""
    sides: dict[str, list[Rival]] = {"above": [], "below": [], "not told apart from": []}
    for rival in first.rivals:
        low, high = rival.above.low, rival.above.high
        if rival.above.value is not None:
            above, below = low is not None and low > 0, high is not None and high < 0
            sides["above" if above else "below" if below else "not told apart from"].append(rival)
    for side, rivals in sides.items():
        if rivals:
            listed = ", ".join(f"{rival.curve} ({with_interval(rival.faithfulness)})" for rival in rivals)
            yield f"At equal size, on the same examples, it is {side} {listed}."


def _errors(found: Validated, here: list[Budget]) -> Iterator[str]:
    """What passes through what the dictionaries leave out."""
    first, by = here[0], {budget.errors: budget for budget in here}
    alone = found.errors_alone(first.half)
    if alone.value is not None:
        yield f"What the dictionaries leave out does {with_interval(alone)} of it alone, without a feature."
    removed = by.get("removed")
    if removed is None or removed is first:
        return
    share, kept = removed.faithfulness.value, first.faithfulness.value
    if share is not None and kept is not None and kept > 0 and share < MUCH * kept:
        yield (
            f"With errors removed the same features do only {with_interval(removed.faithfulness)}: most of the effect "
            "passes through what the dictionaries leave out."
        )
    else:
        yield f"With errors removed the same features do {with_interval(removed.faithfulness)}."


def _rest(first: Budget) -> Iterator[str]:
    """What is left without the circuit."""
    share = first.completeness.value
    if share is not None:
        alone = (first.faithfulness.value or 0.0) >= MUCH
        so = ": others can take its place." if alone else ": most of it lies outside the circuit."
        most = so if share >= MUCH else "."
        yield f"Without the circuit all other features do {with_interval(first.completeness)}{most}"


def _nodes(found: Validated) -> Iterator[str]:
    """How many nodes matter by themselves."""
    for shares in found.shares[:1]:
        sure = [one for one, q in zip(shares.share, shares.q, strict=True) if q < SIGNIFICANT and one.value is not None]
        add, take = (sum(sign * _value(one) > 0 for one in sure) for sign in (1, -1))
        against = f", {take} take from it" if take else ""
        yield (
            f"Of its {amount(len(shares.node), 'node')} {add} add to it by themselves{against} (q < {SIGNIFICANT}, "
            f"{shares.half} examples, errors {shares.errors})."
        )


def _value(measure: Measure) -> float:
    return measure.value or 0.0


def _on(budget: Budget) -> str:
    return f"{budget.examples:,} {budget.half} {'example' if budget.examples == 1 else 'examples'}"


def _stay(budget: Budget) -> str:
    return {"kept": "errors kept", "sites": "errors kept at its sites", "removed": "errors removed"}[budget.errors]
