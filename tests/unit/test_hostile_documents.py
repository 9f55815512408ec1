"""Whatever stands in a circuit.json: it is refused in words, or joined, compared and drawn in every format."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.circuits import METADATA, PLAIN
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


def spoilt() -> Iterator[tuple[tuple[Any, ...], Any]]:
    tree = json.loads(written(FULL))
    for place, _ in places(tree):
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


def test_every_value_everywhere_is_refused_or_used() -> None:
    taken = refused = 0
    for place, tree in spoilt():
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
    assert taken > 300
    assert refused > 1000


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
