"""What tables of nodes and edges have, one row each: the columns of csv and the attributes of graphml."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from circuitcli.core.attributed import Attribution
from circuitcli.core.circuit import Circuit, Edge, Node
from circuitcli.core.metadata import Metadata
from circuitcli.renderers._text import context_text, readable, tokens_text

Cell = str | int | float | bool | None
Row = dict[str, Cell]


def _text(text: str | None) -> str | None:
    return readable(text) if text else None


# The context is the one where the feature fires most.
NODE: dict[str, Callable[[Node], Cell]] = {
    "id": lambda node: readable(node.id),
    "label": lambda node: _text(node.label),
    "group": lambda node: _text(node.group),
    "kind": lambda node: _text(node.kind),
    "layer": lambda node: node.layer,
    "site": lambda node: _text(node.site),
    "feature": lambda node: node.feature,
    "pos": lambda node: node.pos,
    "density": lambda node: node.density,
    "max_activation": lambda node: node.max_activation,
    "kl_mean": lambda node: node.kl_mean,
    "n": lambda node: node.n,
    "pinned": lambda node: node.pinned,
    "context": lambda node: context_text(node.contexts[0]) if node.contexts else None,
    "promoted": lambda node: tokens_text(node.promoted) or None,
    "suppressed": lambda node: tokens_text(node.suppressed) or None,
    "neuronpedia": lambda node: _text(node.neuronpedia),
    "run": lambda node: _text(node.run),
    "created": lambda node: _text(node.created),
    "change": lambda node: node.change,
}

# `weight` is |effect|: what layouts and centralities take for strength. `older` counts earlier measurements.
EDGE: dict[str, Callable[[Edge], Cell]] = {
    "source": lambda edge: readable(edge.source),
    "target": lambda edge: readable(edge.target),
    "weight": lambda edge: abs(edge.effect_mean),
    "effect_mean": lambda edge: edge.effect_mean,
    "ci_low": lambda edge: edge.ci_low,
    "ci_high": lambda edge: edge.ci_high,
    "n": lambda edge: edge.n,
    "older": lambda edge: len(edge.older),
    "run": lambda edge: _text(edge.run),
    "created": lambda edge: _text(edge.created),
    "change": lambda edge: edge.change,
}


def _asked(cell: Callable[[Attribution], Cell]) -> Callable[[Node], Cell]:
    return lambda node: None if node.attribution is None else cell(node.attribution)


# What circuits of prompts have besides. `effect` is replaced − clean, in the unit of the graph's `attribution_metric`.
NODE_OF_PROMPT: dict[str, Callable[[Node], Cell]] = {
    "token": _asked(lambda asked: _text(asked.token)),
    "token_id": _asked(lambda asked: asked.token_id),
    "activation": _asked(lambda asked: asked.activation),
    "replacement": _asked(lambda asked: asked.replacement),
    "effect": _asked(lambda asked: asked.effect),
    "method": _asked(lambda asked: asked.method),
    "estimate": _asked(lambda asked: asked.estimate),
    "influence": _asked(lambda asked: asked.influence),
    "prob": _asked(lambda asked: asked.prob),
}
EDGE_OF_PROMPT: dict[str, Callable[[Edge], Cell]] = {"method": lambda edge: edge.method}


# What circuits have whose discovery was repeated.
NODE_OF_REPEATS: dict[str, Callable[[Node], Cell]] = {"survival": lambda node: node.survival}
EDGE_OF_REPEATS: dict[str, Callable[[Edge], Cell]] = {"survival": lambda edge: edge.survival}

# What circuits have with features of transcoders, which read at `layer` and `site`.
NODE_ELSEWHERE: dict[str, Callable[[Node], Cell]] = {"writes": lambda node: readable(" ".join(node.writes)) or None}


def node_rows(circuit: Circuit) -> tuple[list[str], list[Row]]:
    """The names of the columns, and a row of cells by column for each node."""
    columns = NODE | NODE_OF_PROMPT if circuit.metadata.attribution else NODE
    columns = columns | NODE_OF_REPEATS if circuit.metadata.repeats else columns
    columns = columns | NODE_ELSEWHERE if any(node.writes for node in circuit.nodes) else columns
    return list(columns), [{name: cell(node) for name, cell in columns.items()} for node in circuit.nodes]


def edge_rows(circuit: Circuit) -> tuple[list[str], list[Row]]:
    """The same of edges."""
    columns = EDGE | EDGE_OF_PROMPT if circuit.metadata.attribution else EDGE
    columns = columns | EDGE_OF_REPEATS if circuit.metadata.repeats else columns
    return list(columns), [{name: cell(edge) for name, cell in columns.items()} for edge in circuit.edges]


def facts(metadata: Metadata) -> Row:
    """What can be said of the whole graph in one cell each; what was asked of a prompt as `attribution_metric` etc."""
    question = asdict(metadata.attribution) if metadata.attribution else {}
    told = metadata.to_dict() | {f"attribution_{name}": fact for name, fact in question.items()}
    return {
        name: readable(fact) if isinstance(fact, str) else fact
        for name, fact in told.items()
        if isinstance(fact, (str, int, float))
    }
