"""Where boxes of a circuit of a prompt stand on the page: the prompt's tokens are the axis, layers go up.

Each position is a column, wide where it has nodes and narrow where it has none; tokens are at the bottom, and on top of
the last one the target, or several, the likeliest first. What is at one site and position stands side by side, or, of
many, in lines; these are on one level over the whole row, so that arrows find their way between them. Where nodes stand
for all positions there are rows alone, as in circuits of mean effects.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from circuitcli.core.attributed import Question
from circuitcli.core.circuit import Circuit, Node
from circuitcli.core.tokens import visible
from circuitcli.renderers._html import width
from circuitcli.renderers._placement import PAGE, Box, Heading, Placement, Row, Sizes, Tick, add_unknown, in_rows
from circuitcli.renderers._ranks import model_order

SIZE = (152, 62)  # of a box, points: three lines of text
TOKEN_LEAST = 86  # the width of a token's box: its effect takes as much
ACROSS, LINE = 26, 26  # between boxes of a cell, and its lines
BETWEEN = 34  # columns
UP, UP_MOST = 52, 600  # between rows: the wider the page the more, so that arrows aren't flat
ABREAST = 4  # boxes of a cell that stand side by side; of more some are in further lines
NARROW = (56, 120)  # a column without nodes, by its token
TOKEN_SIZE, TOKEN_LIMIT = 13, 40
ENDS = {"token": -1, "target": 1}  # below and above all layers
HEADINGS = {"token": "tokens", "target": "target"}

_Cells = dict[int, list[str]]  # the names of a row's boxes by position


def placement(circuit: Circuit, asked: Question) -> Placement:
    """A place for every node, and for every end of an edge that is no node."""
    nodes = sorted(circuit.nodes, key=_order)
    rows = [Row(name, members) for name, members in _rows(nodes).items()]
    sizes: Sizes = {node.id: _size(node) for node in nodes}
    add_unknown(circuit, rows, sizes)
    found = {node.id: node.pos for node in nodes if node.pos is not None}
    if not found:
        return in_rows(rows, sizes, circuit)
    last = max(max(found.values()), len(asked.tokens) - 1)  # what has no position answers for the whole prompt
    return _on_axis(rows, sizes, {name: found.get(name, last) for name in sizes}, asked.tokens)


def _size(node: Node) -> tuple[int, int]:
    """Tokens, of which there is one at each position, are no wider than they must be."""
    if node.kind != "token" or node.attribution is None:
        return SIZE
    text = visible(node.attribution.token, TOKEN_LIMIT)
    return min(SIZE[0], max(TOKEN_LEAST, width(text, TOKEN_SIZE, bold=True) + 14)), SIZE[1]


def _order(node: Node) -> tuple[int, tuple[int, int, str, int], float]:
    """By layer and site, and within these the most influential first, errors last."""
    layer, site, name, feature = model_order(node)
    influence = node.attribution.influence if node.attribution is not None else math.inf
    return ENDS.get(node.kind, 0), (layer, site, name, int(node.kind == "error")), influence + 1e-9 * feature


def _rows(nodes: Sequence[Node]) -> dict[str, list[str]]:
    rows: dict[str, list[str]] = defaultdict(list)
    for node in nodes:
        rows[HEADINGS.get(node.kind, f"{node.layer} {node.site}")].append(node.id)
    several = len(rows.get(HEADINGS["target"], ())) > 1
    return {f"{name}s" if several and name == HEADINGS["target"] else name: row for name, row in rows.items()}


def _on_axis(rows: Sequence[Row], sizes: Sizes, position: dict[str, int], tokens: Sequence[str]) -> Placement:
    high = max(size[1] for size in sizes.values())
    cells: list[_Cells] = []
    for row in rows:
        cells.append(defaultdict(list))
        for name in row.members:
            cells[-1][position[name]].append(name)
    axis = _axis(cells, sizes, tokens)
    levels = _levels(cells, high, sum(tick.width for tick in axis))
    middle = {tick.pos: tick.at for tick in axis}
    boxes = {}
    for floor, cell in zip(levels, cells, strict=True):
        for pos, members in cell.items():
            abreast, step = _abreast(len(members)), _step(members, sizes)
            for i, name in enumerate(members):
                line, place = divmod(i, abreast)
                beside = min(abreast, len(members) - line * abreast)
                x = middle[pos] + (place - (beside - 1) / 2) * step
                boxes[name] = Box(x, floor - high / 2 - line * (high + LINE), *sizes[name])
    middles = (floor - _height(cell, high) / 2 for floor, cell in zip(levels, cells, strict=True))
    return Placement(boxes, [Heading(row.name, at) for row, at in zip(rows, middles, strict=True)], [], axis)


def _axis(cells: Sequence[_Cells], sizes: Sizes, tokens: Sequence[str]) -> list[Tick]:
    """All positions of the prompt from left to right, and those beyond it that nodes have."""
    wide: dict[int, int] = defaultdict(int)
    for row in cells:
        for pos, members in row.items():
            wide[pos] = max(wide[pos], _abreast(len(members)) * _step(members, sizes) - ACROSS + BETWEEN)
    axis, left = [], 0.0
    for pos in sorted({*range(len(tokens)), *wide}):
        token = visible(tokens[pos], TOKEN_LIMIT) if pos < len(tokens) else ""
        across = wide.get(pos) or min(NARROW[1], max(NARROW[0], width(token, TOKEN_SIZE) + 12))
        axis.append(Tick(token, pos, left + across / 2, across))
        left += across
    return axis


def _abreast(count: int) -> int:
    """How many of so many boxes of a cell stand side by side: as many as make a block of the page's shape."""
    return count if count <= ABREAST else math.ceil(math.sqrt(count * PAGE * SIZE[1] / SIZE[0]))


def _step(members: Sequence[str], sizes: Sizes) -> int:
    """From the middle of a box of a cell to that of the next one."""
    return max(sizes[name][0] for name in members) + ACROSS


def _height(row: _Cells, high: int) -> int:
    lines = max(math.ceil(len(members) / _abreast(len(members))) for members in row.values())
    return lines * (high + LINE) - LINE


def _levels(cells: Sequence[_Cells], high: int, across: float) -> list[int]:
    """The floor of each row, one above the other; y grows downwards."""
    heights = [_height(row, high) for row in cells]
    gap = round(min(UP_MOST, max(UP, (across / PAGE - sum(heights)) / max(1, len(heights) - 1))))
    floors, floor = [], 0
    for height in heights:
        floors.append(floor)
        floor -= height + gap
    return floors
