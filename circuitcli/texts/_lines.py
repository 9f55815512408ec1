"""The texts of files that are read line by line: paragraphs, and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, count, islice
from typing import Any

from circuitcli.errors import InputError
from circuitcli.texts import _columns
from circuitcli.texts._open import Origin, text_errors


def lines(origin: Origin) -> Iterator[tuple[int, str]]:
    """The lines with their numbers from 1, each with its end."""
    with text_errors(origin), origin.text() as file:
        for number in count(1):
            line = file.readline(_columns.MAX_TEXT_CHARACTERS + 1)
            if not line:
                return
            if len(line) > _columns.MAX_TEXT_CHARACTERS:
                raise _columns.too_long(f"{origin.name}, line {number}")
            yield number, line


def paragraphs(origin: Origin, column: str) -> Iterator[str]:
    """The paragraphs of plain text, which blank lines separate; the line ends inside are kept."""
    if column != "auto":
        raise InputError(f"{origin.name} is plain text, without columns.", hint="Leave --column out, or say auto.")
    part: list[str] = []
    size = 0
    for number, line in chain(lines(origin), [(0, "")]):
        if line.strip():
            part.append(line)
            size += len(line)
            if size > _columns.MAX_TEXT_CHARACTERS:
                raise _columns.too_long(f"{origin.name}: the text that ends in line {number}")
        elif part:
            yield "".join(part).strip("\n")
            part, size = [], 0


def json_lines(origin: Origin, column: str) -> Iterator[str]:
    """A column of an object on each line."""
    rows = _objects(origin)
    first = list(islice(rows, _columns.FIRST_ROWS))
    if not first:
        return
    name = _columns.choose_in_rows(column, [row for _, row in first], origin.name)
    for number, row in chain(first, rows):
        where = f"{origin.name}, line {number}"
        if name not in row:
            raise InputError(f"{where} has no `{name}`.", hint=f'Lines look like {{"{name}": "…"}}.')
        yield _columns.text_of(row[name], name, where)


def _objects(origin: Origin) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in lines(origin):
        if not line.strip():
            continue
        row = parsed(line)
        if not isinstance(row, dict):
            raise InputError(
                f"{origin.name}, line {number} is not a JSON object.", hint='Lines look like {"text": "…"}.'
            )
        yield number, row


def parsed(line: str) -> Any:
    """What JSON says; None if it isn't JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
