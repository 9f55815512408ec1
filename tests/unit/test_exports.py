"""Exports, read by what reads them: networkx, Python's csv, Neuronpedia's schema, and as circuit-tracer's page does."""

import csv
import io
import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import networkx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from support import prompts
from support.circuits import ASKED, EDGES, METADATA, NAMES, NASTY, PLAIN, circuits, edge, hostile, node

from circuitcli import plugins
from circuitcli.core.circuit import Circuit
from circuitcli.core.metadata import SaeFacts
from circuitcli.core.neuronpedia import page
from circuitcli.renderers._attribution_names import SITE_STEP
from circuitcli.renderers.csv import safe

SCHEMA = json.loads((Path(__file__).parents[1] / "data" / "neuronpedia-graph-schema.json").read_text())


def files(form: str, circuit: Circuit) -> dict[str, bytes]:
    return plugins.load("renderers", form).files(circuit)


def graphml(circuit: Circuit) -> networkx.DiGraph:
    return networkx.read_graphml(io.BytesIO(files("graphml", circuit)["circuit.graphml"]))


def tables(circuit: Circuit) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    made = files("csv", circuit)
    assert list(made) == ["nodes.csv", "edges.csv"]
    nodes, edges = (list(csv.DictReader(io.StringIO(data.decode(), newline=""), strict=True)) for data in made.values())
    return nodes, edges


@dataclass(frozen=True)
class Exported:
    """What was exported, read back."""

    graph: dict[str, Any]
    index: dict[str, Any]
    features: dict[int, dict[str, Any]]
    slug: str


def exported(circuit: Circuit) -> Exported:
    made = files("neuronpedia", circuit)
    for name in made:
        assert re.fullmatch(r"neuronpedia/(features/\d+|[A-Za-z0-9_-][A-Za-z0-9_.-]*)\.json", name), name
    first = next(iter(made))
    features = {int(Path(name).stem): json.loads(data) for name, data in made.items() if "/features/" in name}
    index = json.loads(made["neuronpedia/graph-metadata.json"])
    return Exported(graph=json.loads(made[first]), index=index, features=features, slug=Path(first).stem)


def test_graphml_is_the_graph() -> None:
    graph = graphml(PLAIN)
    assert graph.is_directed()
    assert set(graph.nodes) == set(NAMES)
    assert {ends: graph.edges[ends]["effect_mean"] for ends in graph.edges} == {
        (e.source, e.target): e.effect_mean for e in EDGES
    }
    for e in EDGES:
        found = graph.edges[e.source, e.target]
        assert found["weight"] == abs(e.effect_mean)
        assert found.get("ci_low") == e.ci_low
    one = graph.nodes[NAMES[0]]
    assert (one["layer"], one["pinned"], one["density"], one["n"]) == (1, False, 0.0123, 40)
    assert one["context"] == " the« cat»sat"
    assert one["promoted"] == "␣dog -0.500  ⏎ -0.250"
    assert "label" not in one
    assert graph.graph["model"] == "gpt2"
    assert graph.graph["share_drawn"] == 0.38
    assert graph.degree("2.resid_post.7", weight="weight") == pytest.approx(0.84 + 0.21 + 0.05)


def test_csv_is_the_graph() -> None:
    nodes, edges = tables(PLAIN)
    assert [row["id"] for row in nodes] == list(NAMES)
    assert [(row["source"], row["target"], float(row["effect_mean"])) for row in edges] == [
        (e.source, e.target, e.effect_mean) for e in EDGES
    ]
    assert (nodes[0]["pinned"], nodes[0]["label"], nodes[0]["layer"]) == ("false", "", "1")
    assert edges[-1]["ci_low"] == ""


OF_PROMPT = ["token", "token_id", "activation", "replacement", "effect", "method", "estimate", "influence", "prob"]


