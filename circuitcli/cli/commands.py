"""The stages' commands, by name, in the order in which the help lists them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from circuitcli.cli import ablate, attribute, cache_acts, effects, fetch_saes, graph, stability, validate
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job


class StageCommand(Protocol):
    """What the file of a stage's command has: its help, its examples, and its own parameters."""

    HELP: str
    EXAMPLES: str
    MORE: dict[str, tuple[Any, Any]]

    def command(self, request: Request) -> None:
        """Do what was typed."""
        ...

    def show(self, job: Job, terminal: Terminal) -> None:
        """What came of the stage; run-all shows it as well."""
        ...


COMMANDS: Mapping[str, StageCommand] = {
    "fetch-saes": fetch_saes,
    "cache-acts": cache_acts,
    "ablate": ablate,
    "effects": effects,
    "attribute": attribute,
    "graph": graph,
    "stability": stability,
    "validate": validate,
}
