"""CSV: nodes.csv and edges.csv, for spreadsheets, pandas, Gephi and Cytoscape.

A text that a spreadsheet would take for a formula gets a ' in front (OWASP, CSV injection); numbers stay numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from circuitcli.core.circuit import Circuit
from circuitcli.renderers._columns import Cell, Row, edge_rows, node_rows

# What makes a formula of a cell, also in its full width.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


@dataclass(frozen=True)
class Csv:
    """Two tables with a line of names, UTF-8; what isn't known is empty."""

    def files(self, circuit: Circuit) -> dict[str, bytes]:
        return {"nodes.csv": _table(*node_rows(circuit)), "edges.csv": _table(*edge_rows(circuit))}


plugin = Csv()


def _table(names: Sequence[str], rows: Sequence[Row]) -> bytes:
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
