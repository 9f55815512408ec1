"""Held-out passages of the text that the embedded model was trained on."""

from __future__ import annotations

from collections.abc import Iterator

from circuitcli import demo
from circuitcli.texts import TextRequest, _files
from circuitcli.texts._open import find

COLUMN = "text"


class Demo:
    """Passages of the World English Bible, the Jargon File and The Devil's Dictionary."""

    def identity(self, request: TextRequest) -> str:
        """sha256 of the file."""
        return find(str(demo.TEXT)).sha256()

    def documents(self, request: TextRequest) -> Iterator[str]:
        """Its passages."""
        return _files.documents(find(str(demo.TEXT)), COLUMN)


plugin = Demo()
