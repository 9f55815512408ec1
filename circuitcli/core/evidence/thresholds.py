"""A circuit as a test: what it is held to, and whether a measurement is within that.

The `test` of circuit.json has all that measuring takes, so that it is the same wherever it is done: what identifies the
model and its dictionaries, settings, examples. All of it may be edited by hand, and nothing in it is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from circuitcli.core.attributed import Measure
from circuitcli.core.evidence.validated import Errors
from circuitcli.core.untrusted import Count, Number, Size, Text
from circuitcli.core.words import UNKNOWN, with_interval

Sign = Literal["+", "-"]
_SIGNS = {"+": "positive", "-": "negative"}


@dataclass(frozen=True)
class Dictionary:
    """A dictionary of the model, whether or not the circuit has a feature of it: `sha256` is of its files."""

    layer: Count
    site: Text
    sha256: Text


@dataclass(frozen=True, kw_only=True)
class Asked:
    """An example, or a question: what a line of a file of prompts, multiple-choice questions or texts has.

    Attributes:
        prompt, target, against, counterfactual: A prompt; tokens by their text, or by id as `id:15`.
        question, choices, answer, counterfactual: A multiple-choice question; `answer` is a number from 0.
        text: A text.
    """

    prompt: Text | None = None
    target: Text | None = None
    against: Text | None = None
    question: Text | None = None
    choices: tuple[Text, ...] | None = None
    answer: Count | None = None
    counterfactual: Text | None = None
    text: Text | None = None


@dataclass(frozen=True, kw_only=True)
class Faithful:
    """Bounds of the circuit's faithfulness on the examples, with these of the dictionaries' errors."""

    errors: Errors
    at_least: Number | None = None
    at_most: Number | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return f"faithfulness, errors {self.errors}"

    def judged(self, found: Measure, why: str = "") -> Verdict:
        """Whether f is within the bounds; `why` says why it isn't defined."""
        return Verdict(self.name, found, with_interval(found), str(self), _outside(self, found.value, why))

    def __str__(self) -> str:
        """The bounds in words."""
        return " and ".join(_bounds(self.at_least, self.at_most))


@dataclass(frozen=True)
class Place:
    """Where an edge of an attribution is: a question by its number, from 0, and the positions of both ends."""

    question: Count
    source: Count
    target: Count


@dataclass(frozen=True, kw_only=True)
class EdgeSize:
    """The sign of an edge's effect, and bounds of its size.

    Where nodes of an attribution stand for all positions the effect is summed over those at which its run measured it,
    `places`; None: over all of them.
    """

    source: Text
    target: Text
    sign: Sign | None = None
    at_least: Size | None = None
    at_most: Size | None = None
    places: tuple[Place, ...] | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.source} → {self.target}"

    def judged(self, found: Measure, why: str = "") -> Verdict:
        """Whether the effect has the sign and |effect| is within the bounds; `why` says why it isn't known."""
        value = found.value
        failure = _outside(self, None if value is None else abs(value), why)
        if value is not None and self.sign is not None and value * float(f"{self.sign}1") <= 0:
            failure = f"it is {_number(value)}, and should be {_SIGNS[self.sign]}"
        return Verdict(self.name, found, _with_sign(found), str(self), failure)

    def __str__(self) -> str:
        """The sign and the bounds in words."""
        sign = [] if self.sign is None else [_SIGNS[self.sign]]
        return ", ".join([*sign, *([" and ".join(bounds)] if (bounds := _bounds(self.at_least, self.at_most)) else [])])


@dataclass(frozen=True)
class Verdict:
    """What came of one threshold.

    Attributes:
        name: What it is of.
        found: What was measured.
        measured: The same in words.
        wanted: The threshold, in words.
        failure: Why it failed; empty if it passed.
    """

    name: str
    found: Measure
    measured: str
    wanted: str
    failure: str


