"""Plug point: how a circuit is drawn. One file a format; its name is the format's and the file's suffix."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from circuitcli.core.circuit import Circuit


@runtime_checkable
class Renderer(Protocol):
    """Turns a circuit into the bytes of one file."""

    def render(self, circuit: Circuit) -> bytes:
        """The whole file. All text of the model, the user or the network is escaped for the format."""
        ...
