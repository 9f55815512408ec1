"""The attribution-graph JSON that Neuronpedia and circuit-tracer open, with one JSON a feature beside it.

A circuit of a prompt is such a graph: nodes at their positions, tokens below, the target on top. What it has of one
prompt, a circuit of mean effects has of means over contexts, so that there:

- features that stand for no position share one column, over a token that says so;
- there are no logit nodes, as no one next token is predicted: `top_logits` and `bottom_logits` of a feature are the
  tokens that it promotes and suppresses;
- `influence` is cumulative: the share of all |effect| at nodes that this node and the stronger ones have.

In both a link's weight is −effect, what the source adds to the target, or through it to the metric: positive where the
source drives it.

The folder is what `circuit-tracer start-server --graph_file_dir` serves. SAEs that Neuronpedia has by one name for all
layers are shown by it from its own pages; of others circuit-tracer's page shows the features written here, which it
looks for where `transcoder_list` says if the scan's name begins with `custom-`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from circuitcli.core.circuit import Circuit
from circuitcli.renderers import _attribution_names as names
from circuitcli.renderers._attribution_facts import metadata
from circuitcli.renderers._attribution_nodes import entry, feature, inert

FOLDER = "neuronpedia"


@dataclass(frozen=True)
class Neuronpedia:
    """`<slug>.json`, `graph-metadata.json`, and `features/<number>.json`."""

    def files(self, circuit: Circuit) -> dict[str, bytes]:
        numbers = names.numbers(circuit)
        graph = document(circuit, numbers)
        made = {f"{graph['metadata']['slug']}.json": graph, "graph-metadata.json": {"graphs": [graph["metadata"]]}}
        made |= {f"features/{numbers[node.id]}.json": feature(node) for node in names.features(circuit)}
        return {f"{FOLDER}/{name}": _json(tree) for name, tree in made.items()}


plugin = Neuronpedia()


def _json(tree: Any) -> bytes:
    text = json.dumps(tree, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    return text.encode(errors="backslashreplace")  # half a character, which UTF-8 can't hold, as JSON escapes it


def document(circuit: Circuit, numbers: Mapping[str, int]) -> dict[str, Any]:
    """The graph."""
    ids, columns, influence = names.ids(circuit), names.columns(circuit), _influence(circuit)
    groups: dict[str, list[str]] = defaultdict(list)
    for node in circuit.nodes:
        if node.group:
            groups[inert(node.group)].append(ids[node.id])
    pinned = [ids[node.id] for node in circuit.nodes if node.pinned or node.group]
    likeliest = names.likeliest(circuit)
    return {
        "metadata": metadata(circuit),
        "qParams": {
            "pinnedIds": pinned,
            "supernodes": [[name, *members] for name, members in groups.items()],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": [
            entry(
                node,
                ids[node.id],
                numbers[node.id],
                columns[node.id],
                influence[node.id],
                likeliest=node.id == likeliest,
            )
            for node in circuit.nodes
        ],
        "links": [
            {"source": ids[edge.source], "target": ids[edge.target], "weight": -edge.effect_mean}
            for edge in circuit.edges
            if edge.source in ids and edge.target in ids
        ],
    }


def _influence(circuit: Circuit) -> dict[str, float]:
    """A node's own, of a circuit of a prompt; else Σ|effect| of its edges, as the share of it and all stronger."""
    asked = {node.id: min(1.0, max(0.0, node.attribution.influence)) for node in circuit.nodes if node.attribution}
    if asked:
        return asked
    strength = dict.fromkeys((node.id for node in circuit.nodes), 0.0)
    for edge in circuit.edges:
        for end in (edge.source, edge.target):
            strength[end] = strength.get(end, 0.0) + abs(edge.effect_mean)
    order = sorted(strength, key=lambda name: (-strength[name], name))
    total = sum(strength.values())
    so_far = accumulate(strength[name] for name in order)
    return {name: min(1.0, part / total) if total else 1.0 for name, part in zip(order, so_far, strict=True)}
