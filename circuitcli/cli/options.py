"""Flags from the table of settings, and what a command line asks for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from circuitcli.cli.helped import Command
from circuitcli.errors import INTERRUPTED, TERMINATED, CircuitError, Stopped, naming
from circuitcli.settings import APART, Layers, Setting, nest, table
from circuitcli.stages.spec import STAGES

_STUDY = ("model", "saes.", "texts.", "seed", "runtime.dtype")
# For commands that are no stages: which settings they have flags for, by prefix of their keys. run-all takes all but
# those of commands that it doesn't do.
_FLAGS = {
    "doctor": (*_STUDY, "executor."),
    "bench": (*_STUDY, "attribute.baseline", "attribute.freeze"),
    "test": ("model", "saes.release", "saes.revision", "runtime.dtype"),
    "run-all": ("",),
}
# For a question that a stage's command answers without a run: which settings it has flags for beside the stage's.
_BESIDE = {"effects": ("model", "saes.", "texts.prepend_bos", "runtime.dtype")}
_BESIDE_PANEL = "With --steer, where no run is named"
_EVERYWHERE = ("runtime.device", "runtime.batch_size")

# Parameters with which a command, whatever it is, keeps nothing.
_KEEPING_NOTHING = ("dry_run", "listing", "steer")

_COMMON: dict[str, tuple[Any, Any]] = {
    "profile": (
        Annotated[str | None, typer.Option("--profile", help="A TOML file of settings.", metavar="FILE")],
        None,
    ),
    "run": (
        Annotated[
            str | None,
            typer.Option("--run", help="The folder of the run.", metavar="DIR", envvar="CIRCUIT_RUN"),
        ],
        None,
    ),
    "force": (Annotated[bool, typer.Option("--force", help="Do the stage again, and drop what builds on it.")], False),
    "verify": (
        Annotated[
            bool,
            typer.Option("--verify", help="Read finished files again, and compare them with the recorded hashes."),
        ],
        False,
    ),
    "as_json": (Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")], False),
    "quiet": (Annotated[bool, typer.Option("--quiet", help="No progress bars and no tables.")], False),
}


@dataclass(frozen=True)
class Request:
    """A command line: the settings that were typed, and how to go about it."""

    command: str
    flags: Layers
    profile: Path | None
    run: Path | None
    force: bool
    verify: bool
    as_json: bool
    quiet: bool
    more: Mapping[str, Any] = field(default_factory=dict)  # parameters of this command alone
    keeps: bool = True  # whether what it has done stays, so that the same command goes on from there

    @contextmanager
    def told(self) -> Iterator[None]:
        """Errors whose hints name the run as it was named; Ctrl-C and termination as one that says what comes next.

        Raises:
            Stopped: In the place of KeyboardInterrupt and SystemExit.
        """
        try:
            yield
        except (KeyboardInterrupt, SystemExit) as end:
            code = INTERRUPTED if isinstance(end, KeyboardInterrupt) else end.code
            if code not in (INTERRUPTED, TERMINATED):
                raise
            raise Stopped(code, hint=self._what_next) from None
        except CircuitError as error:
            if self.run is not None:
                error.hint = naming(error.hint, self.run)
            raise

    @property
    def _what_next(self) -> str:
        if not self.keeps or any(self.more.get(name) for name in _KEEPING_NOTHING):
            return "It keeps nothing: the same command starts anew."
        if self.force:
            return "The same command starts anew; without --force it goes on from what is done."
        return "The same command goes on from what is done."


def rows_of(command: str) -> list[Setting]:
    """The settings that a command has flags for."""
    own = STAGES[command].flags if command in STAGES else _FLAGS[command]
    prefixes = (*own, *_BESIDE.get(command, ()), *_EVERYWHERE)
    taken = [row for row in table() if row.flag.name and row.key.startswith(prefixes)]
    return [row for row in taken if not (row.key.startswith(APART) and command in _FLAGS)]


def typed_beside(request: Request) -> list[str]:
    """The flags that were typed which are none of the stage's own, but of a question that needs no run."""
    rows = [row for row in rows_of(request.command) if row.key.startswith(_BESIDE.get(request.command, ()))]
    return [str(row.flag.name) for row in rows if _is_in(request.flags, row.key)]


