"""How a table fits the width of a terminal. Names and numbers never give way; what may be cut, its column says.

What comes first and fits is taken:

1. Columns, wide enough for all they hold, or for READABLE cells of what may be cut.
2. The same with a header on as many lines as it has words.
3. Both without the columns that hold one value in all rows: that is said once, above.
4. The same without the columns that can be spared, and says so.
5. Records: a row is a few lines of `name: value`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from rich.cells import cell_len
from rich.text import Text

from circuitcli.cli import cut
from circuitcli.cli.cut import Focused
from circuitcli.core.tokens import ELLIPSIS

READABLE = 24
_NO_VALUE = ("", "–")
_NAME = "dim"
_SAME, _GONE = "in all rows", "no room for"
# With its unit, or an interval.
_NUMBER = re.compile(r"[+−-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?( ?[%A-Za-z/]+)?|\[[^ ]+, [^ ]+\]")

Give = Callable[[Text, int], Text]


@dataclass(frozen=True)
class Column:
    """A column that may give way: its cells by `cut.at_end`, `cut.path` or `cut.items`, or all of it if `spared`."""

    name: str
    gives: Give | None = None
    spared: bool = False


@dataclass(eq=False)
class _Drawn:
    """A column with its cells."""

    name: str
    gives: Give | None
    spared: bool
    cells: Sequence[Text | Focused]

    @cached_property
    def focused(self) -> list[Focused]:
        return [cell for cell in self.cells if isinstance(cell, Focused)]

    @cached_property
    def widest(self) -> int:
        """Of the cells; where a part of them stands below that of others, with the room that this takes."""
        if self.focused:
            return max(c.before.cell_len for c in self.focused) + max(c.rest.cell_len for c in self.focused)
        return max(_plain(cell).cell_len for cell in self.cells)

    @cached_property
    def number(self) -> bool:
        shown = [str(cell) for cell in self.cells if str(cell) not in _NO_VALUE]
        return bool(shown) and all(map(_NUMBER.fullmatch, shown))

    @cached_property
    def varies(self) -> bool:
        return len({str(cell) for cell in self.cells}) > 1

    @cached_property
    def least(self) -> int:
        """What the cells can do with."""
        if self.gives is cut.items:
            return min(self.widest, max(_first(str(cell)) for cell in self.cells))
        return min(self.widest, READABLE) if self.gives or self.focused else self.widest

    def header(self, split: bool) -> list[str]:
        return self.name.split() if split else [self.name]

    def fitted(self, width: int) -> list[Text]:
        """Each cell in this width."""
        if self.focused:
            return cut.around(self.focused, width)
        return [self.gives(_plain(cell), width) if self.gives else _plain(cell) for cell in self.cells]


def lines(columns: Sequence[str | Column], rows: Sequence[Sequence[Text | Focused]], width: int) -> list[Text]:
    """The lines of a table, none of them wider than `width`."""
    cells = list(zip(*rows, strict=True))
    named = [Column(column) if isinstance(column, str) else column for column in columns]
    drawn = [_Drawn(c.name, c.gives, c.spared, here) for c, here in zip(named, cells, strict=True)]
    several = len(rows) > 1
    varying = [column for i, column in enumerate(drawn) if not i or column.varies or not several]
    said = [pair for column in drawn if column not in varying for pair in _pairs(column)]
    needed = [column for column in varying if not column.spared]
    gone = [Text(column.name) for column in varying if column.spared]
    for kept, notes in ((drawn, ()), (varying, ((_SAME, said),)), (needed, ((_SAME, said), (_GONE, gone)))):
        for split in (False, True):
            widths = _widths(kept, split, width)
            if widths:
                return _notes(notes, width) + _grid(kept, widths, split)
    return _notes([(_SAME, said)], width) + _records(varying, width)


def _widths(columns: Sequence[_Drawn], split: bool, width: int) -> list[int] | None:
    """Of each column, if they fit: the widest of those that may be cut give way first."""
    headers = [max(map(cell_len, column.header(split)), default=0) for column in columns]
    least = [max(header, column.least) for header, column in zip(headers, columns, strict=True)]
    found = [min(max(header, column.widest), width) for header, column in zip(headers, columns, strict=True)]
    room = width - len(cut.GAP) * (len(columns) - 1)
    if sum(least) > room:
        return None
    while sum(found) > room:
        giving = [i for i, here in enumerate(found) if here > least[i]]
        found[max(giving, key=found.__getitem__)] -= 1
    return found


def _grid(columns: Sequence[_Drawn], widths: Sequence[int], split: bool) -> list[Text]:
    """Headers, at the bottom of their lines, and rows; numbers stand to the right."""
    names = [column.header(split) for column in columns]
    most = max(map(len, names))
    heads = [[Text(word, _NAME) for word in [""] * (most - len(name)) + name] for name in names]
    stacks = [[*head, *c.fitted(width)] for head, c, width in zip(heads, columns, widths, strict=True)]
    found = []
    for row in zip(*stacks, strict=True):
        line = Text()
        for cell, column, width in zip(row, columns, widths, strict=True):
            padding = Text(" " * (width - cell.cell_len))
            line = line + (padding + cell if column.number else cell + padding) + Text(cut.GAP)
        line.rstrip()
        found.append(line)
    return found


def _notes(notes: Sequence[tuple[str, Sequence[Text]]], width: int) -> list[Text]:
    """What is said of all rows at once."""
    return [line for word, said in notes if said for line in cut.flow([Text(word, _NAME), *said], width, gap=cut.GAP)]


def _records(columns: Sequence[_Drawn], width: int) -> list[Text]:
    """Every row as pairs that flow; what may be cut has lines of its own, and of items none goes."""
    found = []
    for index in range(len(columns[0].cells)):
        pairs, apart, room = [], [], width - len(cut.GAP)
        for column in columns:
            if column is not columns[0] and str(column.cells[index]) in _NO_VALUE:
                continue
            here = _pairs(column, index)
            if column.gives is cut.items:
                apart += cut.flow(here, room, gap=cut.GAP)
            elif column.gives or column.focused:
                apart += _alone(replace(column, cells=column.cells[index : index + 1]), room)
            else:
                pairs += here
        found += cut.flow(pairs, width, gap=cut.GAP) + [Text(cut.GAP) + line for line in apart]
    return found


def _alone(column: _Drawn, width: int) -> list[Text]:
    """A cell that may be cut, behind its name or below it."""
    name = Text(f"{column.name}: " if column.name else "", _NAME)
    beside = width - name.cell_len
    if column.least <= beside:
        return [name + column.fitted(beside)[0]]
    return [name[:-1], *column.fitted(width)]


def _pairs(column: _Drawn, index: int = 0) -> list[Text]:
    """A name and its value, or the first item of it, and the other items."""
    value = _plain(column.cells[index])
    first, *others = cut.parted(value) if column.gives is cut.items else [value]
    return [Text(f"{column.name}: " if column.name else "", _NAME) + first, *others]


def _plain(cell: Text | Focused) -> Text:
    return cell.text if isinstance(cell, Focused) else cell


def _first(text: str) -> int:
    """The width of the first item, with the mark that others are gone."""
    first, *others = cut.parted(Text(text))
    return first.cell_len + (len(cut.GAP) + len(ELLIPSIS) if others else 0)
