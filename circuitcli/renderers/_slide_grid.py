"""Where the boxes of a slide stand: a column for each position, a row for each site, as they fit the room there is.

The middle of a box is within its column. Where it is wider than that it stands over its neighbours', or above their
boxes: a row has as many lines as that takes. Columns become wider while there is room and lines are saved by it. Where
there are too many sites, neighbouring ones share a row: those of one layer first, and of few layers only, so that
upwards stays upwards in the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count, pairwise
from typing import NamedTuple

ROWS = 5  # that layers are divided into, if there are more of them

Site = tuple[int, int, str]  # layer, order in it, name
Sites = tuple[Site, ...]
Column = int | None  # a position


class Item(NamedTuple):
    """What is to be placed: in which row and column, and how large it is."""

    id: str
    site: Site
    column: Column
    width: float
    height: float


class Strip(NamedTuple):
    """A part of the axis, and how wide it is at least: a column, or what stands between columns."""

    column: Column
    least: float
    between: bool = False


class Room(NamedTuple):
    """For all columns together, and for all rows; points."""

    width: float
    height: float


class Size(NamedTuple):
    """Width of most boxes, and the least room beside boxes, above them, and between rows; points."""

    width: float
    beside: float
    above: float
    apart: float


class Span(NamedTuple):
    """Where a strip is: its middle and width."""

    middle: float
    width: float


Line = list[tuple[Item, float]]  # what stands beside each other, with its middle


@dataclass(frozen=True)
class Grid:
    """One way to place the items. Rows go from bottom to top.

    `wide` are columns that are as wide as so many boxes, `least` are rows of one site each that are so high at least.
    """

    items: Sequence[Item]
    strips: Sequence[Strip]
    size: Size
    room: Room
    rows: tuple[Sites, ...]
    wide: Mapping[Column, int]
    least: Mapping[Site, float]

    @property
    def width(self) -> float:
        """Of all strips, at least."""
        return sum(map(self._least, self.strips))

    @cached_property
    def spans(self) -> list[Span]:
        """Where each strip is, once the columns share what room is left."""
        columns = sum(not strip.between for strip in self.strips)
        spare = max(0.0, self.room.width - self.width) / max(1, columns)
        left, found = 0.0, []
        for strip in self.strips:
            wide = self._least(strip) + (0.0 if strip.between else spare)
            found.append(Span(left + wide / 2, wide))
            left += wide
        return found

    @cached_property
    def lines(self) -> list[list[Line]]:
        """The lines of each row."""
        at = {strip.column: span for strip, span in zip(self.strips, self.spans, strict=True) if not strip.between}
        row = {site: i for i, sites in enumerate(self.rows) for site in sites}
        found: list[list[Line]] = [[] for _ in self.rows]
        for item in self.items:
            self._put(item, at[item.column], found[row[item.site]])
        return [[self._centred(line, at) for line in lines] for lines in found]

    def high(self, row: int) -> float:
        """Of one row."""
        return max(self.filled(row), self.least.get(self.rows[row][0], 0.0))

    def filled(self, row: int) -> float:
        """What the boxes take of a row's height."""
        lines = [max(item.height for item, _ in line) for line in self.lines[row]]
        return sum(lines) + self.size.above * max(0, len(lines) - 1)

    @property
    def height(self) -> float:
        """Of all rows."""
        return sum(map(self.high, range(len(self.rows)))) + self.size.apart * (len(self.rows) - 1)

    @property
    def left(self) -> tuple[float, int]:
        """What is left to be saved: height, and over all items the lines between them and the lowest of their row."""
        return self.height, sum(i * len(line) for lines in self.lines for i, line in enumerate(lines))

    def _least(self, strip: Strip) -> float:
        if strip.between:
            return strip.least
        return max(strip.least, self.wide[strip.column] * (self.size.width + self.size.beside))

    def _put(self, item: Item, span: Span, lines: list[Line]) -> None:
        """Into the lowest line that has room for it, as near to the middle of its column as can be."""
        step = (item.width + self.size.beside) / 2
        steps = range(int(span.width / 2 / step) + 1)
        least, most = item.width / 2, self.room.width - item.width / 2
        middles = [min(max(span.middle + side * i * step, least), most) for i in steps for side in (-1, 1)]
        for i in count():
            if i == len(lines):
                lines.append([])
            for middle in middles:
                beside = item.width / 2 + self.size.beside - 0.01
                if all(abs(middle - x) >= beside + other.width / 2 for other, x in lines[i]):
                    lines[i].append((item, middle))
                    return

    def _centred(self, line: Line, at: Mapping[Column, Span]) -> Line:
        """A line of one column alone in the middle of that, as far as the room goes."""
        columns = {item.column for item, _ in line}
        if len(columns) > 1:
            return line
        left, right = min(x - item.width / 2 for item, x in line), max(x + item.width / 2 for item, x in line)
        shift = min(max(at[columns.pop()].middle - (left + right) / 2, -left), self.room.width - right)
        return [(item, x + shift) for item, x in line]


def grid(
    items: Sequence[Item], strips: Sequence[Strip], size: Size, room: Room, alone: Mapping[Site, float]
) -> Grid | None:
    """One that fits, else None. Of one column and site the first stand lowest.

    `alone` are sites with rows of their own, whether they have boxes or not, and how high these are at least.
    """
    sites = sorted({*alone, *(item.site for item in items)})
    layers = len({layer for layer, _, _ in sites} - {layer for layer, _, _ in alone})
    wide = {strip.column: 0 for strip in strips if not strip.between}
    found = Grid(items, strips, size, room, tuple((site,) for site in sites), wide, alone)
    if found.width > room.width:
        return None
    for most in range(1, 1 + max(1, math.ceil(layers / ROWS))):
        better: Grid | None = found
        while better is not None:
            found = better
            if found.height <= room.height:
                return _widest(found)
            better = _wider(found) or _shared(found, most)
    return None


def _widest(found: Grid) -> Grid:
    """With as few boxes above each other as there is room for beside each other."""
    better = _wider(found)
    return found if better is None else _widest(better)


def _wider(found: Grid) -> Grid | None:
    """With one column wider, by as few boxes as save anything, where that saves most and there is room."""
    columns = dict.fromkeys(item.column for lines in found.lines for line in lines[1:] for item, _ in line)
    saved = [one for column in columns if (one := _widened(found, column)) is not None]
    return min(saved, key=lambda one: one.left, default=None)


def _widened(found: Grid, column: Column) -> Grid | None:
    for boxes in count(found.wide[column] + 1):
        one = replace(found, wide={**found.wide, column: boxes})
        if one.width > found.room.width:
            return None
        if one.left < found.left:
            return one
    raise AssertionError("a room has a width")


def _shared(found: Grid, most: int) -> Grid | None:
    """With two neighbouring rows as one, of at most so many layers, where it saves most height."""
    tries = []
    for i, (one, other) in enumerate(pairwise(found.rows)):
        both = (*one, *other)
        if not set(both) & set(found.least) and len({layer for layer, _, _ in both}) <= most:
            tries.append(replace(found, rows=(*found.rows[:i], both, *found.rows[i + 2 :])))
    saved = [one for one in tries if one.height < found.height]
    return min(saved, key=lambda one: one.height, default=None)
