"""The `circuit` command, and the one place where errors become lines and exit codes."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
from copy import copy
from typing import Annotated, Any

import typer

from circuitcli import __version__
from circuitcli.cli import bench, diff, doctor, profile, run_all, streams, test
from circuitcli.cli.commands import COMMANDS
from circuitcli.cli.console import show_error
from circuitcli.cli.helped import Command, Group
from circuitcli.cli.options import settings_command
from circuitcli.errors import (
    INTERRUPTED,
    TERMINATED,
    CircuitError,
    InputError,
    ResourceError,
    Stopped,
    UsageError,
    no_room,
)

app = typer.Typer(
    name="circuit",
    cls=Group,
    help="Find sparse feature circuits in language models: which SAE features drive which, and the next token.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="circuit run-all\ncircuit run-all --model gpt2 --layers 4:6\ncircuit COMMAND --help",
    context_settings={"help_option_names": ["-h", "--help"]},
)
settings_command(app, "run-all", run_all.HELP, run_all.EXAMPLES, more=run_all.MORE)(run_all.command)
for name, of_stage in COMMANDS.items():
    settings_command(app, name, of_stage.HELP, of_stage.EXAMPLES, more=of_stage.MORE)(of_stage.command)
settings_command(app, "test", test.HELP, test.EXAMPLES, without=("profile", "force", "verify"), more=test.MORE)(
    test.command
)
settings_command(app, "doctor", doctor.HELP, doctor.EXAMPLES, without=("force", "verify"))(doctor.command)
settings_command(app, "bench", bench.HELP, bench.EXAMPLES, without=("force", "verify"), more=bench.MORE)(bench.command)
app.command("diff", cls=Command, help=diff.HELP, epilog=diff.EXAMPLES)(diff.command)
app.add_typer(profile.app, name="profile")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"circuit {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def circuit(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Show the help when no command is named."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run the command line and leave with its exit code."""
    # Of a short command these two take a sixth: what is imported is no garbage, and nothing here has use for a plug-in
    # of pydantic's, which another package may bring.
    gc.set_threshold(100_000)
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    signal.signal(signal.SIGTERM, _terminated)
    with streams.ready():
        try:
            code = _run()
        except BrokenPipeError:  # whoever read stdout has closed it, as `head` does
            streams.drop(sys.stdout.fileno())
            code = 0
        sys.exit(code)


def _run() -> int:
    try:
        code = _typed()(standalone_mode=False, prog_name="circuit")
        sys.stdout.flush()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # typer makes an exit of it
            raise end.__context__ from None
        if end.code != TERMINATED:
            raise
        return _told(Stopped(TERMINATED))
    except KeyboardInterrupt:
        return _told(Stopped(INTERRUPTED))
    except typer.Abort as end:
        raise end.__cause__ or end from None  # typer makes one of an EOFError, which is no wish of anybody's
    except Exception as error:
        known = _known(error)
        if known is None:
            raise
        return _told(known)
    if code == INTERRUPTED:  # what typer makes of Ctrl-C
        return _told(Stopped(INTERRUPTED))
    return code if isinstance(code, int) else 0


def _typed() -> typer.Typer:
    """The app with the one command that was typed: making the flags of all others is a twentieth of a short command."""
    one = [info for info in app.registered_commands if [info.name] == sys.argv[1:2]]
    if not one:
        return app
    alone = copy(app)
    alone.registered_commands, alone.registered_groups = one, []
    return alone


def _told(error: CircuitError) -> int:
    show_error(error, as_json="--json" in sys.argv)
    return error.exit_code


# Errors of the file system that a path may cause.
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)


def _terminated(number: int, frame: Any) -> None:
    raise SystemExit(TERMINATED)


def _known(error: Exception) -> CircuitError | None:
    """The error in this tool's words, if it is not a bug."""
    if isinstance(error, CircuitError):
        return error
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "circuit"
        return UsageError(error.format_message(), hint=f"See `{command} --help`.")
    full = no_room(error)
    if full is not None:
        return full
    if isinstance(error, OSError) and error.errno in _UNUSABLE:
        return InputError(
            f"{error.filename} can't be used: {error.strerror}.", hint="Check the path and its permissions."
        )
    if "torch" in sys.modules or isinstance(error, MemoryError):
        from circuitcli.runtime.device import out_of_memory

        if out_of_memory(error):
            return ResourceError("Out of memory.", hint="Lower --batch-size or --max-tokens, or choose fewer layers.")
    return None