def test_tables_of_a_prompt_say_what_each_node_does_there() -> None:
    nodes, edges = tables(ASKED)
    plain_nodes, plain_edges = tables(PLAIN)
    assert list(nodes[0]) == [*plain_nodes[0], *OF_PROMPT]
    assert list(edges[0]) == [*plain_edges[0], "method"]
    feature, target = nodes[2], nodes[-1]
    assert [feature[name] for name in ("pos", *OF_PROMPT)] == [
        *("5", " God", "", "2.5", "0.0", "-0.9", "exact", "-0.81", "0.4", ""),
    ]
    assert [target[name] for name in ("pos", *OF_PROMPT)] == [
        *("", " heavens", "7", "2.5", "", "", "", "", "0.0", "0.4966"),
    ]
    assert (edges[0]["weight"], edges[0]["effect_mean"], edges[0]["method"]) == ("0.9", "-0.9", "relp")


def test_graphml_of_a_prompt() -> None:
    graph = graphml(ASKED)
    error, target = graph.nodes["1.resid_post.error@6"], graph.nodes["target"]
    assert (error["kind"], error["token"], error["effect"], error["method"]) == ("error", " created", 0.2, "exact")
    assert "replacement" not in error
    assert (target["prob"], target["token_id"]) == (0.4966, 7)
    assert "effect" not in target
    assert graph.edges["token@5", "1.resid_post.6@5"]["method"] == "relp"
    told = graph.graph
    assert (told["attribution_metric"], told["attribution_unit"], told["attribution_nodes"]) == (
        *("log p(␣heavens)", "nats", 420),
    )
    assert told["positions"] == "prompt"
    plain = graphml(PLAIN)
    assert not [name for name in plain.graph if name.startswith("attribution")]
    assert not set(OF_PROMPT) & set(plain.nodes[NAMES[0]])


def test_hostile_text_of_a_prompt_in_tables() -> None:
    nodes, _ = tables(prompts.hostile())
    for row in nodes:
        for cell in (row["token"], row["label"], row["group"]):
            assert not re.search(r"[\x00-\x1f\x7f\ud800-\udfff\u202e\u2028]", cell)
            assert not cell.startswith(("=", "+", "@", "-"))
    assert set(graphml(prompts.hostile()).nodes) == {node.id for node in ASKED.nodes}


def test_an_empty_circuit_is_a_file_all_the_same() -> None:
    empty = Circuit(METADATA, (), ())
    assert not graphml(empty).nodes
    assert tables(empty) == ([], [])
    made = exported(empty)
    Draft7Validator(SCHEMA).validate(made.graph)
    assert made.features == {}


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@a", "\t=1", "\r=1", "＝1", "＋1", "－1", "＠a", "-"])
def test_formulas_are_text(text: str) -> None:
    labelled = replace(PLAIN, nodes=(node(NAMES[0], label=text), *PLAIN.nodes[1:]))
    cell = tables(labelled)[0][0]["label"]
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠"))
    assert safe(text) == f"'{text}"


def test_numbers_stay_numbers() -> None:
    assert safe(-0.5) == -0.5
    assert float(tables(PLAIN)[1][0]["effect_mean"]) == -0.84


def test_hostile_text_in_csv() -> None:
    nodes, edges = tables(hostile())
    assert len(nodes) == 4
    assert len(edges) == 4
    for row in nodes:
        assert None not in row
        assert None not in row.values()
        for cell in row.values():
            assert not re.search(r"[\x00-\x1f\x7f\ud800-\udfff\u202e\u2028]", cell)
            assert not cell.startswith(("=", "+", "@", "-"))


def test_hostile_text_in_graphml() -> None:
    graph = graphml(hostile())
    assert set(graph.nodes) == set(NAMES)
    assert {graph.nodes[name]["label"] for name in NAMES} <= {"[/b]", *NASTY}
    data = files("graphml", hostile())["circuit.graphml"]
    assert b"<script" not in data
    assert b"\x00" not in data
    assert b"<!DOCTYPE" not in data


