"""diff: what changed between two graphs, of runs or of files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from circuitcli import plugins
from circuitcli.core import compare
from circuitcli.core.circuit import Circuit
from circuitcli.core.compare import Difference
from circuitcli.core.merge import MEASURED
from circuitcli.errors import UsageError
from circuitcli.renderers import Renderer
from circuitcli.store import circuits, files


@dataclass(frozen=True)
class Compared:
    """Two graphs and their difference; `different` names settings that make their effects different quantities."""

    before: Circuit
    after: Circuit
    difference: Difference
    different: tuple[str, ...]


def run(before: Path, after: Path) -> Compared:
    """Compare the graphs of two runs or files.

    Raises:
        InputError: One can't be read, or they are of different models or SAEs.
    """
    first, second = (circuits.read(circuits.locate(path)) for path in (before, after))
    different = tuple(
        f"{what} {first.metadata[what]} → {second.metadata[what]}"
        for what in MEASURED
        if first.metadata[what] != second.metadata[what]
    )
    return Compared(first, second, compare.compare(first, second), different)


def format_of(output: Path) -> str:
    """The format that a file's suffix names.

    Raises:
        UsageError: None has it, or it makes more than one file.
    """
    name = output.suffix.removeprefix(".")
    plugins.check("renderers", name)
    if name in ("csv", "neuronpedia"):
        raise UsageError(f"{name} makes several files.", hint="Name one file, such as diff.svg or diff.html.")
    return name


def draw(found: Compared, names: tuple[str, str], output: Path) -> None:
    """The difference as a graph in three colours, in the format of the file's suffix."""
    renderer: Renderer = plugins.load("renderers", format_of(output))
    [data] = renderer.files(compare.drawn(found.before, found.after, names)).values()
    files.write(output, data)
