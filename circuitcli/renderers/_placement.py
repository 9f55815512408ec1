"""Where boxes stand on the page: sites from bottom to top, boxes from left to right.

Where nodes have positions, each position is a column. Else Graphviz places them so that few arrows cross; rows that
would be too wide to read go on in lines above, in Graphviz's order.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from circuitcli.core.circuit import Circuit, Edge
from circuitcli.renderers._ranks import Ranks, model_order, ranks
from circuitcli.runtime.layout import coordinates

ACROSS, BETWEEN_LINES = 36, 48  # points between boxes, and between the lines of a broken row
UP, UP_MOST = 110, 600  # between rows: the wider the page the more, so that arrows aren't flat
WIDEST = 12  # boxes in a row that isn't broken
PAGE = 1.6  # width over height
GUIDES = 2  # strongest arrows into and out of a box that Graphviz sees, where there are more than MANY
MANY = 1000
BARE = (240, 44)  # the size of a box of which nothing but the name is known
UNKNOWN = "no facts"


class Heading(NamedTuple):
    """The name of a row or column, and where its middle is."""

    text: str
    at: float


class Box(NamedTuple):
    """Centre and size; y grows downwards."""

    x: float
    y: float
    width: float
    height: float


class Tick(NamedTuple):
    """A position of a prompt on the axis below: its token, its number, and the middle and the width of its column."""

    token: str
    pos: int
    at: float
    width: float


class Placement(NamedTuple):
    """All boxes by the names of their nodes, the rows from bottom to top, the columns and the axis if there are any."""

    boxes: dict[str, Box]
    rows: list[Heading]
    columns: list[Heading]
    axis: Sequence[Tick] = ()


class Row(NamedTuple):
    """The boxes of a site, or of another kind, by the names of their nodes."""

    name: str
    members: list[str]


Sizes = dict[str, tuple[int, int]]


def placement(circuit: Circuit) -> Placement:
    """A place for every node, and for every end of an edge that is no node."""
    nodes = sorted(circuit.nodes, key=model_order)
    drawn = ranks(nodes, numbers=False)  # cards have them
    sizes = _sizes(drawn)
    rows = [Row(name, [node.id for node, _ in members]) for name, members in drawn.items()]
    add_unknown(circuit, rows, sizes)
    if any(node.pos is not None for node in nodes):
        return _in_columns(rows, sizes, {node.id: node.pos for node in nodes})
    return in_rows(rows, sizes, circuit)


def add_unknown(circuit: Circuit, rows: list[Row], sizes: Sizes) -> None:
    """A row of its own, below all, for ends of edges that are no nodes."""
    unknown = sorted({end for edge in circuit.edges for end in (edge.source, edge.target)} - set(sizes))
    if unknown:
        rows.insert(0, Row(UNKNOWN, unknown))
        sizes |= dict.fromkeys(unknown, BARE)


def in_rows(rows: Sequence[Row], sizes: Sizes, circuit: Circuit) -> Placement:
    """Rows in Graphviz's order, broken into lines where they would be too wide."""
    at = _in_rows(rows, sizes, circuit)
    ordered = [Row(row.name, sorted(row.members, key=lambda name: at[name])) for row in rows]
    if max((len(row.members) for row in rows), default=0) > WIDEST:
        return _in_lines(ordered, sizes)
    boxes = {name: Box(x, -y, *sizes[name]) for name, (x, y) in at.items()}
    return Placement(boxes, [Heading(row.name, boxes[row.members[0]].y) for row in ordered], [])


def _sizes(drawn: Ranks) -> Sizes:
    return {node.id: (box.width, box.height) for members in drawn.values() for node, box in members}


