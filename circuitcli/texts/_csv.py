"""A column of a .csv or .tsv file: cells as RFC 4180 has them, the names of the columns in the first row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain, islice

from circuitcli.errors import InputError
from circuitcli.texts import _columns
from circuitcli.texts._lines import lines
from circuitcli.texts._open import Origin

DELIMITERS = {".csv": ",", ".tsv": "\t"}
Row = tuple[int, list[str]]


def column_of(origin: Origin, column: str) -> Iterator[str]:
    """Its texts. Everything in such a file is text: for `auto`, a column counts as one of strings unless all that the
    first rows have of it are numbers.
    """
    rows = _rows(origin)
    _, names = next(rows, (0, []))
    first = list(islice(rows, _columns.FIRST_ROWS))
    if not first:
        return
    strings = {name: any(_is_word(row[i]) for _, row in first) for i, name in enumerate(names)}
    name = _columns.choose(column, strings, origin.name)
    if names.count(name) > 1:
        raise InputError(f"{origin.name} has several columns `{name}`.", hint="Give each a name of its own.")
    place = names.index(name)
    for number, row in chain(first, rows):
        yield _columns.text_of(row[place], name, f"{origin.name}, line {number}")


def _is_word(cell: str) -> bool:
    """Whether a cell is neither blank nor a number."""
    try:
        float(cell)
    except ValueError:
        return bool(cell.strip())
    return False


def _rows(origin: Origin) -> Iterator[Row]:
    """The rows, the names of the columns first, each with the number of its last line; blank lines are left out."""
    csv.field_size_limit(_columns.MAX_TEXT_CHARACTERS)
    source = _Lines(origin)
    rows = csv.reader(source, delimiter=DELIMITERS[origin.suffix], strict=True)
    width = 0
    while True:
        source.characters = 0
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise InputError(
                f"{origin.name} is damaged at line {source.number}: {error}.",
                hint='A cell that holds quotes, tabs, commas or line ends is written as "…", its quotes as "".',
            ) from None
        if row is None:
            return
        if not row:
            continue
        width = width or len(row)
        if len(row) != width:
            raise InputError(
                f"{origin.name} is damaged: its first row has {width} cells, and the one that ends in line "
                f"{source.number} has {len(row)}.",
                hint='A cell that holds the delimiter or a line end is written as "…".',
            )
        yield source.number, row


class _Lines(Iterator[str]):
    """The lines of a file, of which one row may take MAX_TEXT_CHARACTERS together."""

    def __init__(self, origin: Origin) -> None:
        self._name, self._lines = origin.name, lines(origin)
        self.number = self.characters = 0

    def __next__(self) -> str:
        self.number, line = next(self._lines)
        self.characters += len(line)
        if self.characters > _columns.MAX_TEXT_CHARACTERS:
            raise _columns.too_long(f"{self._name}: the row that ends in line {self.number}")
        return line
