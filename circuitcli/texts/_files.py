"""The texts of a file, or of stdin, one by one: paragraphs, JSON lines or a column of parquet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import chain, count, islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from circuitcli.errors import InputError
from circuitcli.texts import _columns
from circuitcli.texts._open import Origin, check_text, reading

# A column may take so many bytes in one row group of parquet, unpacked.
MAX_CHUNK_BYTES = 2 << 30
# Rows of parquet that are held at once.
_BATCH_ROWS = 64


def identity(origin: Origin, column: str) -> str:
    """sha256 of a file, of which as much is read as shows whether it will do: text to its end, and the first text."""
    found = origin.sha256()
    if origin.suffix != ".parquet":
        check_text(origin)
    next(documents(origin, column))
    return found


def documents(origin: Origin, column: str) -> Iterator[str]:
    """Its texts. What they are follows from the name: .parquet, .jsonl or .txt; of another name, and on stdin, they
    are JSON lines if the first line that isn't blank is a JSON object, else plain text.

    Raises:
        InputError: It can't be read, something in it isn't as it should be, or it has no text.
    """
    read = {".parquet": _parquet, ".jsonl": _jsonl, ".txt": _plain}.get(origin.suffix) or _sniffed(origin)
    blank = True
    for text in read(origin, column):
        if text:
            blank = False
            yield text
    if blank:
        raise InputError(f"{origin.name} has no text in it.", hint="Give one with text that isn't blank.")


def _sniffed(origin: Origin) -> Any:
    first = next((line for _, line in _lines(origin) if line.strip()), "")
    if isinstance(_parsed(first), dict):
        return _jsonl
    if origin.suffix == ".json":
        raise InputError(
            f"{origin.name} is JSON, but not an object on each line.",
            hint="Make lines of it, e.g. `jq -c '.[]' texts.json > texts.jsonl`.",
        )
    return _plain


def _lines(origin: Origin) -> Iterator[tuple[int, str]]:
    """The lines with their numbers from 1, each with its end."""
    with reading(origin), origin.text() as file:
        for number in count(1):
            line = file.readline(_columns.MAX_TEXT_CHARACTERS + 1)
            if not line:
                return
            if len(line) > _columns.MAX_TEXT_CHARACTERS:
                raise _columns.too_long(f"{origin.name}, line {number}")
            yield number, line


def _plain(origin: Origin, column: str) -> Iterator[str]:
    """The paragraphs of plain text, which blank lines separate; the line ends inside are kept."""
    if column != "auto":
        raise InputError(f"{origin.name} is plain text, without columns.", hint="Leave --column out, or say auto.")
    part: list[str] = []
    size = 0
    for number, line in chain(_lines(origin), [(0, "")]):
        if line.strip():
            part.append(line)
            size += len(line)
            if size > _columns.MAX_TEXT_CHARACTERS:
                raise _columns.too_long(f"{origin.name}: the text that ends in line {number}")
        elif part:
            yield "".join(part).strip("\n")
            part, size = [], 0


def _jsonl(origin: Origin, column: str) -> Iterator[str]:
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
    for number, line in _lines(origin):
        if not line.strip():
            continue
        row = _parsed(line)
        if not isinstance(row, dict):
            raise InputError(
                f"{origin.name}, line {number} is not a JSON object.", hint='Lines look like {"text": "…"}.'
            )
        yield number, row


def _parsed(line: str) -> Any:
    """What JSON says; None if it isn't JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _parquet(origin: Origin, column: str) -> Iterator[str]:
    """A column of a parquet file, a few rows at a time."""
    try:
        with reading(origin), origin.seekable() as source, pq.ParquetFile(source) as file:
            kinds = {field.name: field.type for field in file.schema_arrow}
            name = _columns.choose(column, {n: _is_text(kind) for n, kind in kinds.items()}, origin.name)
            if not _is_text(kinds[name]):
                raise InputError(
                    f"{origin.name}: the column `{name}` is {kinds[name]}, not string.",
                    hint="Name another one with --column.",
                )
            _check_sizes(file.metadata, name, origin)
            row = count(1)
            for batch in file.iter_batches(_BATCH_ROWS, columns=[name], use_threads=False):
                for cell in batch.column(0):
                    yield _columns.text_of(cell.as_py(), name, f"{origin.name}, row {next(row)}")
    except MemoryError:
        raise
    except pa.ArrowException:
        raise InputError(f"{origin.name} is no parquet, or damaged.", hint="Get or write it again.") from None


def _check_sizes(metadata: Any, column: str, origin: Origin) -> None:
    """Nothing is unpacked yet: a small file may hold more than fits in memory.

    Raises:
        InputError: In a row group the column takes more than MAX_CHUNK_BYTES, or than its rows may at four bytes a
            character.
    """
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        most = min(MAX_CHUNK_BYTES, 4 * group.num_rows * _columns.MAX_TEXT_CHARACTERS)
        for chunk in map(group.column, range(group.num_columns)):
            if chunk.path_in_schema == column and chunk.total_uncompressed_size > most:
                raise InputError(
                    f"{origin.name}: the column `{column}` takes {chunk.total_uncompressed_size:,} bytes in one row "
                    f"group of {group.num_rows:,} rows; {most:,} may be.",
                    hint="Write it again with smaller row groups and shorter texts.",
                )


def _is_text(kind: pa.DataType) -> bool:
    return (
        _is_text(kind.value_type)
        if pa.types.is_dictionary(kind)
        else any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))
    )
