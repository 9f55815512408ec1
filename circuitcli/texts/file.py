"""Texts in a file: .jsonl with a `text` on each line, else plain text with blank lines between texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from circuitcli.errors import InputError
from circuitcli.texts import _files


class File:
    """A text file in UTF-8."""

    def identity(self, value: Sequence[str]) -> str:
        """sha256 of the file."""
        return _files.digest(Path(value[0]).expanduser())

    def documents(self, value: Sequence[str]) -> Iterator[str]:
        """Its texts."""
        path = Path(value[0]).expanduser()
        _files.digest(path)
        if path.stat().st_size == 0:
            raise InputError(f"The text file {path} is empty.", hint="Give a file with text in it.")
        try:
            yield from _files.jsonl(path) if path.suffix == ".jsonl" else _files.paragraphs(path)
        except UnicodeDecodeError as error:
            raise InputError(
                f"The text file {path} is not UTF-8 (byte {error.start}).", hint="Convert it, e.g. with iconv."
            ) from None


plugin = File()
