"""Where everything on a slide stands: boxes in the largest font in which they fit, the axis below, headings of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from circuitcli.core.sites import SITES
from circuitcli.core.words import amount
from circuitcli.renderers import _slide_axis, _slide_box
from circuitcli.renderers._html import words
from circuitcli.renderers._slide_axis import Stretch
from circuitcli.renderers._slide_box import Look
from circuitcli.renderers._slide_grid import Column, Grid, Item, Room, Site, Sites, Size, Strip, grid
from circuitcli.renderers._slide_parts import Part, by_strength

SIZES = (18, 17, 16, 15, 14, 13, 12)  # of the font of boxes; the page is 720 high
SMALLEST = SIZES[-1]
HEADINGS = 92  # points on the left
BESIDE, ABOVE, APART = 10, 10, 20  # least points between boxes, and between rows
AXIS = 22  # points below the tokens, for the numbers of positions
BOTTOM, TOP = (-1, 0, "token"), (2**20, 0, "target")

Point = tuple[float, float]


class Plan(NamedTuple):
    """Centres, in points from the lower left corner of the plot; headings of rows with their heights; the axis.

    `heads` are positions with columns and their middles, `stretches` what stands between them, both at the height
    `axis`.
    """

    look: Look
    boxes: dict[str, Point]
    rows: list[tuple[str, float]]
    heads: list[tuple[int, float]]
    stretches: list[tuple[Stretch, float]]
    axis: float
    width: float
    height: float


def plan(tokens: Sequence[str], parts: Sequence[Part], room: Room, sizes: Sequence[int] = SIZES) -> Plan | None:
    """With the first of the sizes in which the parts fit over the tokens of a prompt; None if none does."""
    columns = {_column(part, tokens) for part in parts}
    axis = _slide_axis.axis(tokens, columns, room.width) if tokens or columns - {None} else [None]
    left = Room(room.width - HEADINGS, room.height - (AXIS if tokens else 0))
    alone = {TOP: 0.0, BOTTOM: _slide_axis.height(axis) if tokens else 0.0}
    for size in sizes:
        look = _slide_box.look(parts, size)
        items = [
            Item(part.id, _site(part), _column(part, tokens), *_slide_box.extent(part, look))
            for part in _upwards(parts)
        ]
        strips = [_strip(part, items, tokens) for part in axis]
        found = grid(items, strips, Size(look.width, BESIDE, ABOVE, APART), left, alone)
        if found is not None:
            return _placed(found, look, axis, room, AXIS if tokens else 0)
    return None


def _upwards(parts: Sequence[Part]) -> list[Part]:
    """In the order in which they are placed, from the lowest; of one site the strongest first."""
    return sorted(parts, key=lambda part: (_site(part), by_strength(part)))


def _site(part: Part) -> Site:
    node = part.first
    if node.kind in ("token", "target"):
        return BOTTOM if node.kind == "token" else TOP
    return (node.layer, SITES.index(node.site) if node.site in SITES else len(SITES), node.site)


def _column(part: Part, tokens: Sequence[str]) -> Column:
    """A target's is the last."""
    last = len(tokens) - 1 if tokens else None
    return last if part.first.kind == "target" and part.first.pos is None else part.first.pos


def _strip(part: Stretch | Column, items: Sequence[Item], tokens: Sequence[str]) -> Strip:
    """A column is at least as wide as what stands at its foot."""
    if isinstance(part, Stretch):
        return Strip(None, part.width + BESIDE, between=True)
    boxes = [item.width for item in items if item.column == part and item.site == BOTTOM]
    head = _slide_axis.head(tokens, part).width if part is not None else 0
    return Strip(part, max([head, *boxes]) + BESIDE)


def _placed(found: Grid, look: Look, axis: Sequence[Stretch | Column], room: Room, below: float) -> Plan:
    gap = (room.height - below - sum(map(found.high, range(len(found.rows))))) / max(1, len(found.rows) - 1)
    boxes: dict[str, Point] = {}
    rows, floor = [], below
    for i, (sites, lines) in enumerate(zip(found.rows, found.lines, strict=True)):
        bottom = floor + (found.high(i) - found.filled(i)) / 2
        for line in lines:
            high = max(item.height for item, _ in line)
            boxes |= {item.id: (HEADINGS + x, bottom + high / 2) for item, x in line}
            bottom += high + found.size.above
        rows.append((_heading(sites), floor + found.high(i) / 2))
        floor += found.high(i) + max(gap, APART)
    middles = [HEADINGS + span.middle for span in found.spans]
    stretches = [(part, x) for part, x in zip(axis, middles, strict=True) if isinstance(part, Stretch)]
    heads = [(part, x) for part, x in zip(axis, middles, strict=True) if isinstance(part, int)]
    return Plan(look, boxes, rows, heads, stretches, rows[0][1], room.width, room.height)


def _heading(sites: Sites) -> str:
    """Its site, or its layers where several share the row."""
    layers = sorted({layer for layer, _, _ in sites})
    if sites[0] in (BOTTOM, TOP):
        return ""
    if len(layers) > 1:
        return f"layers {layers[0]}–{layers[-1]}"
    names = [words(name, 20) for _, _, name in sites]
    return f"layer {layers[0]}\n{names[0] if len(names) == 1 else amount(len(names), 'site')}"
