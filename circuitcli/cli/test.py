"""`circuit test`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli import session
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.core.words import amount
from circuitcli.errors import CheckFailed, InputError, UsageError

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job
    from circuitcli.stages.test import Judged

HELP = (
    "Hold a saved circuit to its thresholds. What it does is measured anew, on the model, SAEs and examples that its "
    "file names: exit 0 if all hold, 6 if one fails."
)
EXAMPLES = """\
circuit test --run my-run --write heavens.json
circuit test heavens.json
circuit test heavens.json brace.json --junit results.xml --device cpu"""
EDGES = 5
MORE: dict[str, tuple[Any, Any]] = {
    "files": (
        Annotated[
            list[Path] | None,
            typer.Argument(help="Circuits with thresholds.", metavar="FILE", show_default=False),
        ],
        None,
    ),
    "junit": (
        Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML too.", metavar="FILE")],
        None,
    ),
    "write": (
        Annotated[
            Path | None,
            typer.Option(
                "--write",
                help="Write the circuit that --run validated, with thresholds from what was measured of it: "
                "faithfulness on the evaluation half, sign and size of the largest edges.",
                metavar="FILE",
            ),
        ],
        None,
    ),
    "edges": (
        Annotated[
            int | None,
            typer.Option("--edges", min=0, help=f"With --write: most edges to test. [default: {EDGES}]", metavar="N"),
        ],
        None,
    ),
    "over": (Annotated[bool, typer.Option("--force", help="With --write: write over a file that is there.")], False),
}


def command(request: Request) -> None:
    """Test files, or write one.

    Raises:
        CheckFailed: A threshold isn't met.
        UsageError: It can't be told what to do.
        InputError: A file can't be read, or tests nothing.
    """
    more = request.more
    if more["write"] is not None:
        _check_writing(request)
        session.work(request, lambda job, terminal: _write(request, job, terminal), writes=False)
        return
    if more["edges"] is not None or more["over"]:
        raise UsageError(
            f"{'--force' if more['edges'] is None else '--edges'} is for --write.", hint="Give --write FILE too."
        )
    if not more["files"]:
        raise UsageError(
            "There is no circuit to test.",
            hint="Name a circuit.json that has thresholds, or write one: circuit test --run RUN --write FILE.",
        )
    _test(request, more["files"], more["junit"])


def _test(request: Request, files: Sequence[Path], junit: Path | None) -> None:
    """Read all files, then measure; what came of it is told before it is said that something failed."""
    from circuitcli.runtime.quiet import hush

    hush()
    from circuitcli.stages import test, thresholds

    terminal = Terminal(as_json=request.as_json, quiet=request.quiet)
    if junit is not None:
        _check_junit(junit, files)
    held = [thresholds.read(path, request.flags) for path in files]
    tested = []
    for one in held:
        tested.append(test.run(one, terminal))
        _show(tested[-1], terminal)
    if junit is not None:
        from circuitcli.cli.junit import document

        _put(junit, document(tested), terminal)
    _tell(tested, terminal, junit)


def _put(path: Path, data: bytes, terminal: Terminal) -> None:
    """Write a file, and tell where."""
    from circuitcli.store import files

    try:
        files.write(path, data)
    except FileNotFoundError as error:  # of a folder in which no file can be made, such as /proc
        raise InputError(f"{path} can't be written: {error.strerror}.", hint="Name another place.") from None
    terminal.line(str(path))


def _check_junit(junit: Path, files: Sequence[Path]) -> None:
    """Refuse what can't be written to, before any work; what is there is of an earlier test, and goes.

    So nothing tells of a test that couldn't be made, or was interrupted, that it passed.
    """
    if junit.exists() and not junit.is_file():
        raise UsageError(f"{junit} is no file.", hint="Name a file with --junit.")
    if junit.resolve() in [path.resolve() / name for path in files for name in ("", "graph/circuit.json")]:
        raise UsageError(f"{junit} is one of the circuits that are tested.", hint="Name another file with --junit.")
    junit.unlink(missing_ok=True)


def _show(one: Judged, terminal: Terminal) -> None:
    terminal.table(
        f"Thresholds of {one.path}, on {one.model}",
        ("what", "measured", "must be", "verdict"),
        [(v.name, v.measured, v.wanted, f"FAILED: {v.failure}" if v.failure else "passed") for v in one.verdicts],
    )


def _tell(tested: Sequence[Judged], terminal: Terminal, junit: Path | None) -> None:
    """The document, and whether all of it holds.

    Raises:
        CheckFailed: A threshold isn't met.
    """
    failed = [(file.path, one) for file in tested for one in file.failed]
    count = sum(len(file.verdicts) for file in tested)
    document = {
        "passed": not failed,
        "thresholds": count,
        "failed": len(failed),
        "tests": [_document(file) for file in tested],
        "files": [] if junit is None else [str(junit)],
    }
    if failed:
        path, first = failed[0]
        raise CheckFailed(
            f"{len(failed)} of {amount(count, 'threshold')} {'fails' if len(failed) == 1 else 'fail'}; {path}, "
            f"{first.name}: {first.failure}.",
            hint="Find out what changed: the circuit, its thresholds, or the libraries (--json and --junit name them).",
            document=document,
        )
    if not terminal.as_json:
        terminal.say(f"{amount(count, 'threshold')} {'holds' if count == 1 else 'hold'}.")
    terminal.document(document)


def _document(file: Judged) -> dict[str, Any]:
    return {
        **{name: getattr(file, name) for name in ("model", "model_identity", "device", "versions", "seconds")},
        "path": str(file.path),
        "passed": not file.failed,
        "thresholds": [
            {"name": one.name, **asdict(one.found), "wanted": one.wanted, "failure": one.failure or None}
            for one in file.verdicts
        ],
    }


def _check_writing(request: Request) -> None:
    path: Path = request.more["write"]
    if request.more["files"] or request.more["junit"] is not None:
        what = "--junit" if request.more["junit"] is not None else request.more["files"][0]
        raise UsageError(f"--write and {what} can't go together.", hint="Write a file first, then test it.")
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise UsageError(f"{path} is no plain file.", hint="Name a new file.")
    if path.exists() and not request.more["over"]:
        raise UsageError(f"{path} is there already.", hint="Name another file, or write over it with --force.")


def _write(request: Request, job: Job, terminal: Terminal) -> None:
    from circuitcli import plugins
    from circuitcli.stages import thresholds_of_run

    path: Path = request.more["write"]
    if path.resolve().is_relative_to(job.run.root.resolve()):
        raise UsageError(f"{path} lies in the run, whose files are drawn again.", hint="Name a file outside of it.")
    edges = EDGES if request.more["edges"] is None else request.more["edges"]
    circuit, said = thresholds_of_run.made(job, edges)
    for line in said:
        terminal.say(line)
    [data] = plugins.load("renderers", "json").files(circuit).values()
    _put(path, data, terminal)
    assert circuit.test is not None
    terminal.document({"run": str(job.run.root), "files": [str(path)], "test": circuit.test.document(), "said": said})
