"""A circuit that is held to thresholds: read from a file that anybody may have edited, and checked before any work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from circuitcli.core.circuit import Circuit
from circuitcli.core.evidence.thresholds import Asked, CircuitTest
from circuitcli.errors import InputError, UsageError
from circuitcli.settings import Layers, Settings, resolve
from circuitcli.stages.checks import check
from circuitcli.stages.choice_file import choices
from circuitcli.stages.example_data import Data, kind_of
from circuitcli.stages.question_file import Written, averaged, question
from circuitcli.stages.spec import STAGES
from circuitcli.store import circuits

_MEND = (
    "Mend it, see “A circuit as a test” in docs/evidence.md, or write it anew: `circuit test --run RUN --write FILE`."
)
# The settings that a test may have: what decides the numbers that it measures.
DECIDE = (
    *(key for name in ("fetch-saes", "cache-acts", "ablate") for key in STAGES[name].decides),
    "validate.metric",
    "validate.baseline",
    "attribute.baseline",
    "attribute.freeze",
    "attribute.positions",
)
# Features other than those that are named are ablated as little as can be.
_FEW = {"start": "random", "thinning": 1e-9, "branching": 1, "max_features": 1}


@dataclass(frozen=True)
class Held:
    """A circuit and what it is held to.

    Attributes:
        path: Its file.
        circuit: The circuit, which has a test.
        settings: The test's, with what was typed over them.
        examples: What faithfulness is measured on; None where it isn't.
        questions: What an attribution's edges answer.
        typed: What was typed.
    """

    path: Path
    circuit: Circuit
    test: CircuitTest
    settings: Settings
    examples: Data | None
    questions: tuple[Written, ...]
    typed: Layers

    @property
    def prompted(self) -> bool:
        """Whether its edges are those of an attribution."""
        return self.circuit.metadata.attribution is not None


def read(path: Path, typed: Layers) -> Held:
    """The circuit in a file, with its thresholds.

    Args:
        path: The file, or a run.
        typed: Settings that count more than the file's: where to compute, where the model and the dictionaries are.

    Raises:
        InputError: It can't be read, has no thresholds, or some that make no sense; the first of these is named.
        UsageError: What was typed makes no sense.
    """
    path = circuits.locate(path)
    circuit = circuits.read(path)
    test = circuit.test
    if test is None:
        raise InputError(
            f"{path} has no thresholds to test.",
            hint="Write a file that has some, of a validated run: `circuit test --run RUN --write FILE`.",
        )
    wrong = test.amiss({(edge.source, edge.target): edge for edge in circuit.edges}) or _other(circuit, test)
    if wrong:
        raise amiss(path, wrong)
    settings = _settings(path, circuit, test, typed)
    examples = _examples(path, test.examples) if test.faithfulness else None
    questions = tuple(_questions(path, circuit, test)) if test.edges else ()
    return Held(path, circuit, test, settings, examples, questions, typed)


def amiss(path: Path, what: str) -> InputError:
    """A test that makes no sense."""
    return InputError(f"The test in {path} can't be made: {what}.", hint=_MEND)


def _other(circuit: Circuit, test: CircuitTest) -> str:
    """Where it is a test of another circuit: of another model, or other dictionaries; empty where it isn't."""
    about = circuit.metadata
    if test.model_identity != about.model_identity:
        return f"model_identity is {test.model_identity:.80}, and the circuit's {about.model_identity:.80}"
    known = {(one.layer, one.site): one.sha256 for one in test.dictionaries}
    if len(known) < len(test.dictionaries):
        return "dictionaries has two of one site"
    drawn = {(node.layer, node.site) for node in circuit.nodes if node.kind == "feature"}
    for sae in about.saes:
        place = sae.layer, sae.site
        if known.get(place, sae.sha256) != sae.sha256 or (place in drawn and place not in known):
            return f"dictionaries has not the one at {sae.layer}.{sae.site} that the circuit is of"
    return ""


def _settings(path: Path, circuit: Circuit, test: CircuitTest, typed: Layers) -> Settings:
    """The test's, those that were typed, and what follows from its being a test."""
    implied = _implied(path, circuit, test)
    try:
        resolve(test.settings)
        check(resolve(test.settings, implied))
    except UsageError as error:  # of a file, and so no usage
        raise InputError(f"The test in {path} can't be made: {error.message}", hint=error.hint) from None
    strange = next((key for key in _keys(test.settings) if not key.startswith(DECIDE)), None)
    if strange is not None:
        raise amiss(path, f"settings has {strange:.80}, which decides nothing that it measures")
    elsewhere: Layers = {}  # a revision is one of the place that the file names
    if "model" in typed:
        elsewhere["model_revision"] = "main"
    if "release" in typed.get("saes", {}):
        elsewhere["saes"] = {"revision": "main"}
    settings = resolve(test.settings, elsewhere, typed, implied)
    check(settings)
    return settings


def _implied(path: Path, circuit: Circuit, test: CircuitTest) -> Layers:
    # The dictionaries are those that were found fit when the run was made.
    found: Layers = {"allow_misfit": True}
    found["validate"] = {
        "prompts": str(path), "circuit": str(path), "pinned": (), "num_examples": max(2, len(test.examples)),
    }  # fmt: skip
    if test.edges and circuit.metadata.attribution is not None:
        found["attribute"] = {"prompts": str(path)}
    elif test.edges:
        found["features"] = {**_FEW, "pinned": tuple(sorted({edge.source for edge in test.edges}))}
        found["ablate"] = {"logits": False}
    return found


def _keys(tree: dict[str, Any]) -> Iterator[str]:
    for key, value in tree.items():
        yield from (f"{key}.{name}" for name in value) if isinstance(value, dict) else (key,)


def _examples(path: Path, rows: Sequence[Asked]) -> Data:
    """What faithfulness is measured on.

    Raises:
        InputError: An example isn't as it should be, or of another kind than the first.
    """
    told = [(_where(path, "examples", i), _told(row)) for i, row in enumerate(rows)]
    kinds = {kind_of(row) for _, row in told}
    first = kind_of(told[0][1])
    if first is None or len(kinds) > 1:
        raise amiss(path, "examples aren't all prompts, all multiple-choice questions or all texts")
    if first == "choices":
        return Data(first, choices=tuple(choices(*one) for one in told))
    if first == "prompts":
        return Data(first, prompts=tuple(averaged([question(*one) for one in told])))
    strange = next((i for i, (_, row) in enumerate(told) if set(row) != {"text"} or not row["text"].strip()), None)
    if strange is not None:
        raise amiss(path, f"examples.{strange} is blank, or has something beside its text")
    return Data(first, texts=tuple(row["text"] for _, row in told))


def _questions(path: Path, circuit: Circuit, test: CircuitTest) -> Iterator[Written]:
    """What the edges of an attribution answer."""
    if circuit.metadata.attribution is None:
        if test.questions:
            raise amiss(path, "questions are for the edges of an attribution, and the circuit is of mean effects")
        return
    if not test.questions:
        raise amiss(path, "questions is empty, and the edges are measured on them")
    if test.last_question >= len(test.questions):
        raise amiss(path, f"places names question {test.last_question}, and there are {len(test.questions)}, from 0")
    rows = [question(_where(path, "questions", i), _told(row)) for i, row in enumerate(test.questions)]
    yield from averaged(rows)


def _where(path: Path, what: str, number: int) -> str:
    return f"{path}, test.{what} {number}"


def _told(row: Asked) -> dict[str, Any]:
    """As a line of a file has it."""
    told = {key: value for key, value in asdict(row).items() if value is not None}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in told.items()}
