"""GraphML: for Gephi, Cytoscape, networkx and igraph. Attributes have names and types; what isn't known is left out."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass

from circuitcli.core.circuit import Circuit
from circuitcli.renderers._columns import Row, edge_rows, facts, node_rows

_NAMESPACE = "http://graphml.graphdrawing.org/xmlns"
_TYPES = {bool: "boolean", int: "long", float: "double", str: "string"}
_OWN = ("id", "source", "target")  # what the elements themselves say


@dataclass(frozen=True)
class Graphml:
    """One directed graph, UTF-8."""

    def files(self, circuit: Circuit) -> dict[str, bytes]:
        root = ET.Element("graphml", xmlns=_NAMESPACE)
        told, (_, nodes), (_, edges) = facts(circuit.metadata), node_rows(circuit), edge_rows(circuit)
        _declare(root, "graph", [told])
        _declare(root, "node", nodes)
        _declare(root, "edge", edges)
        graph = ET.SubElement(root, "graph", edgedefault="directed")
        _fill(graph, "graph", told)
        for row in nodes:
            _fill(ET.SubElement(graph, "node", id=str(row["id"])), "node", row)
        for row in edges:
            _fill(ET.SubElement(graph, "edge", source=str(row["source"]), target=str(row["target"])), "edge", row)
        ET.indent(root, " ")
        return {"circuit.graphml": bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"}


plugin = Graphml()


def _declare(root: ET.Element, what: str, rows: Sequence[Row]) -> None:
    """The name and type of each attribute that any row has."""
    types = {name: _TYPES[type(cell)] for row in reversed(rows) for name, cell in row.items() if cell is not None}
    for name in dict.fromkeys(name for row in rows for name in row if name in types and name not in _OWN):
        key = {"id": f"{what}_{name}", "for": what, "attr.name": name, "attr.type": types[name]}
        ET.SubElement(root, "key", key)


def _fill(element: ET.Element, what: str, row: Row) -> None:
    for name, cell in row.items():
        if cell is not None and name not in _OWN:
            data = ET.SubElement(element, "data", key=f"{what}_{name}")
            data.text = str(cell).lower() if isinstance(cell, bool) else str(cell)
