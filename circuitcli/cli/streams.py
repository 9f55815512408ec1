"""stdout and stderr as a process is given them: closed, full, or of an encoding that lacks characters."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from circuitcli.errors import ResourceError


@contextmanager
def ready() -> Iterator[None]:
    """Streams to write to: closed ones lead nowhere, stdout that fails is an error, and stderr that fails is none."""
    before = sys.stdout, sys.stderr
    _fill()
    out, err = (stream or open(os.devnull, "w", encoding="utf-8") for stream in before)  # noqa: SIM115
    for stream in (out, err):
        if isinstance(stream, io.TextIOWrapper):  # characters that the encoding lacks are shown as escapes
            stream.reconfigure(errors="backslashreplace")
    sys.stdout, sys.stderr = _Data(out), _Words(err)
    try:
        yield
    finally:
        sys.stderr.flush()
        for stream in (sys.stdout, sys.stderr):
            if stream.lost:
                drop(stream.fileno())
        sys.stdout, sys.stderr = before


def drop(number: int) -> None:
    """Write nothing more to a descriptor, not even at exit what its stream still holds."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)


class _Data:
    """A stream that says in this tool's words that it can't be written, and from then on isn't tried again."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, do: Callable[..., Any], *args: str) -> None:
        try:
            if self.lost is None:
                do(*args)
        except BrokenPipeError:  # nobody reads any more, as after `| head`: no failure
            raise
        except OSError as error:
            self.lost = error
        if self.lost is not None:
            self._tell(self.lost)

    def _tell(self, error: OSError) -> None:
        raise ResourceError(
            f"stdout can't be written: {error.strerror}.", hint="Make room where it leads, or send it elsewhere."
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Words(_Data):
    """A stream whose words are lost where they can't be written: the work goes on."""

    def _tell(self, error: OSError) -> None:
        pass


def _fill() -> None:
    """Open what is closed of the first three descriptors, or a file that is opened next would get what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
