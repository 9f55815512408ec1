"""diff: what changed between two graphs, of runs or of files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from circuitcli import plugins
from circuitcli.core import compare
from circuitcli.core.circuit import Circuit
from circuitcli.core.compare import Difference
from circuitcli.core.metadata import MEASURED
from circuitcli.core.tokens import visible
from circuitcli.errors import UsageError
from circuitcli.renderers import Renderer
from circuitcli.store import circuits, files

_SHOWN = 60  # characters of a prompt
# How a question may be answered in another way.
_ANSWERED = ("counterfactual", "method", "edge_method", "frozen")


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
        InputError: One can't be read, or they are of different models or SAEs, or answer different questions.
    """
    first, second = (circuits.read(circuits.locate(path)) for path in (before, after))
    difference = compare.compare(first, second)
    pairs = [(what, getattr(first.metadata, what), getattr(second.metadata, what)) for what in MEASURED]
    one, other = first.metadata.attribution, second.metadata.attribution
    if one and other:
        pairs += [(what.replace("_", " "), getattr(one, what), getattr(other, what)) for what in _ANSWERED]
    different = tuple(f"{what} {_said(old)} → {_said(new)}" for what, old, new in pairs if old != new)
    return Compared(first, second, difference, different)


def check_output(output: Path, graphs: Sequence[Path]) -> None:
    """Refuse a file that can't be drawn to, before any work.

    Raises:
        UsageError: Its suffix names no format, or it is one of the graphs that are compared.
    """
    if not output.suffix:
        raise UsageError(f"{output} has no suffix that names a format.", hint="Name it diff.svg, say, or diff.html.")
    plugins.check("renderers", _format(output))
    if output.is_dir():
        raise UsageError(f"{output} is a folder.", hint="Name a file with --output.")
    if output.resolve() in [circuits.locate(path).resolve() for path in graphs]:
        raise UsageError(f"{output} is one of the graphs that are compared.", hint="Name another file with --output.")


def draw(found: Compared, names: tuple[str, str], output: Path) -> None:
    """The difference as a graph in three colours, in the format of the file's suffix.

    Raises:
        UsageError: The format makes several files.
    """
    renderer: Renderer = plugins.load("renderers", _format(output))
    made = renderer.files(compare.drawn(found.before, found.after, names))
    if len(made) > 1:
        raise UsageError(f"{_format(output)} makes several files.", hint="Name one file: diff.svg, say, or diff.html.")
    files.write(output, *made.values())


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return visible("".join(map(str, value)), _SHOWN) if value else "none"
    return "none" if value is None else str(value)


def _format(output: Path) -> str:
    return output.suffix.removeprefix(".")
