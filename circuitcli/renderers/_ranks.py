"""The boxes of each site, in the order in which the model computes them, and how they stand to make a page of 4:3."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from circuitcli.core.circuit import Circuit, Node
from circuitcli.core.sites import SITES
from circuitcli.renderers._node import Box, box

RANK_GAP, BOX_GAP = 80, 22  # points between ranks, and between boxes of a rank
HEADING_WIDTH = 240
PAGE = 4 / 3  # width over height
WORTH = 2 / 3  # a rank is broken where the whole then is at most so large: it takes longer to read

Ranks = dict[str, list[tuple[Node, Box]]]
T = TypeVar("T")


class Shape(NamedTuple):
    """Ranks from left to right or from bottom to top, with `most` boxes in a line at most.

    `size` is the width of the page of 4:3 that it fits, `width` its own; both in points, about.
    """

    size: float
    direction: str
    width: float
    most: int


def model_order(node: Node) -> tuple[int, int, str, int]:
    """Sorts nodes by the order in which the model computes them, sites that it doesn't know last."""
    order = SITES.index(node.site) if node.site in SITES else len(SITES)
    return node.layer, order, node.site, node.feature


def with_numbers(circuit: Circuit) -> bool:
    """Whether tokens have their effects beside them: a prompt's are of that prompt, not means over any text."""
    return bool(circuit.metadata.prompts)


def ranks(nodes: Iterable[Node], *, numbers: bool) -> Ranks:
    """The nodes of each site and their boxes, under the site's heading."""
    ranks: Ranks = {}
    for node in nodes:
        ranks.setdefault(f"layer {node.layer} · {node.site}", []).append((node, box(node, numbers=numbers)))
    return ranks


def shape(ranks: Ranks) -> Shape:
    """The smallest on a page; ranks that are too long for it go on in lines beside their first."""
    boxes = [[box for _, box in members] for members in ranks.values()]
    longest = max(map(len, boxes), default=1)
    whole = min(_columns(boxes, longest), _rows(boxes, longest))
    broken = min((make(boxes, most) for most in range(1, longest) for make in (_columns, _rows)), default=whole)
    return broken if broken.size <= WORTH * whole.size else whole


def lines(members: Sequence[T], most: int) -> list[list[T]]:
    """The members of a rank in lines of like length, each at most so long; neighbours stand in different ones."""
    count = max(1, math.ceil(len(members) / most))
    return [list(members[i::count]) for i in range(count)]


def _columns(boxes: list[list[Box]], most: int) -> Shape:
    columns = [line for rank in boxes for line in lines(rank, most)]
    width = sum(max(b.width for b in line) + RANK_GAP for line in columns)
    height = max((sum(b.height + BOX_GAP for b in line) for line in columns), default=0)
    return Shape(max(width, height * PAGE), "LR", width, most)


def _rows(boxes: list[list[Box]], most: int) -> Shape:
    rows = [line for rank in boxes for line in lines(rank, most)]
    width = HEADING_WIDTH + max((sum(b.width + BOX_GAP for b in line) for line in rows), default=0)
    height = sum(max(b.height for b in line) + RANK_GAP for line in rows)
    return Shape(max(width, height * PAGE), "BT", width, most)
