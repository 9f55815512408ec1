"""What a circuit that was validated says of it over its picture: one plain line, or none."""

from __future__ import annotations

from circuitcli.core.circuit import Circuit
from circuitcli.core.evidence.validated import Budget, Validation
from circuitcli.core.words import amount, with_interval
from circuitcli.renderers._html import words

RANDOM = "random"
# The variant that is told first, where there are several.
_ORDER = ("kept", "sites", "removed")


def sentence(circuit: Circuit) -> str:
    """`Faithfulness .83 (.78–.88) at 42 features, errors kept; errors removed .21; random .12; on 96 …`.

    Empty of a circuit that wasn't validated.
    """
    found = circuit.validation
    if found is None or not found.budgets:
        return ""
    first, *others = _same_half(found)
    if first.faithfulness.value is None:
        said = [f"Faithfulness isn't defined at {amount(found.n, 'feature')}: m is the same with all and with nothing"]
    else:
        size = amount(found.n, "feature")
        said = [f"Faithfulness {with_interval(first.faithfulness)} at {size}, {_errors(first)}"]
    said += [f"{_errors(other)} {with_interval(other.faithfulness)}" for other in others if other.errors == "removed"]
    said += [f"random {with_interval(rival.faithfulness)}" for rival in first.rivals if rival.curve == RANDOM]
    said.append(f"on {first.examples:,} {first.half} {'example' if first.examples == 1 else 'examples'}")
    return words("; ".join(said).replace("-", "−"))


def _same_half(found: Validation) -> list[Budget]:
    """The budgets of the half that is told: the evaluation, where there is one; errors kept first."""
    half = max((budget.half for budget in found.budgets), key=("discovery", "evaluation").index)
    here = [budget for budget in found.budgets if budget.half == half]
    return sorted(here, key=lambda budget: _ORDER.index(budget.errors))


def _errors(budget: Budget) -> str:
    return "errors kept at its sites" if budget.errors == "sites" else f"errors {budget.errors}"