@settings(max_examples=60)
@given(st.text(st.characters(), max_size=30), st.text(st.characters(), max_size=30))
def test_any_text_can_be_exported(label: str, token: str) -> None:
    context = replace(PLAIN.nodes[0].contexts[0], tokens=(token, token, token))
    circuit = replace(PLAIN, nodes=(node(NAMES[0], label=label, group=token, contexts=(context,)), *PLAIN.nodes[1:]))
    assert set(graphml(circuit).nodes) == set(NAMES)
    assert [row["id"] for row in tables(circuit)[0]] == list(NAMES)
    made = exported(circuit)
    Draft7Validator(SCHEMA).validate(made.graph)
    assert "<" not in json.dumps(made.graph)


@settings(max_examples=30)
@given(circuits())
def test_any_circuit_is_the_same_graph_in_every_format(circuit: Circuit) -> None:
    ends = {(e.source, e.target): e.effect_mean for e in circuit.edges}
    graph = graphml(circuit)
    assert {pair: graph.edges[pair]["effect_mean"] for pair in graph.edges} == ends
    assert {(r["source"], r["target"]): float(r["effect_mean"]) for r in tables(circuit)[1]} == ends
    made = exported(circuit)
    named = dict(zip((n["node_id"] for n in made.graph["nodes"]), (n.id for n in circuit.nodes), strict=True))
    assert {(named[link["source"]], named[link["target"]]): -link["weight"] for link in made.graph["links"]} == ends


OF_PROMPTS = {
    "asked": ASKED,
    "many": prompts.prompt(200, 30, groups=4),
    "summed": prompts.summed(),
    "several targets": prompts.several(),
    "hostile prompt": prompts.hostile(),
}
ALL = {"plain": PLAIN, "hostile": hostile(), **OF_PROMPTS}


@pytest.mark.parametrize("circuit", ALL.values(), ids=ALL)
def test_the_attribution_graph_is_valid(circuit: Circuit) -> None:
    Draft7Validator.check_schema(SCHEMA)
    made = exported(circuit)
    Draft7Validator(SCHEMA).validate(made.graph)
    assert made.index == {"graphs": [made.graph["metadata"]]}
    assert made.slug == made.graph["metadata"]["slug"]


def test_what_the_viewers_need() -> None:
    """As FORMATS and the pages' own code have it."""
    made = exported(hostile())
    metadata, nodes = made.graph["metadata"], made.graph["nodes"]
    for name in ("slug", "scan"):
        assert re.fullmatch(r"[A-Za-z0-9_.-]+", metadata[name])
    assert max(int(one["layer"]) for one in nodes) > 0
    assert not [one for one in nodes if one["feature_type"] == "logit"]
    tokens = len(metadata["prompt_tokens"])
    seen = [(one["layer"], one["feature"], one["ctx_idx"]) for one in nodes]
    assert all(1 <= one["ctx_idx"] < tokens for one in nodes)  # column 0 alone has no width
    assert len(seen) == len(set(seen))
    assert tokens * 2 / 3 >= 1  # or every feature is taken for one that fires everywhere
    assert all(0 < one["influence"] <= 1 for one in nodes)
    assert max(one["influence"] for one in nodes) == pytest.approx(1)
    assert "<" not in json.dumps(made.graph)
    # What circuit-tracer's page asks its server for: transcoder_list[layer] of a scan that begins with custom-.
    assert metadata["scan"].startswith("custom-")
    for one in nodes:
        assert metadata["transcoder_list"][int(one["layer"])] == "./data/features"
        assert one["feature"] in made.features


