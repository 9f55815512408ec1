"""Held-out passages of the text that the embedded model was trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from circuitcli import demo
from circuitcli.texts import _files


class Demo:
    """Passages of the World English Bible, the Jargon File and The Devil's Dictionary."""

    def identity(self, value: Sequence[str]) -> str:
        """sha256 of the file."""
        return _files.digest(demo.TEXT)

    def documents(self, value: Sequence[str]) -> Iterator[str]:
        """Its passages."""
        return _files.jsonl(demo.TEXT)


plugin = Demo()
