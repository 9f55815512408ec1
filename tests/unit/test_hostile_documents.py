"""Whatever stands in a circuit.json: it is refused in words, or joined, compared and drawn in every format."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.circuits import ASKED, METADATA, PLAIN
from test_document import FULL, changed, places, written

from circuitcli import plugins
from circuitcli.core import compare, document
from circuitcli.core.circuit import Circuit
from circuitcli.core.merge import merge
from circuitcli.errors import CircuitError, InputError
from circuitcli.store import records

LARGEST = 3.4028234663852886e38
VALUES: tuple[Any, ...] = (
    *("\ud800", "\udfff\ud800x", "\x00", "", " ", "\n", "x" * 5000, "../..", "9" * 5000, "0.resid_post.-1", "%%DATA%%"),
    *(LARGEST, -LARGEST, 5e-324, 0, -1, 2**53 - 1, 1 - 2**53),
    *([], ["\ud800"], [2**53 - 1], [-1]),
)
TEXTS = ("csv", "dot", "graphml", "json", "neuronpedia")


def spoilt(circuit: Circuit, *parts: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Everything in its document, or what is in these parts of it, each with every value."""
    tree = json.loads(written(circuit))
    for place, _ in places(tree):
        if parts and not any(place[: len(part)] == part for part in parts):
            continue
        for value in VALUES:
            yield place, changed(tree, place, value)


def used(circuit: Circuit) -> None:
    """All that is done with a circuit that was read."""
    for form in TEXTS:
        for data in plugins.load("renderers", form).files(circuit).values():
            data.decode()
    records.fingerprint({"edits": {node.id: node.label for node in circuit.nodes}})
    other = dataclasses.replace(PLAIN, metadata=dataclasses.replace(METADATA, run="tuesday"))
    for a, b in ((circuit, other), (other, circuit), (circuit, circuit)):
        with contextlib.suppress(CircuitError):
            merge(a, b)
        with contextlib.suppress(CircuitError):
            compare.compare(a, b)
            compare.drawn(a, b, ("before", "after"))


def first(kind: str) -> Circuit:
    """A circuit of a prompt whose first node, which is spoilt, is of that kind."""
    return dataclasses.replace(ASKED, nodes=tuple(sorted(ASKED.nodes, key=lambda node: node.kind != kind)))


NODE = ("nodes", 0)
CASES = {
    "full": (FULL, (), 300),
    "question": (ASKED, (("metadata", "attribution"), ("calibration",), ("edges",)), 100),
    "token": (first("token"), (NODE,), 50),
    "feature": (first("feature"), (NODE,), 50),
    "error": (first("error"), (NODE,), 50),
    "target": (first("target"), (NODE,), 50),
}


@pytest.mark.parametrize("case", CASES)
def test_every_value_everywhere_is_refused_or_used(case: str) -> None:
    read, parts, least = CASES[case]
    taken = refused = 0
    for place, tree in spoilt(read, *parts):
        try:
            circuit = document.parse(json.loads(json.dumps(tree)), "it")
        except InputError:
            refused += 1
            continue
        try:
            used(circuit)
        except Exception as error:
            raise AssertionError(place) from error
        taken += 1
    assert taken > least
    assert refused > least


@pytest.mark.parametrize("form", ["svg", "png", "html"])
def test_pictures_of_extremes(form: str) -> None:
    """The largest numbers, and names that nobody can read, all at once."""
    names = {node.id: f"{node.id}\x00\ud800" for node in FULL.nodes}
    nodes = [
        dataclasses.replace(n, id=names[n.id], label="\ud800", group="\x00", density=LARGEST, max_activation=LARGEST)
        for n in FULL.nodes
    ]
    edges = [
        dataclasses.replace(e, source=names[e.source], target=names[e.target], effect_mean=LARGEST, ci_low=-LARGEST)
        for e in FULL.edges
    ]
    circuit = Circuit(dataclasses.replace(METADATA, run="\ud800", share_drawn=LARGEST), tuple(nodes), tuple(edges))
    assert all(plugins.load("renderers", form).files(circuit).values())


@pytest.mark.parametrize("form", ["svg", "png", "html"])
def test_pictures_of_extremes_of_a_prompt(form: str) -> None:
    nodes = [
        dataclasses.replace(
            n,
            label="\ud800" * 500,
            group="\x00" if n.kind == "feature" else None,
            attribution=dataclasses.replace(n.attribution, effect=-LARGEST, activation=LARGEST, influence=LARGEST),
        )
        for n in ASKED.nodes
    ]
    edges = [dataclasses.replace(e, effect_mean=LARGEST) for e in ASKED.edges]
    question = dataclasses.replace(ASKED.metadata.attribution, clean=-LARGEST, abs_effect=LARGEST, metric="\x00" * 5000)
    facts = dataclasses.replace(ASKED.metadata, attribution=question)
    circuit = dataclasses.replace(ASKED, metadata=facts, nodes=tuple(nodes), edges=tuple(edges))
    assert all(plugins.load("renderers", form).files(circuit).values())
