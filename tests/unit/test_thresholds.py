"""Whether what was measured is within a threshold, and which thresholds make no sense."""

from dataclasses import replace
from typing import Any

import pytest
from support.circuits import PLAIN, TEST

from circuitcli.core import compare
from circuitcli.core.attributed import Measure
from circuitcli.core.evidence.thresholds import EdgeSize, Faithful
from circuitcli.core.merge import merge

# at_least, at_most, what was measured, words of why it fails; None: it passes.
BOUNDS: list[tuple[float | None, float | None, float, str | None]] = [
    (0.5, None, 0.5, None),
    (0.5, None, 0.4999, "0.4999 is less than 0.5"),
    (None, 0.5, 0.5, None),
    (None, 0.5, 0.51, "0.51 is more than 0.5"),
    (-0.2, 1.0, -0.1, None),
    (-0.2, 1.0, -0.3, "-0.3 is less than -0.2"),
]


@pytest.mark.parametrize(("least", "most", "value", "words"), BOUNDS)
def test_bounds_of_faithfulness(least: float | None, most: float | None, value: float, words: str | None) -> None:
    verdict = Faithful(errors="sites", at_least=least, at_most=most).judged(Measure(value, -9.0, 9.0))
    assert verdict.failure == (words or "")
    assert verdict.name == "faithfulness, errors sites"


# sign, at_least, at_most, what was measured, words of why it fails.
SIZES: list[tuple[str | None, float | None, float | None, float, str | None]] = [
    ("-", 0.1, None, -0.2, None),
    ("-", 0.1, None, 0.2, "it is +0.2, and should be negative"),
    ("+", 0.1, None, 0.2, None),
    ("+", None, None, -1e-9, "should be positive"),
    ("+", None, None, 0.0, "it is +0, and should be positive"),
    ("-", None, None, 0.0, "should be negative"),
    (None, 0.1, None, -0.2, None),
    (None, 0.3, None, -0.2, "0.2 is less than 0.3"),
    ("-", 0.1, 0.15, -0.2, "0.2 is more than 0.15"),
]


@pytest.mark.parametrize(("sign", "least", "most", "value", "words"), SIZES)
def test_sign_and_size_of_an_edge(sign: Any, least: Any, most: Any, value: float, words: str | None) -> None:
    edge = EdgeSize(source="a", target="b", sign=sign, at_least=least, at_most=most)
    found = edge.judged(Measure(value))
    assert (words in found.failure) if words else not found.failure


def test_an_effect_is_told_with_its_sign_and_interval() -> None:
    edge = EdgeSize(source="a", target="b", sign="-", at_least=0.1, at_most=0.25)
    assert str(edge) == "negative, at least 0.1 and at most 0.25"
    assert edge.judged(Measure(-0.2, -0.4, 0.1)).measured == "-0.2 [-0.4, +0.1]"
    assert edge.judged(Measure(-0.2)).measured == "-0.2"


def test_what_is_not_defined_is_within_no_bounds() -> None:
    for threshold in (Faithful(errors="kept", at_most=9.0), EdgeSize(source="a", target="b", sign="+")):
        verdict = threshold.judged(Measure(None), "m(M) = m(∅)")
        assert verdict.failure == "it can't be evaluated: m(M) = m(∅)"
        assert verdict.measured == "–"


EDGE, F = TEST.edges[0], TEST.faithfulness[0]
AMISS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({"faithfulness": (), "edges": ()}, "it has no thresholds"),
    "no examples": ({"examples": ()}, "examples is empty"),
    "an edge that isn't there": ({"edges": (replace(EDGE, target="c"),)}, "edges.0 (a → c) is no edge of the circuit"),
    "an edge twice": ({"edges": (EDGE, EDGE)}, "edges.1 (a → b) is there twice"),
    "f twice": ({"faithfulness": (F, F)}, "faithfulness.1 (faithfulness, errors kept) is there twice"),
    "bounds the wrong way": ({"edges": (replace(EDGE, at_least=3.0),)}, "has at_least 3 above at_most 2"),
    "no bounds": ({"faithfulness": (Faithful(errors="kept"),)}, "asks for nothing: it has neither at_least nor"),
    "nothing of an edge": ({"edges": (EdgeSize(source="a", target="b"),)}, "neither sign, at_least nor at_most"),
}


@pytest.mark.parametrize("what", AMISS)
def test_what_makes_no_sense(what: str) -> None:
    changes, words = AMISS[what]
    assert TEST.amiss({("a", "b"): None}) == ""
    assert words in replace(TEST, **changes).amiss({("a", "b"): None})


def test_a_circuit_of_two_is_held_to_nothing() -> None:
    """Thresholds are of one circuit: neither a difference nor an extended graph has those of its parts."""
    held = replace(PLAIN, test=TEST)
    assert compare.drawn(held, held, ("monday", "tuesday")).test is None
    assert merge(held, held).test is None


def test_what_is_none_is_left_out() -> None:
    told = replace(TEST, edges=(EdgeSize(source="a", target="b", sign="+"),)).document()
    assert told["edges"] == [{"source": "a", "target": "b", "sign": "+"}]
    assert told["examples"][2] == {"text": "the light of the earth"}