def _in_rows(rows: Sequence[Row], sizes: Sizes, circuit: Circuit) -> dict[str, tuple[float, float]]:
    """Where Graphviz puts the boxes. It knows them by numbers, so that no name needs escaping."""
    names = [name for row in rows for name in row.members]
    number = {name: i for i, name in enumerate(names)}
    gaps = f"ranksep={_up(rows, sizes) / 72:.2f}, nodesep={ACROSS / 72:.2f}"
    lines = [
        f"digraph {{ graph [rankdir=BT, splines=false, {gaps}];",
        '  node [shape=box, fixedsize=true, label=""];',
    ]
    for rank, row in enumerate(rows):
        lines.append(f"  {{ rank=same; head{rank} [width=0.01, height=0.01];")
        for name in row.members:
            width, height = sizes[name]
            lines.append(f"    {number[name]} [width={width / 72:.3f}, height={height / 72:.3f}];")
        lines.append("  }")
    lines += [f"  head{i} -> head{i + 1} [weight=1000];" for i in range(len(rows) - 1)]
    lines += [f"  {number[edge.source]} -> {number[edge.target]};" for edge in _guides(circuit.edges)]
    found = coordinates("\n".join([*lines, "}"]))
    return {name: found[str(i)] for i, name in enumerate(names)}


def _up(rows: Sequence[Row], sizes: Sizes) -> float:
    """Points between rows that make the page about 16:10."""
    wide = max((sum(sizes[name][0] + ACROSS for name in row.members) for row in rows), default=0)
    high = sum(max(sizes[name][1] for name in row.members) for row in rows)
    return min(UP_MOST, max(UP, (wide / PAGE - high) / max(1, len(rows) - 1)))


def _guides(edges: Sequence[Edge]) -> list[Edge]:
    """The arrows that decide the order: all, or of very many the strongest into and out of each box."""
    strongest = sorted(edges, key=lambda e: (-abs(e.effect_mean), e.source, e.target))
    if len(strongest) <= MANY:
        return strongest
    used: Counter[tuple[str, str]] = Counter()
    guides = []
    for edge in strongest:
        out, into = ("out", edge.source), ("into", edge.target)
        if used[out] < GUIDES or used[into] < GUIDES:
            guides.append(edge)
            used.update((out, into))
    return guides


def _in_lines(rows: Sequence[Row], sizes: Sizes) -> Placement:
    """Rows broken into lines, each column of lines filled from the bottom, so that the page is about 16:10.

    Boxes stand one above the other, so that arrows pass between them; see `_page/route.js`.
    """
    width, height = (max(size[i] for size in sizes.values()) + gap for i, gap in ((0, ACROSS), (1, BETWEEN_LINES)))
    columns = max(1, math.ceil(math.sqrt(PAGE * len(sizes) * height / width)))
    boxes, headings, floor = {}, [], 0.0
    for row in rows:
        lines = math.ceil(len(row.members) / columns)
        used = math.ceil(len(row.members) / lines)
        for i, name in enumerate(row.members):
            across, up = i // lines - used / 2, i % lines
            boxes[name] = Box(across * width, floor - up * height, *sizes[name])
        headings.append(Heading(row.name, floor - (lines - 1) * height / 2))
        floor -= lines * height + UP
    return Placement(boxes, headings, [])


def _in_columns(rows: Sequence[Row], sizes: Sizes, position: dict[str, int | None]) -> Placement:
    """A column for each position, as wide as its fullest row; features of no position come first."""
    cells: dict[int | None, dict[str, list[str]]] = {}
    for row in rows:
        for name in row.members:
            cells.setdefault(position.get(name), {}).setdefault(row.name, []).append(name)
    width = max(size[0] for size in sizes.values()) + ACROSS
    boxes, columns, left = {}, [], 0.0
    at = _levels(rows, sizes)
    for pos in sorted(cells, key=lambda p: -1 if p is None else p):
        across = max(len(names) for names in cells[pos].values()) * width
        columns.append(Heading("no position" if pos is None else f"position {pos}", left + across / 2))
        for row_name, names in cells[pos].items():
            first = left + (across - len(names) * width) / 2
            for i, name in enumerate(names):
                boxes[name] = Box(first + (i + 0.5) * width, at[row_name], *sizes[name])
        left += across + ACROSS
    return Placement(boxes, [Heading(row.name, at[row.name]) for row in rows], columns)


def _levels(rows: Sequence[Row], sizes: Sizes) -> dict[str, float]:
    """The middle of each row, one above the other."""
    at, floor, gap = {}, 0.0, _up(rows, sizes)
    for row in rows:
        height = max(sizes[name][1] for name in row.members)
        at[row.name] = floor - height / 2
        floor -= height + gap
    return at