@dataclass(frozen=True, kw_only=True)
class CircuitTest:
    """What a circuit is held to.

    Attributes:
        model_identity: The commit or the hash of the model's weights, which its settings name.
        dictionaries: All that the model has; see `keeping`.
        text: What identifies the text that baselines or effects are of; None where none of it counts.
        settings: Those that decide what is measured, as a profile has them.
        examples: What faithfulness is measured on.
        faithfulness: Its bounds.
        questions: What the edges of an attribution answer; none of a graph of mean effects.
        edges: The edges that are measured again.
    """

    model_identity: Text
    dictionaries: tuple[Dictionary, ...]
    text: Text | None
    settings: dict[str, Any]
    examples: tuple[Asked, ...] = ()
    faithfulness: tuple[Faithful, ...] = ()
    questions: tuple[Asked, ...] = ()
    edges: tuple[EdgeSize, ...] = ()

    def document(self) -> dict[str, Any]:
        """As circuit.json has it, without what is None."""
        found = asdict(self)
        for name in ("examples", "faithfulness", "questions", "edges"):
            found[name] = [{key: v for key, v in row.items() if v is not None} for row in found[name]]
        return found

    @property
    def last_question(self) -> int:
        """The highest number of a question that edges name; −1 if none does."""
        return max((place.question for one in self.edges for place in one.places or ()), default=-1)

    def amiss(self, edges: Mapping[tuple[str, str], Any]) -> str:
        """The first thing of thresholds and examples that makes no sense, and its place; empty if nothing.

        Args:
            edges: Those of the circuit.
        """
        if not self.faithfulness and not self.edges:
            return "it has no thresholds: neither faithfulness nor edges"
        if self.faithfulness and not self.examples:
            return "examples is empty, and faithfulness is measured on them"
        thresholds: dict[str, tuple[Faithful | EdgeSize, ...]] = {
            "faithfulness": self.faithfulness,
            "edges": self.edges,
        }
        for where, many in thresholds.items():
            known = [one.name for one in many]
            for i, one in enumerate(many):
                wrong = _amiss(one) or (_absent(one, edges) if isinstance(one, EdgeSize) else "")
                if wrong or one.name in known[:i]:
                    return f"{where}.{i} ({one.name}) {wrong or 'is there twice'}"
        return ""


def _bounds(least: float | None, most: float | None) -> list[str]:
    bounds = (("at least", least), ("at most", most))
    return [f"{words} {bound:.4g}" for words, bound in bounds if bound is not None]


def _outside(threshold: Faithful | EdgeSize, size: float | None, why: str) -> str:
    """How a size is out of bounds; empty if it isn't. What isn't defined is within none."""
    least, most = threshold.at_least, threshold.at_most
    if size is None:
        return f"it can't be evaluated: {why or 'it is no number'}"
    if least is not None and size < least:
        return f"{size:.4g} is less than {least:.4g}"
    return f"{size:.4g} is more than {most:.4g}" if most is not None and size > most else ""


def _number(value: float) -> str:
    return f"{value:+.3g}"


def _with_sign(found: Measure) -> str:
    """An effect and its interval: +0.31 [+0.22, +0.4]."""
    known = [_number(one) for one in (found.value, found.low, found.high) if one is not None]
    return f"{known[0]} [{known[1]}, {known[2]}]" if len(known) == 3 else "".join(known) or UNKNOWN


def _amiss(one: Faithful | EdgeSize) -> str:
    """What is wrong with a threshold by itself."""
    if not str(one):
        return f"asks for nothing: it has neither {'sign, ' * isinstance(one, EdgeSize)}at_least nor at_most"
    if one.at_least is not None and one.at_most is not None and one.at_least > one.at_most:
        return f"has at_least {one.at_least:.4g} above at_most {one.at_most:.4g}"
    return ""


def _absent(one: EdgeSize, edges: Mapping[tuple[str, str], Any]) -> str:
    return "" if (one.source, one.target) in edges else "is no edge of the circuit"
