"""The errors that a user can cause or meet, each with the exit code of the process.

Everything else that is raised is a bug and keeps its traceback (exit 1).
"""

from __future__ import annotations

import difflib
import errno
import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import Any

INTERRUPTED, TERMINATED = 130, 143
# How hints name a command for the run at hand, where what raises the error can't know its folder.
_ON_THIS_RUN = re.compile("`circuit ([a-z-]+)([^`]*)` on this run")


class CircuitError(Exception):
    """What is wrong in one line, and in another what to do about it."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.add_note(hint)  # of a traceback, where the line behind the error is what to do


class UsageError(CircuitError):
    """A flag, profile key, value, slice or pin that makes no sense."""

    exit_code = 2


class InputError(CircuitError):
    """Missing, stale, corrupt or unfit input."""

    exit_code = 3


class NotHere(InputError):
    """What a task reads isn't on this machine, as another may have it."""


class HubError(CircuitError):
    """The network or the hub failed."""

    exit_code = 4


class ResourceError(CircuitError):
    """Out of memory or disk."""

    exit_code = 5


class CheckFailed(CircuitError):
    """A check ran and failed; `document` is what it found, for --json."""

    exit_code = 6

    def __init__(self, message: str, *, hint: str, document: dict[str, Any] | None = None) -> None:
        super().__init__(message, hint=hint)
        self.document = document or {}


class Stopped(CircuitError):
    """Ctrl-C (exit code 130), or a signal that ends the process (143)."""

    def __init__(self, code: int, *, hint: str = "The same command starts anew.") -> None:
        super().__init__("Interrupted." if code == INTERRUPTED else "Terminated.", hint=hint)
        self.exit_code = code


# Where there is no room for what is written: the disk's end, a person's share of it, the limit on a file (`ulimit -f`).
_NO_ROOM = {
    errno.ENOSPC: ("The disk is full", "Free some space and run the command again."),
    errno.EDQUOT: ("Your share of the disk is full", "Free some space and run the command again."),
    errno.EFBIG: ("A file may not grow that large here", "Raise the limit (`ulimit -f unlimited`) and run it again."),
}


def no_room(error: BaseException, path: Path | None = None) -> ResourceError | None:
    """The error of what can't be written for want of room, or of a folder for temporary files; None of any other."""
    if not isinstance(error, OSError):
        return None
    if isinstance(error, FileNotFoundError) and "No usable temporary directory" in str(error):
        return ResourceError(
            "There is no folder for temporary files that can be written.", hint="Set TMPDIR to one that can."
        )
    if error.errno not in _NO_ROOM:
        return None
    what, hint = _NO_ROOM[error.errno]
    return ResourceError(f"{what}: {path} couldn't be written." if path else f"{what}.", hint=hint)


def quoted(path: str | Path) -> str:
    """A path as a shell takes it for one word: for hints, which people paste."""
    return shlex.quote(str(path))


def naming(hint: str, run: str | Path) -> str:
    """A hint in which commands `on this run`, as whoever can't know the run says, name it as one pastes it."""
    option = f" --run {quoted(run)}"
    return _ON_THIS_RUN.sub(lambda found: f"`circuit {found[1]}{option}{found[2]}`", hint)


def nearest(name: str, known: Iterable[str], *, what: str) -> str:
    """A hint for an unknown name: the nearest known one first, then all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    guess = f"Did you mean `{close[0]}`? " if close else ""
    return f"{guess}Known {what}: {', '.join(names)}."