@pytest.mark.parametrize("circuit", OF_PROMPTS.values(), ids=OF_PROMPTS)
def test_what_the_viewers_need_of_a_prompt(circuit: Circuit) -> None:
    made = exported(circuit)
    metadata, nodes = made.graph["metadata"], made.graph["nodes"]
    columns = len(metadata["prompt_tokens"])
    assert columns >= 2
    assert all(0 <= one["ctx_idx"] < columns for one in nodes)
    for key in ("node_id", "jsNodeId"):
        assert len({one[key] for one in nodes}) == len(nodes)
    assert len({(one["layer"], one["feature"], one["ctx_idx"]) for one in nodes}) == len(nodes)
    assert all(0 <= one["influence"] <= 1 for one in nodes)
    assert max(int(one["layer"]) for one in nodes if one["layer"] != "E" and one["feature_type"] != "logit") > 0
    assert "<" not in json.dumps(made.graph)
    for one in nodes:
        if one["feature_type"] == "cross layer transcoder":
            assert metadata["transcoder_list"][int(one["layer"])] == "./data/features"
            assert one["feature"] in made.features
    [logit] = [one for one in nodes if one.get("is_target_logit")]
    assert logit["feature_type"] == "logit"
    read = float(logit["clerp"].split("(p=")[1].split(")")[0])  # as the page does it
    assert read == pytest.approx(logit["token_prob"], abs=5e-4)
    named = {one["node_id"] for one in nodes}
    assert all({link["source"], link["target"]} <= named for link in made.graph["links"])
    assert len(made.graph["links"]) == len(circuit.edges)


def test_a_prompt_as_circuit_tracer_has_it() -> None:
    """Ids, layers, columns, types and texts as FORMATS and circuit-tracer's own models have them."""
    grouped = replace(ASKED, nodes=tuple(replace(n, group="gods" if "@7" in n.id else None) for n in ASKED.nodes))
    made = exported(grouped)
    told = {
        (n["node_id"], n["layer"], n["ctx_idx"], n["feature_type"], n["clerp"], n["activation"])
        for n in made.graph["nodes"]
    }
    feature = "cross layer transcoder"
    assert told == {
        ("E_7_5", "E", 5, "embedding", "Emb: “ God”", None),
        ("E_7_6", "E", 6, "embedding", "Emb: “ created”", None),
        ("1_6_5", "1", 5, feature, "a god", 2.5),
        ("1_-1_6", "1", 6, "mlp reconstruction error", "Err: resid_post “ created”", None),
        ("2_7_7", "2", 7, feature, "2.resid_post.7 ␣cat", 2.5),
        ("2_9_7", "2", 7, feature, "2.resid_post.9 ␣cat", 2.5),
        ("5_7_7", "5", 7, "logit", 'Output " heavens" (p=0.497)', None),
    }
    assert {(link["source"], link["target"]): link["weight"] for link in made.graph["links"]} == {
        ("E_7_5", "1_6_5"): 0.9,
        ("E_7_6", "1_-1_6"): -0.2,
        ("1_6_5", "2_7_7"): 0.7,
        ("1_6_5", "2_9_7"): -0.2,
        ("1_-1_6", "2_7_7"): -0.1,
        ("2_7_7", "5_7_7"): 1.0,
        ("2_9_7", "5_7_7"): -0.3,
    }
    assert {n["node_id"]: n["influence"] for n in made.graph["nodes"]}["1_-1_6"] == 0.8
    assert made.graph["qParams"]["supernodes"] == [["gods", "2_7_7", "2_9_7"]]
    assert made.graph["qParams"]["pinnedIds"] == ["2_7_7", "2_9_7"]
    metadata = made.graph["metadata"]
    assert metadata["prompt_tokens"] == ["‹|endoftext|›", "In", " the", " beginning", ",", " God", " created", " the"]
    assert metadata["prompt"] == "In the beginning, God created the"
    assert (metadata["node_threshold"], metadata["pruning_settings"]) == (0.8, {"node_threshold": 0.8})
    assert {"metric": "log p(␣heavens)", "edge_method": "relp", "share": 0.61, "edge_share": 0.44}.items() <= metadata[
        "generation_settings"
    ].items()
    assert "All effects of nodes were measured. Edges are estimates (relp: r = 0.97" in metadata["info"]["description"]


