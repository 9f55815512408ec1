"""CSV: nodes.csv and edges.csv, for spreadsheets, pandas, Gephi and Cytoscape.

A text that a spreadsheet would take for a formula gets a ' in front (OWASP, CSV injection); numbers stay numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass

from circuitcli.core.circuit import Circuit
from circuitcli.renderers._columns import EDGE, NODE, Cell, Row, edge_row, node_row

# What makes a formula of a cell, also in its full width.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


@dataclass(frozen=True)
class Csv:
    """Two tables with a line of names, UTF-8; what isn't known is empty."""

    def files(self, circuit: Circuit) -> dict[str, bytes]:
        return {
            "nodes.csv": _table(NODE, map(node_row, circuit.nodes)),
            "edges.csv": _table(EDGE, map(edge_row, circuit.edges)),
        }


plugin = Csv()


def _table(names: Iterable[str], rows: Iterable[Row]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(names)
    writer.writerows([safe(cell) for cell in row.values()] for row in rows)
    return text.getvalue().encode()


def safe(cell: Cell) -> str | int | float:
    """A cell as csv takes it; a text that a spreadsheet would compute has a ' in front."""
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, str):
        return f"'{cell}" if cell.startswith(_FORMULA) else cell
    return "" if cell is None else cell
