"""Texts in a file: .jsonl with a `text` on each line, else plain text with blank lines between texts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from circuitcli.texts import _files


class File:
    """A text file in UTF-8."""

    def identity(self, value: Sequence[str]) -> str:
        """sha256 of the file."""
        return _files.text_digest(Path(os.path.expanduser(value[0])))

    def documents(self, value: Sequence[str]) -> Iterator[str]:
        """Its texts."""
        path = Path(os.path.expanduser(value[0]))
        return _files.jsonl(path) if path.suffix == ".jsonl" else _files.paragraphs(path)


plugin = File()
