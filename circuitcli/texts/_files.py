"""The texts of a file, or of stdin, one by one: which way it is read follows from its name, or its first line."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from circuitcli.core import lfs
from circuitcli.errors import InputError
from circuitcli.texts import _csv, _lines, _parquet
from circuitcli.texts._open import Origin, check_text, text_errors

_READERS = {
    ".parquet": _parquet.column_of,
    ".jsonl": _lines.json_lines,
    ".txt": _lines.paragraphs,
    **dict.fromkeys(_csv.DELIMITERS, _csv.column_of),
}


def identity(origin: Origin, column: str) -> str:
    """sha256 of a file, of which as much is read as shows whether it will do: text to its end, and the first text."""
    _refuse_pointer(origin)
    found = origin.sha256()
    if origin.suffix != ".parquet":
        check_text(origin)
    next(documents(origin, column))
    return found


def documents(origin: Origin, column: str) -> Iterator[str]:
    """Its texts. What they are follows from the name: .parquet, .csv, .tsv, .jsonl or .txt; of another name, and on
    stdin, they are JSON lines if the first line that isn't blank is a JSON object, else plain text.

    Raises:
        InputError: It can't be read, something in it isn't as it should be, or it has no text.
    """
    _refuse_pointer(origin)
    read = _READERS.get(origin.suffix) or _sniffed(origin)
    blank = True
    for text in read(origin, column):
        if text:
            blank = False
            yield text
    if blank:
        raise InputError(f"{origin.name} has no text in it.", hint="Give one with text that isn't blank.")


def _refuse_pointer(origin: Origin) -> None:
    with text_errors(origin), origin.raw() as file:
        if lfs.is_pointer(file.read(lfs.BOUND)):
            raise lfs.pointer(origin.name)


def _sniffed(origin: Origin) -> Callable[[Origin, str], Iterator[str]]:
    first = next((line for _, line in _lines.lines(origin) if line.strip()), "")
    if isinstance(_lines.parsed(first), dict):
        return _lines.json_lines
    if origin.suffix == ".json":
        raise InputError(
            f"{origin.name} is JSON, but not an object on each line.",
            hint="Make lines of it, e.g. `jq -c '.[]' texts.json > texts.jsonl`.",
        )
    return _lines.paragraphs
