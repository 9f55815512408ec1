"""`circuit profile`: a profile from the older tool's file, one to fill in, and where each setting comes from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from circuitcli.cli import session
from circuitcli.cli.console import Terminal
from circuitcli.cli.helped import Command
from circuitcli.cli.options import Request, settings_command
from circuitcli.errors import InputError, UsageError
from circuitcli.settings import explain, resolve, table

app = typer.Typer(rich_markup_mode=None, help="Make a profile, or show every setting and where it comes from.")

_SHOW = "Show every setting and where it comes from. That is default, preset (the model's own), run, profile or flag."
_IMPORT = "circuit profile import central_config.yaml --output profile.toml"
_INIT = "circuit profile init profile.toml"
_SHOWN = "circuit profile show --model gpt2"
_Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@app.callback(invoke_without_command=True)
def profile(context: typer.Context) -> None:
    """Show the help when no command is named."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    "import",
    cls=Command,
    epilog=_IMPORT,
    help="Make a profile of an older central_config.yaml. What has no counterpart is named.",
)
def import_(
    file: Annotated[Path, typer.Argument(help="The older tool's central_config.yaml.", metavar="FILE")],
    output: Annotated[
        Path | None, typer.Option("--output", help="Where to write the profile; stdout if not given.", metavar="FILE")
    ] = None,
    force: _Force = False,
    as_json: _Json = False,
) -> None:
    """Read, translate, check and print or write."""
    from circuitcli import plain_yaml
    from circuitcli.settings import migrate
    from circuitcli.store import written

    terminal = Terminal(as_json=as_json, quiet=False)
    _may_write(output, force)
    text = written.text(file, "", 4 * plain_yaml.MAX_CHARACTERS)
    if not text.strip():
        raise InputError(f"{file} is empty.", hint="Give the older tool's sparse_coding/config/central_config.yaml.")
    found = migrate.migrate(text, str(file))
    made = migrate.profile(found, file.name)
    _check(made)
    _put(terminal, made, output, {"not_taken_over": found.notes, "empty": found.empty})
    for line in migrate.notes(found):
        terminal.say(line)


@app.command(
    "init",
    cls=Command,
    epilog=_INIT,
    help="Print a profile with every setting to fill in. Each has its help and default, and is commented out.",
)
def init(
    file: Annotated[
        Path | None, typer.Argument(help="Where to write it; stdout if not given.", metavar="[FILE]")
    ] = None,
    force: _Force = False,
    as_json: _Json = False,
) -> None:
    """Print or write the commented profile."""
    from circuitcli.settings.template import template

    _may_write(file, force)
    _put(Terminal(as_json=as_json, quiet=False), template(), file, {})


@settings_command(app, "show", _SHOW, _SHOWN, flags_of="run-all", without=("force", "verify", "quiet"))
def show(request: Request) -> None:
    """Every setting with its value and its origin, as the same run-all would find it."""
    own = session.existing(request.run).settings() if request.run is not None else {}
    named = ("run", own), ("profile", session.read_profile(request.profile))
    settings, origins = explain(*named, ("flag", request.flags))
    values = {row.key: row.of(settings) for row in table()}
    terminal = Terminal(as_json=request.as_json, quiet=False)
    terminal.table("Settings", ("key", "value", "from"), [(k, _shown(v), origins[k]) for k, v in values.items()])
    terminal.document({"settings": {k: {"value": v, "from": origins[k]} for k, v in values.items()}})


def _shown(value: Any) -> str:
    """A value as a profile has it, but text without quotes."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _check(made: str) -> None:
    """Refuse what run-all would refuse without a model."""
    import tomli

    from circuitcli.stages.checks import check

    check(resolve(tomli.loads(made)))


def _may_write(path: Path | None, force: bool) -> None:
    """Refuse to write over a file that is there, unless forced, and over what is no file at all."""
    if path is None or not (path.exists() or path.is_symlink()):
        return
    if path.is_symlink() or not path.is_file():
        raise UsageError(f"{path} is no plain file.", hint="Name a new file.")
    if not force:
        raise UsageError(f"{path} is there already.", hint="Name another file, or write over it with --force.")


def _put(terminal: Terminal, made: str, path: Path | None, more: dict[str, Any]) -> None:
    """The profile on stdout or in a file; with --json in a document."""
    if path is None:
        for line in made.splitlines():
            terminal.line(line)
    else:
        from circuitcli.store import files

        try:
            files.write(path, made.encode())
        except FileNotFoundError as error:  # of a folder in which no file can be made, such as /proc
            raise InputError(f"{path} can't be written: {error.strerror}.", hint="Name another place.") from None
        terminal.say(f"{path} is written.")
    terminal.document({"output": str(path) if path else None, "profile": made, **more})
