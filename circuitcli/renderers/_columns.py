"""What tables of nodes and edges have, one row each: the columns of csv and the attributes of graphml."""

from __future__ import annotations

from collections.abc import Callable

from circuitcli.core.circuit import Edge, Node
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


def node_row(node: Node) -> Row:
    """A node's cells by column."""
    return {name: cell(node) for name, cell in NODE.items()}


def edge_row(edge: Edge) -> Row:
    """An edge's cells by column."""
    return {name: cell(edge) for name, cell in EDGE.items()}
