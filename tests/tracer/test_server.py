"""An exported graph in circuit-tracer's hands: its own pydantic models, and its local server's data endpoints.

Run by `nox -s circuit_tracer` alone: its dependencies are older than ours.
"""

import json
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from circuit_tracer.frontend import feature_models, graph_models, local_server

sys.path.insert(0, str(Path(__file__).parents[1]))  # without conftest nobody does it

from hypothesis import given, settings
from support import prompts
from support.circuits import ASKED, PLAIN, circuits, hostile

from circuitcli import plugins
from circuitcli.core.circuit import Circuit

Get = Callable[[str], Any]


ALL = {
    "plain": PLAIN,
    "hostile": hostile(),
    "prompt": ASKED,
    "many": prompts.prompt(200, 30, groups=4),
    "summed": prompts.summed(),
    "several targets": prompts.several(),
    "hostile prompt": prompts.hostile(),
    "transcoders": prompts.replaced(across=False),
    "cross-layer transcoder": prompts.replaced(across=True),
}


@pytest.fixture(scope="module", params=ALL.values(), ids=ALL)
def circuit(request: pytest.FixtureRequest) -> Circuit:
    return request.param


def export(circuit: Circuit) -> dict[str, bytes]:
    made = plugins.load("renderers", "neuronpedia").files(circuit)
    return {name.removeprefix("neuronpedia/"): data for name, data in made.items()}


@pytest.fixture(scope="module")
def get(circuit: Circuit, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Get]:
    """Asks circuit-tracer's server, which serves the folder that was written, for JSON."""
    root = tmp_path_factory.mktemp("graph") / "neuronpedia"
    for name, data in export(circuit).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = local_server.serve(str(root), port=port)

    def ask(path: str) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "application/json"
            return json.loads(answer.read())

    yield ask
    running.stop()


def test_its_page_finds_the_graph_and_every_feature(get: Get, circuit: Circuit) -> None:
    """The requests of its page, one after another: the list, the graph, and each node's feature."""
    [listed] = get("/data/graph-metadata.json")["graphs"]
    graph = get(f"/graph_data/{listed['slug']}.json")
    assert graph["metadata"] == listed
    model = graph_models.Model.model_validate(graph, strict=True)
    assert len(model.nodes) == len(circuit.nodes)
    assert len(model.links) == len(circuit.edges)
    for node, drawn in zip(circuit.nodes, model.nodes, strict=True):
        if drawn.feature_type != "cross layer transcoder":
            assert node.kind != "feature"
            continue
        assert model.metadata.scan.startswith("custom-")
        scan = model.metadata.transcoder_list[int(drawn.layer)]
        feature = get(f"{scan.removeprefix('.')}/{drawn.feature}.json")
        found = feature_models.Model.model_validate(feature, strict=True)
        assert found.index == node.feature
        assert found.activation_frequency == node.density


def test_its_server_has_nothing_else(get: Get) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get("/data/features/none.json")


def test_its_own_names_are_ours() -> None:
    """Where a layer has one site, a node is named and numbered as circuit-tracer would do it."""
    graph = json.loads(next(iter(export(PLAIN).values())))
    for node, drawn in list(zip(PLAIN.nodes, graph["nodes"], strict=True))[2:]:
        theirs = graph_models.Node.feature_node(node.layer, drawn["ctx_idx"], node.feature)
        assert (theirs.node_id, theirs.feature, theirs.layer) == (drawn["node_id"], drawn["feature"], drawn["layer"])
        assert theirs.feature_type == drawn["feature_type"]


def test_its_own_names_of_a_prompt_are_ours() -> None:
    """All but errors: circuit-tracer calls them 0_layer_position, Neuronpedia layer_-1_position."""
    graph = json.loads(next(iter(export(ASKED).values())))
    theirs = [
        graph_models.Node.token_node(5, 7, influence=0.3),
        graph_models.Node.token_node(6, 7, influence=0.5),
        graph_models.Node.feature_node(1, 5, 6, influence=0.4, activation=2.5),
        graph_models.Node.error_node(1, 6, influence=0.8),
        graph_models.Node.feature_node(2, 7, 7, influence=0.2, activation=2.5),
        graph_models.Node.feature_node(2, 7, 9, influence=0.7, activation=2.5),
        graph_models.Node.logit_node(7, 7, " heavens", 4, target_logit=True, token_prob=0.4966),
    ]
    same = ("node_id", "feature", "layer", "ctx_idx", "feature_type", "activation", "is_target_logit", "token_prob")
    for node, own in zip(graph["nodes"], theirs, strict=True):
        found = graph_models.Node.model_validate(node, strict=True)
        names = [name for name in same if not (name == "node_id" and own.feature_type == "mlp reconstruction error")]
        assert {name: getattr(found, name) for name in names} == {name: getattr(own, name) for name in names}
        assert found.clerp == own.clerp or not own.clerp
        assert own.influence in (None, found.influence)


def test_several_targets_are_its_logits() -> None:
    """The likeliest is the one that it marks, as it marks its first."""
    graph = json.loads(next(iter(export(prompts.several()).values())))
    logits = [node for node in graph["nodes"] if node["feature_type"] == "logit"]
    said = [(" heavens", 7, 0.5), (" earth", 12, 0.25), (" man", 3, 0.125)]
    same = ("node_id", "feature", "layer", "ctx_idx", "is_target_logit", "token_prob", "clerp")
    for i, (node, (token, number, prob)) in enumerate(zip(logits, said, strict=True)):
        own = graph_models.Node.logit_node(7, number, token, 4, target_logit=i == 0, token_prob=prob)
        found = graph_models.Node.model_validate(node, strict=True)
        assert {name: getattr(found, name) for name in same} == {name: getattr(own, name) for name in same}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(circuits())
def test_any_circuit_is_valid(circuit: Circuit) -> None:
    graph, _, *features = export(circuit).values()
    graph_models.Model.model_validate_json(graph, strict=True)
    for feature in features:
        feature_models.Model.model_validate_json(feature, strict=True)


@pytest.mark.parametrize("across", [False, True])
def test_features_of_a_replacement_model_are_at_the_layer_that_they_read(across: bool) -> None:
    """As circuit-tracer has them: of a cross-layer transcoder too; and an error is its layer's MLP's."""
    circuit = prompts.replaced(across=across)
    graph = graph_models.Model.model_validate_json(next(iter(export(circuit).values())), strict=True)
    for node, drawn in zip(circuit.nodes, graph.nodes, strict=True):
        if node.kind == "feature":
            theirs = graph_models.Node.feature_node(node.layer, node.pos, node.feature)
            assert (drawn.node_id, drawn.layer, drawn.feature) == (theirs.node_id, theirs.layer, theirs.feature)
        elif node.kind == "error":
            theirs = graph_models.Node.error_node(node.layer, node.pos)
            assert (drawn.layer, drawn.feature_type) == (theirs.layer, theirs.feature_type)
