"""The attribution-graph JSON that Neuronpedia and circuit-tracer open, with one JSON a feature beside it.

What an attribution graph has of one prompt, a circuit has of means over contexts, so that:

- a link's weight is −effect, what the source adds to the target: positive where the source drives it;
- features that stand for no position share one column, over a token that says so;
- there are no logit nodes, as no one next token is predicted: `top_logits` and `bottom_logits` of a feature are the
  tokens that it promotes and suppresses;
- `influence` is cumulative: the share of all |effect| at nodes that this node and the stronger ones have.

The folder is what `circuit-tracer start-server --graph_file_dir` serves. SAEs that Neuronpedia has by one name for all
layers are shown by it from its own pages; of others circuit-tracer's page shows the features written here, which it
looks for where `transcoder_list` says if the scan's name begins with `custom-`.
"""

from __future__ import annotations

import datetime
import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from circuitcli.core.circuit import Circuit, Context, Node
from circuitcli.core.metadata import MEASURED
from circuitcli.core.neuronpedia import model_id
from circuitcli.core.tokens import visible
from circuitcli.renderers import _attribution_names as names
from circuitcli.renderers._text import TOKEN_LIMIT, readable

FOLDER = "neuronpedia"
FEATURES = "./data/features"  # as circuit-tracer's server names <graph_file_dir>/features
# Never one column alone: circuit-tracer's page would take every feature for one that fires everywhere, and hide it.
POSITION, BEHIND = " ·", " (mean over contexts)"
_MARKUP = str.maketrans({"<": "‹", ">": "›"})  # the viewers put some of the text into pages as it is


@dataclass(frozen=True)
class Neuronpedia:
    """`<slug>.json`, `graph-metadata.json`, and `features/<number>.json`."""

    def files(self, circuit: Circuit) -> dict[str, bytes]:
        numbers = names.numbers(circuit.nodes)
        graph = document(circuit, numbers)
        made = {f"{graph['metadata']['slug']}.json": graph, "graph-metadata.json": {"graphs": [graph["metadata"]]}}
        made |= {f"features/{numbers[node.id]}.json": feature(node) for node in circuit.nodes}
        return {f"{FOLDER}/{name}": _json(tree) for name, tree in made.items()}


plugin = Neuronpedia()


