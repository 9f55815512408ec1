"""Features of transcoders say where they read and write, in every format; SAEs' say nothing more than before."""

import csv
import io
import json
from dataclasses import replace
from typing import Any

import pytest
from support.circuits import ASKED, NAMES, PLAIN, node, validator

from circuitcli import plugins
from circuitcli.core import document
from circuitcli.core.circuit import Circuit, Edge
from circuitcli.errors import InputError
from circuitcli.renderers import _dictionaries, _legend
from circuitcli.renderers._node import box

WRITES = {"1.mlp_in.5": ("1.mlp_out", "2.mlp_out", "3.mlp_out"), "2.mlp_in.7": ("2.mlp_out", "3.mlp_out")}
CROSSING = replace(
    PLAIN,
    nodes=tuple(node(name, writes=writes) for name, writes in WRITES.items()),
    edges=(Edge("1.mlp_in.5", "2.mlp_in.7", -0.5, None, None, 3),),
)
PER_LAYER = replace(CROSSING, nodes=tuple(replace(one, writes=one.writes[:1]) for one in CROSSING.nodes))
SAID = "reads 1.mlp_in, writes 1.mlp_out … 3.mlp_out"


def text(form: str, circuit: Circuit, name: str) -> str:
    return plugins.load("renderers", form).files(circuit)[name].decode()


def tree(circuit: Circuit) -> dict[str, Any]:
    return json.loads(text("json", circuit, "circuit.json"))


def test_circuit_json_has_them_of_these_alone_and_gives_them_back() -> None:
    found = tree(CROSSING)
    assert [one["writes"] for one in found["nodes"]] == [list(writes) for writes in WRITES.values()]
    assert validator().is_valid(found)
    assert document.parse(found, "it") == CROSSING
    assert all("writes" not in one for one in tree(PLAIN)["nodes"])


@pytest.mark.parametrize(
    "wrong",
    [
        ["2.mlp_out", "1.mlp_out"],
        ["1.mlp_out", "1.mlp_out"],
        ["0.mlp_out"],
        ["1.mlp_out", "x.mlp_out"],
        ["1.mlp_nowhere"],
        ["1.mlp_out\n"],
        ["99999.mlp_out"],
        [""],
    ],
)
def test_what_are_no_sites_in_the_models_order_is_refused(wrong: list[str]) -> None:
    found = tree(CROSSING)
    found["nodes"][0]["writes"] = wrong
    with pytest.raises(InputError, match="writes aren't sites behind it"):
        document.parse(found, "it")


def test_what_is_no_feature_writes_nothing() -> None:
    nodes = [replace(one, writes=("9.mlp_out",)) if one.kind == "error" else one for one in ASKED.nodes]
    assert any(one.writes for one in nodes)
    with pytest.raises(InputError, match="is no feature, and writes"):
        document.parse(tree(replace(ASKED, nodes=tuple(nodes))), "it")


def test_pictures_say_it_in_box_and_tooltip() -> None:
    drawn = text("dot", CROSSING, "circuit.dot")
    assert drawn.count(SAID) == 2  # the box, and its tooltip
    assert "cross-layer transcoders res-jb" in drawn
    assert "SAEs res-jb" not in drawn
    assert "SAEs res-jb" in text("dot", PLAIN, "circuit.dot")
    assert "writes" not in text("dot", PLAIN, "circuit.dot")


def test_a_box_has_room_for_it() -> None:
    with_it, without = (box(one) for one in (CROSSING.nodes[0], replace(CROSSING.nodes[0], writes=())))
    assert with_it.height == without.height + 22
    long = box(replace(CROSSING.nodes[0], layer=1000, contexts=(), writes=("1000.resid_post", "32000.resid_post")))
    assert long.width > box(replace(CROSSING.nodes[0], layer=1000, contexts=(), writes=())).width


def test_a_slide_says_it_in_the_tooltip_and_calls_errors_those_of_dictionaries() -> None:
    first = next(i for i, one in enumerate(ASKED.nodes) if one.kind == "feature")
    place = f"{ASKED.nodes[first].layer}.mlp_out"
    nodes = tuple(replace(one, writes=(place,)) if i == first else one for i, one in enumerate(ASKED.nodes))
    drawn = text("dot", replace(ASKED, nodes=nodes), "circuit.dot")
    assert f"writes {place}" in drawn
    assert "error of dictionaries" in drawn
    assert "error of an SAE" in text("dot", ASKED, "circuit.dot")


def test_a_graph_of_means_says_that_effects_stop_at_the_next_layer_where_features_write_later_ones() -> None:
    said = "effects are read up to the next chosen layer"
    for form, name in (("dot", "circuit.dot"), ("html", "circuit.html"), ("neuronpedia", "neuronpedia/monday.json")):
        assert said in text(form, CROSSING, name), form
        assert said not in text(form, PER_LAYER, name), form
        assert said not in text(form, PLAIN, name), form


def test_tables_have_a_column_where_any_writes_elsewhere() -> None:
    rows = list(csv.DictReader(io.StringIO(text("csv", CROSSING, "nodes.csv"))))
    assert [row["writes"] for row in rows] == [" ".join(writes) for writes in WRITES.values()]
    assert "1.mlp_out 2.mlp_out 3.mlp_out" in text("graphml", CROSSING, "circuit.graphml")
    assert "writes" not in text("csv", PLAIN, "nodes.csv").splitlines()[0]


def test_words_for_each_kind() -> None:
    mixed = replace(CROSSING, nodes=(*CROSSING.nodes, node(NAMES[0])))
    said = [_dictionaries.noun(circuit) for circuit in (PLAIN, PER_LAYER, CROSSING, mixed)]
    assert said == ["SAEs", "transcoders", "cross-layer transcoders", "dictionaries"]
    assert _legend.settings(PER_LAYER).startswith("transcoders res-jb")
    assert "Features are of transcoders" in text("neuronpedia", PER_LAYER, "neuronpedia/monday.json")
