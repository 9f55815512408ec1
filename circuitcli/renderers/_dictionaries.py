"""What pictures and exports say of the dictionaries that features are of: their kind, and where they read and write."""

from __future__ import annotations

from circuitcli.core.circuit import Circuit, Node
from circuitcli.core.sites import span
from circuitcli.core.words import dictionaries
from circuitcli.renderers._html import words


def noun(circuit: Circuit) -> str:
    """What those are called that have drawn features; see `core.words.dictionaries`."""
    return dictionaries([node.writes for node in circuit.nodes if node.kind == "feature"])


def where(node: Node) -> str:
    """`reads 4.mlp_in, writes 4.mlp_out … 7.mlp_out`; empty of what writes where it reads."""
    return f"reads {words(f'{node.layer}.{node.site}')}, writes {words(span(node.writes))}" if node.writes else ""


def next_alone(circuit: Circuit) -> str:
    """What a graph of mean effects doesn't show of features that write several layers; empty of other graphs."""
    if circuit.metadata.attribution is not None or not _several(circuit):
        return ""
    return "features write later layers too: effects are read up to the next chosen layer"


def _several(circuit: Circuit) -> bool:
    return any(len(node.writes) > 1 for node in circuit.nodes)