def _json(tree: Any) -> bytes:
    text = json.dumps(tree, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    return text.encode(errors="backslashreplace")  # half a character, which UTF-8 can't hold, as JSON escapes it


def document(circuit: Circuit, numbers: Mapping[str, int]) -> dict[str, Any]:
    """The graph."""
    ids, columns, influence = names.ids(circuit.nodes), names.columns(circuit.nodes), _influence(circuit)
    groups: dict[str, list[str]] = defaultdict(list)
    for node in circuit.nodes:
        if node.group:
            groups[_inert(node.group)].append(ids[node.id])
    pinned = [ids[node.id] for node in circuit.nodes if node.pinned or node.group]
    return {
        "metadata": _metadata(circuit),
        "qParams": {
            "pinnedIds": pinned,
            "supernodes": [[name, *members] for name, members in groups.items()],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": "",
        },
        "nodes": [
            {
                "node_id": ids[node.id],
                "feature": numbers[node.id],
                "layer": str(node.layer),
                "ctx_idx": columns[node.id],
                "feature_type": "cross layer transcoder",  # the one for which the viewers show features
                "jsNodeId": ids[node.id],
                "clerp": _name(node),
                "influence": influence[node.id],
                "activation": None,
            }
            for node in circuit.nodes
        ],
        "links": [
            {"source": ids[edge.source], "target": ids[edge.target], "weight": -edge.effect_mean}
            for edge in circuit.edges
            if edge.source in ids and edge.target in ids
        ],
    }


def _metadata(circuit: Circuit) -> dict[str, Any]:
    facts, source_set = circuit.metadata, _source_set(circuit)
    model = names.plain_name(model_id(facts.model), "model")
    told = facts.to_dict()
    settings = {n: told[n] for n in (*MEASURED, "num_sequences", "seed", "min_effect") if n in told}
    return {
        "slug": _slug(facts.run),
        "scan": model if source_set else f"custom-{model}",
        "transcoder_list": [FEATURES] * (1 + max((node.layer for node in circuit.nodes), default=0)),
        "prompt_tokens": [POSITION] * names.behind(circuit.nodes) + [BEHIND],
        "prompt": _inert(f"Feature circuit of {facts.model}, SAEs {facts.release}: means over contexts"),
        "schema_version": 1,
        "node_threshold": 1.0,
        "info": {
            "description": "Sparse feature circuit. A link's weight is the mean of clean − ablated activation, in SAE "
            "units of the target, over contexts where the source fires. Features are of SAEs.",
            "generator": {"name": "circuit", "version": facts.version},
            **_time(facts.created),
        },
        "generation_settings": settings,
        **({"feature_details": {"neuronpedia_source_set": source_set}} if source_set else {}),
    }


def _source_set(circuit: Circuit) -> str | None:
    """The set of sources that Neuronpedia has all features under, as `<layer>-<set>`; None if there isn't one."""
    sites = {(node.layer, node.site) for node in circuit.nodes}
    if len({layer for layer, _ in sites}) < len(sites):
        return None
    known = {(sae.layer, sae.site): sae.neuronpedia or "" for sae in circuit.metadata.saes}
    found = {re.fullmatch(rf"(?:[\w.-]+/)?{layer}-([\w.-]+)", known.get((layer, site), "")) for layer, site in sites}
    names = {match[1] if match else None for match in found}
    return names.pop() if len(names) == 1 else None


def _influence(circuit: Circuit) -> dict[str, float]:
    """Σ|effect| of a node's edges, as the share that it and all stronger nodes have; 1 for the weakest."""
    strength = dict.fromkeys((node.id for node in circuit.nodes), 0.0)
    for edge in circuit.edges:
        for end in (edge.source, edge.target):
            strength[end] = strength.get(end, 0.0) + abs(edge.effect_mean)
    order = sorted(strength, key=lambda name: (-strength[name], name))
    total = sum(strength.values())
    so_far = accumulate(strength[name] for name in order)
    return {name: min(1.0, part / total) if total else 1.0 for name, part in zip(order, so_far, strict=True)}


def _name(node: Node) -> str:
    """What the viewers write on a node: its label, else its name and the token that it fires on most."""
    if node.label:
        return _inert(node.label)
    token = node.contexts[0].tokens[node.contexts[0].firing] if node.contexts else None
    return _inert(node.id if token is None else f"{node.id} {visible(token, TOKEN_LIMIT)}")


def feature(node: Node) -> dict[str, Any]:
    """The JSON of one feature: its top contexts, and the tokens that it promotes and suppresses."""
    return {
        "transcoder_id": readable(f"{node.layer}.{node.site}"),
        "index": node.feature,
        "examples_quantiles": [
            {"quantile_name": "Top contexts", "examples": [_example(context) for context in node.contexts]}
        ],
        "top_logits": [readable(effect.token) for effect in node.promoted],
        "bottom_logits": [readable(effect.token) for effect in node.suppressed],
        "act_min": 0.0,
        "act_max": node.max_activation,
        "quantile_values": [],
        "histogram": [],
        "activation_frequency": node.density,
    }


def _example(context: Context) -> dict[str, Any]:
    return {
        "tokens": [readable(token) for token in context.tokens],
        "tokens_acts_list": list(context.activations),
        "train_token_ind": context.firing,
        "is_repeated_datapoint": False,
    }


def _inert(text: str) -> str:
    """Text that is no markup, wherever a page puts it."""
    return readable(text).translate(_MARKUP)


def _slug(run: str) -> str:
    """A file's name of a run's; not that of the list of graphs."""
    slug = names.plain_name(run, "circuit")
    return "circuit" if slug == "graph-metadata" else slug


def _time(created: str) -> dict[str, int]:
    """When the graph was drawn, in milliseconds, if its date can be read."""
    try:
        when = datetime.datetime.fromisoformat(created)
    except ValueError:
        return {}
    return {"create_time_ms": round(when.replace(tzinfo=when.tzinfo or datetime.UTC).timestamp() * 1000)}