def test_sites_of_a_layer_keep_features_and_errors_apart() -> None:
    at = {"2.resid_post.7@7": "mlp_out"}
    both = replace(ASKED, nodes=tuple(replace(n, site=at.get(n.id, n.site)) for n in ASKED.nodes))
    names = [n["node_id"] for n in exported(both).graph["nodes"]]
    assert names[2:6] == ["1_6_5", "1_-1_6", "2_mlp_out_7_7", "2_resid_post_9_7"]


def test_errors_elsewhere_than_features_need_no_site_in_their_names() -> None:
    """As of transcoders, whose features read mlp_in; an error's index is −1."""
    at = {"1.resid_post.6@5": "mlp_in"}
    apart = replace(ASKED, nodes=tuple(replace(n, site=at.get(n.id, n.site)) for n in ASKED.nodes))
    nodes = exported(apart).graph["nodes"]
    assert [n["node_id"] for n in nodes][2:5] == ["1_6_5", "1_-1_6", "2_7_7"]
    assert [n["feature"] for n in nodes][3] == -1


def test_several_targets() -> None:
    """The viewers know one target among them: the likeliest."""
    nodes = exported(prompts.several()).graph["nodes"]
    logits = [n for n in nodes if n["feature_type"] == "logit"]
    assert [n["node_id"] for n in logits] == ["5_7_7", "5_12_7", "5_3_7"]
    assert [(n["token_prob"], n["is_target_logit"]) for n in logits] == [(0.5, True), (0.25, False), (0.125, False)]
    assert logits[1]["clerp"] == 'Output " earth" (p=0.250)'


def test_one_column_for_what_stands_for_all_positions() -> None:
    made = exported(prompts.summed()).graph
    assert {n["ctx_idx"] for n in made["nodes"]} == {1}
    assert made["metadata"]["prompt_tokens"] == [" ·", " (all positions)"]
    assert made["metadata"]["prompt"] == "One (and 2 more)"
    assert [n["node_id"] for n in made["nodes"]] == ["E_-1_1", "1_6_1", "1_-1_1", "2_7_1", "2_9_1", "5_-1_1"]


def unpaired(feature: int) -> tuple[int, int]:
    """Layer and index as both pages compute them, in double precision."""
    w = math.floor((math.sqrt(8 * feature + 1) - 1) / 2)
    y = feature - (w * w + w) // 2
    return w - y, y


def test_layer_and_index_are_read_back_from_a_feature_s_number() -> None:
    made = exported(PLAIN)
    for one, told in zip(PLAIN.nodes, made.graph["nodes"], strict=True):
        layer, index = unpaired(told["feature"])
        assert layer == one.layer
        assert index % SITE_STEP == one.feature
        assert made.features[told["feature"]]["index"] == one.feature
    assert [one["node_id"] for one in made.graph["nodes"]] == [
        "1_mlp_out_5_1",
        "1_resid_post_6_1",
        "2_7_1",
        "3_8_1",
    ]


