"""Which column holds the texts, and what its cells may be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuitcli.errors import InputError, nearest

# A text, or a line of a file, may have so many characters: more than a book, and less than fills memory.
MAX_TEXT_CHARACTERS = 1 << 25
# So many rows show which columns hold strings, where nothing else says so.
FIRST_ROWS = 20


def choose(wanted: str, columns: Mapping[str, bool], name: str) -> str:
    """The column of texts: the one that is wanted; for `auto` the one called `text`, else the only one of strings.

    Args:
        wanted: A name, or `auto`.
        columns: All columns, and whether each holds strings.
        name: What errors call the place that has them.

    Raises:
        InputError: There is no such column, none of strings, or several.
    """
    strings = [column for column, is_text in columns.items() if is_text]
    if wanted != "auto":
        if wanted not in columns:
            raise InputError(f"{name} has no column `{wanted}`.", hint=nearest(wanted, columns, what="columns"))
        return wanted
    if "text" in columns:
        return "text"
    if not strings:
        raise InputError(f"{name} has no column of strings.", hint=f"It has {', '.join(columns) or 'no columns'}.")
    if len(strings) > 1:
        raise InputError(
            f"{name} has several columns of strings: {', '.join(strings)}.", hint="Name the one to read with --column."
        )
    return strings[0]


def choose_in_rows(wanted: str, rows: Sequence[Mapping[str, Any]], name: str) -> str:
    """The column of texts, as the first rows show it. A column of nulls alone is none of strings."""
    columns = {}
    for column in dict.fromkeys(key for row in rows for key in row):
        cells = [row[column] for row in rows if row.get(column) is not None]
        columns[column] = bool(cells) and all(isinstance(cell, str) for cell in cells)
    return choose(wanted, columns, name)


def text_of(cell: Any, column: str, where: str) -> str:
    """A cell's text; of null and of blank text the empty one.

    Raises:
        InputError: It is no string, or not one that can be read.
    """
    if cell is None:
        return ""
    if not isinstance(cell, str):
        raise InputError(
            f"{where}: `{column}` holds {_KINDS.get(type(cell), type(cell).__name__)}, not a string.",
            hint="Name another column with --column, or mend it.",
        )
    return check(cell, where) if cell.strip() else ""


def check(text: str, where: str) -> str:
    """The text itself.

    Raises:
        InputError: It is too long, or holds half a character (a lone surrogate), which no tokenizer can read.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        raise too_long(where)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{where} holds half a character, which is no Unicode.", hint="Mend that text, or leave it out."
        ) from None
    return text


def too_long(where: str) -> InputError:
    """The error for a text, or a line, of more than MAX_TEXT_CHARACTERS."""
    return InputError(
        f"{where} is longer than {MAX_TEXT_CHARACTERS:,} characters.",
        hint="Cut it into several texts; in plain text blank lines separate them.",
    )


_KINDS = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}
