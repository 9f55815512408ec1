"""What a validated circuit says over its picture, in every format that has words."""

import dataclasses
import html
import re
from typing import Any

import pytest
from support.circuits import ASKED, KEPT, NASTY, PLAIN, VALIDATION

from circuitcli import plugins
from circuitcli.core.attributed import Measure
from circuitcli.core.circuit import Circuit
from circuitcli.core.evidence.validated import Validation
from circuitcli.renderers import _validated

SAID = (
    "Faithfulness .83 (.78–.88) at 42 features, errors kept; errors removed −.02 (−.10–.04); random .12 (.08–.16); "
    "on 96 evaluation examples"
)


def having(circuit: Circuit = PLAIN, **changes: Any) -> Circuit:
    return dataclasses.replace(circuit, validation=dataclasses.replace(VALIDATION, **changes))


def test_the_line_is_of_the_evaluation_errors_kept_whatever_the_order():
    assert _validated.sentence(having()) == SAID
    assert _validated.sentence(having(budgets=VALIDATION.budgets[::-1])) == SAID
    assert _validated.sentence(PLAIN) == ""
    assert _validated.sentence(having(budgets=())) == ""


def test_what_there_is_is_told():
    only = having(budgets=(dataclasses.replace(KEPT, half="discovery", examples=1, errors="sites", rivals=()),), n=1)
    said = "Faithfulness .83 (.78–.88) at 1 feature, errors kept at its sites; on 1 discovery example"
    assert _validated.sentence(only) == said
    undefined = having(budgets=(dataclasses.replace(KEPT, faithfulness=Measure(None), rivals=()),))
    assert _validated.sentence(undefined) == (
        "Faithfulness isn't defined at 42 features: m is the same with all and with nothing; on 96 evaluation examples"
    )


@pytest.mark.parametrize("name", ["dot", "svg", "html", "neuronpedia"])
@pytest.mark.parametrize("circuit", [PLAIN, ASKED], ids=["means", "prompt"])
def test_every_picture_that_has_a_headline_says_it(circuit: Circuit, name: str):
    files = plugins.load("renderers", name).files
    with_it, without = ("".join(data.decode() for data in files(one).values()) for one in (having(circuit), circuit))
    start = SAID.partition(";")[0]  # a long line is broken
    for text, there in ((with_it, True), (without, False)):
        plain = re.sub(r"\s+", " ", html.unescape(re.sub(r"\\u([0-9a-f]{4})", lambda m: chr(int(m[1], 16)), text)))
        assert (start in plain) == there


def test_the_png_shows_it_too():
    files = plugins.load("renderers", "png").files
    assert len({files(one)["circuit.png"] for one in (PLAIN, having())}) == 2


@pytest.mark.parametrize("text", NASTY)
def test_nothing_of_a_file_gets_into_a_picture_unescaped(text: str):
    """The words of a validation in a file that anybody wrote."""
    hostile = Validation(text, 3, text, text, text, text, (dataclasses.replace(KEPT, rivals=()),))
    circuit = dataclasses.replace(PLAIN, validation=hostile)
    assert _validated.sentence(circuit).isprintable()
    page = plugins.load("renderers", "html").files(circuit)["circuit.html"].decode()
    assert "<script>alert" not in page
