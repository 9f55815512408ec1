"""Plug point: how a circuit is drawn. One file a format; its name is the format's."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from circuitcli.core.circuit import Circuit


@runtime_checkable
class Renderer(Protocol):
    """Turns a circuit into files."""

    def files(self, circuit: Circuit) -> dict[str, bytes]:
        """Whole files by their paths beside one another, the one to open first.

        Most formats have one, `circuit.` and the name of the format. All text of the model, the user or the network is
        escaped for the format.
        """
        ...