@given(st.integers(0, 200), st.integers(0, 5), st.integers(0, 2**20))
def test_numbers_of_six_sites_can_still_be_read_back(layer: int, rank: int, index: int) -> None:
    whole = index + SITE_STEP * rank
    assert unpaired((layer + whole) * (layer + whole + 1) // 2 + whole) == (layer, whole)


def test_one_index_at_two_sites_is_two_features() -> None:
    both = replace(PLAIN, nodes=(node("1.mlp_out.5"), node("1.resid_post.5")), edges=())
    made = exported(both)
    assert len(made.features) == 2
    assert sorted(feature["transcoder_id"] for feature in made.features.values()) == ["1.mlp_out", "1.resid_post"]


def test_influence_is_cumulative() -> None:
    chain = replace(
        PLAIN,
        nodes=tuple(map(node, NAMES[1:])),
        edges=(edge(NAMES[1], NAMES[2], -3.0, -4.0, -2.0), edge(NAMES[2], NAMES[3], 1.0, 0.0, 2.0)),
    )
    found = [one["influence"] for one in exported(chain).graph["nodes"]]
    assert found == pytest.approx([7 / 8, 4 / 8, 8 / 8])  # strengths 3, 4 and 1 of 8


def test_pins_groups_and_labels_are_taken_over() -> None:
    nodes = (
        node(NAMES[0], pinned=True),
        node(NAMES[1], group="cats", label="a cat"),
        node(NAMES[2], group="cats"),
        node(NAMES[3], pos=6),
    )
    graph = exported(replace(PLAIN, nodes=nodes)).graph
    assert graph["qParams"]["supernodes"] == [["cats", "1_resid_post_6_7", "2_7_7"]]
    assert graph["qParams"]["pinnedIds"] == ["1_mlp_out_5_7", "1_resid_post_6_7", "2_7_7"]
    assert [one["clerp"] for one in graph["nodes"]] == [
        "1.mlp_out.5 ␣cat",
        "a cat",
        "2.resid_post.7 ␣cat",
        "3.resid_post.8 ␣cat",
    ]
    assert graph["nodes"][3]["ctx_idx"] == 6
    assert len(graph["metadata"]["prompt_tokens"]) == 8


@pytest.mark.parametrize(
    ("sources", "scan", "source_set"),
    [
        (["1-res-jb", "2-res-jb"], "gpt2-small", "res-jb"),
        (["gpt2-small/1-res-jb", "gpt2-small/2-res-jb"], "gpt2-small", "res-jb"),
        (["1-res-jb", "2-att-kk"], "custom-gpt2-small", None),
        (["1-res-jb", "3-res-jb"], "custom-gpt2-small", None),  # under another layer than it reads
        (["1-res-jb", None], "custom-gpt2-small", None),
    ],
)
def test_features_that_neuronpedia_has_are_shown_from_there(sources: list, scan: str, source_set: str | None) -> None:
    saes = [SaeFacts(layer, "resid_post", "s", "x", source) for layer, source in zip((1, 2), sources, strict=True)]
    circuit = Circuit(replace(METADATA, saes=tuple(saes)), (node(NAMES[1]), node(NAMES[2])), (EDGES[2],))
    metadata = exported(circuit).graph["metadata"]
    assert metadata["scan"] == scan
    assert metadata.get("feature_details") == ({"neuronpedia_source_set": source_set} if source_set else None)


@pytest.mark.parametrize(
    ("run", "slug"),
    [
        ("gpt2-1234", "gpt2-1234"),
        ("../../etc", "etc"),
        ("graph-metadata", "circuit"),
        ("", "circuit"),
        ("é☃", "circuit"),
        ("a b", "a-b"),
    ],
)
def test_a_slug_is_a_file_s_name(run: str, slug: str) -> None:
    assert exported(replace(PLAIN, metadata=replace(METADATA, run=run))).slug == slug


def test_feature_json() -> None:
    made = exported(PLAIN)
    [found] = [f for f in made.features.values() if f["transcoder_id"] == "1.mlp_out"]
    assert found["top_logits"] == [" dog", "⏎"]
    assert found["bottom_logits"] == [" fish"]
    [example] = found["examples_quantiles"][0]["examples"]
    assert (example["tokens"], example["tokens_acts_list"], example["train_token_ind"]) == (
        [" the", " cat", "sat"],
        [0.0, 8.0, 2.0],
        1,
    )


@pytest.mark.parametrize(
    ("model", "source", "address"),
    [
        ("gpt2", "4-res-jb", "https://www.neuronpedia.org/gpt2-small/4-res-jb/112"),
        ("openai-community/gpt2", "4-res-jb", "https://www.neuronpedia.org/gpt2-small/4-res-jb/112"),
        (
            "google/gemma-2-2b",
            "gemma-2-2b/0-gemmascope-res-16k",
            "https://www.neuronpedia.org/gemma-2-2b/0-gemmascope-res-16k/112",
        ),
        ("gpt2", '"><script>', "https://www.neuronpedia.org/gpt2-small/%22%3E%3Cscript%3E/112"),
    ],
)
def test_addresses_of_features(model: str, source: str, address: str) -> None:
    assert page(model, source, 112) == address