def _is_in(flags: Layers, key: str) -> bool:
    head, _, name = key.rpartition(".")
    return name in (flags.get(head, {}) if head else flags)


def settings_command(
    app: typer.Typer,
    name: str,
    help_text: str,
    examples: str,
    *,
    flags_of: str | None = None,
    without: tuple[str, ...] = (),
    more: Mapping[str, tuple[Any, Any]] | None = None,
) -> Callable[[Callable[[Request], None]], None]:
    """Register a command with the flags of its settings; its body gets a `Request`.

    Args:
        app: Where to register it.
        name: Its name.
        help_text: What it does.
        examples: Commands to copy, one a line.
        flags_of: The command whose settings it takes; its own if not given.
        without: Parameters of every command that this one has no use for; they stay as they are untyped.
        more: Parameters of this command alone.
    """
    rows = rows_of(flags_of or name)
    common = {key: value for key, value in _COMMON.items() if key not in without}
    own = dict(more or {})

    def register(body: Callable[[Request], None]) -> None:
        def command(**typed: Any) -> None:
            shared = {key: _COMMON[key][1] for key in without} | {key: typed.pop(key) for key in common}
            mine = {key: typed.pop(key) for key in own}
            shared |= {key: Path(shared[key]) for key in ("profile", "run") if isinstance(shared[key], str)}
            of = {row.parameter: row for row in rows}
            flags = {
                of[key].key: of[key].typed(_meant(of[key], value))
                for key, value in typed.items()
                if value not in (None, [])
            }
            request = Request(command=name, flags=nest(flags), more=mine, keeps="force" not in without, **shared)
            with request.told():
                body(request)

        parameters = {row.parameter: (_annotation(row, _panel(name, row)), None) for row in rows} | common | own
        command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
                for key, (annotation, default) in parameters.items()
            ]
        )
        command.__annotations__ = {key: annotation for key, (annotation, _) in parameters.items()}
        app.command(name, cls=Command, help=help_text, epilog=examples)(command)

    return register


def _meant(row: Setting, value: Any) -> Any:
    """The word `auto` where a list could stand; and of flags that may say so, nothing in place of `none`."""
    if value == ["none"] and row.flag.metavar and "none" in row.flag.metavar.split("|"):
        return []
    return "auto" if value == ["auto"] else value


def _panel(command: str, row: Setting) -> str | None:
    """The section of a command's help in which a setting stands."""
    if row.key.startswith(_BESIDE.get(command, ())):
        return _BESIDE_PANEL
    return f"Settings: {row.key.partition('.')[0]}" if "." in row.key else None


@cache
def _annotation(row: Setting, panel: str | None) -> Any:
    kind: Any = list[row.kind] if row.repeats else row.kind  # type: ignore[name-defined]
    flag = f"{row.flag.name}/--no-{row.flag.name[2:]}" if row.kind is bool and row.flag.name else row.flag.name
    option = typer.Option(
        flag,
        help=f"{row.flag.help} [default: {default_text(row)}]",
        metavar=row.flag.metavar,
        rich_help_panel=panel,
        show_default=False,
    )
    return Annotated[kind | None, option]


def documentation() -> str:
    """The table in docs/settings.md: flag, profile key, default, the command that takes it, and what it is."""
    lines = ["| Flag | Key | Default | Of | What it is |", "|---|---|---|---|---|"]
    for row in table():
        of = [spec.name for spec in STAGES.values() if row.key.startswith(spec.flags)]
        off = f" `--no-{row.flag.name[2:]}`" if row.kind is bool and row.flag.name else ""
        flag = f"`{row.flag.name}`{off}" if row.flag.name else "–"
        taken = f"`{of[0]}`" if of else "all"
        default = str(row.default).lower() if row.kind is bool else default_text(row)
        cells = (flag, f"`{row.key}`", default, taken, row.flag.help.replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def default_text(row: Setting) -> str:
    """A default as a person would type it."""
    if row.kind is bool:
        return ("" if row.default else "no-") + str(row.flag.name)[2:]
    return ", ".join(row.default) or "none" if isinstance(row.default, tuple) else str(row.default) or "none"
