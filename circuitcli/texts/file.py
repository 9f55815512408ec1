"""Texts in a file or on stdin: a column of .jsonl, .parquet, .csv or .tsv, or paragraphs; each also as .gz."""

from __future__ import annotations

from collections.abc import Iterator

from circuitcli.texts import TextRequest, _files
from circuitcli.texts._open import find


class File:
    """A file of texts, or stdin (`-`)."""

    def identity(self, request: TextRequest) -> str:
        """sha256 of the file."""
        return _files.identity(find(request.values[0]), request.column)

    def documents(self, request: TextRequest) -> Iterator[str]:
        """Its texts."""
        return _files.documents(find(request.values[0]), request.column)


plugin = File()
