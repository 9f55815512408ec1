"""What was found of a circuit when it was validated: records of circuit.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from circuitcli.core.attributed import Measure
from circuitcli.core.untrusted import Count, Number, Text

Half = Literal["discovery", "evaluation"]
# What of the dictionaries' errors stays: all, those at sites that hold a node of C, none.
Errors = Literal["kept", "sites", "removed"]
# What a feature that isn't kept becomes, in words, by the name of the baseline.
REPLACED = {
    "zero": "0",
    "mean": "its mean",
    "patch": "what it is in the counterfactual",
    "resample": "what it is at a random other position",
}


@dataclass(frozen=True)
class Rival:
    """Another set of as many components, on the same examples.

    Attributes:
        curve: What chose it: random, activation, atp, neurons, ….
        faithfulness: Its own f.
        above: f of the circuit less that, paired over examples: above it where the interval is above 0.
    """

    curve: Text
    faithfulness: Measure
    above: Measure


@dataclass(frozen=True)
class Budget:
    """What a circuit does on the examples of one half, with one way of treating what dictionaries leave out.

    Attributes:
        half: discovery or evaluation: a circuit is found on the first and measured on the second.
        examples: So many.
        errors: kept, sites or removed.
        everything: The mean of m(M), the whole model.
        nothing: The mean of m(∅), where no feature is kept.
        faithfulness: f(C), of 95% bootstrap intervals over examples, as all of these.
        completeness: f(M∖C).
        rivals: Other sets of as many components.
    """

    half: Half
    examples: Count
    errors: Errors
    everything: Number
    nothing: Number
    faithfulness: Measure
    completeness: Measure
    rivals: tuple[Rival, ...]


@dataclass(frozen=True)
class Validation:
    """How much of the model's answer a circuit carries.

    Attributes:
        curve: How its features were chosen: `circuit`, or a ranking.
        n: How many they are.
        unit: Of m: nats or logits.
        baseline: What replaces features that aren't kept: zero, mean, patch, resample.
        run, created: Where and when this was measured.
        budgets: By half and variant of the errors, the evaluation first.
    """

    curve: Text
    n: Count
    unit: Text
    baseline: Text
    run: Text
    created: Text
    budgets: tuple[Budget, ...]
