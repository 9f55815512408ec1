"""Claims: which of several processes, on whatever machines share a folder, does a piece of work.

A claim is a file that one process alone can have made. It is renewed while its process lives; one of a process of this
machine that has ended, or that nobody has renewed for a while by the folder's own clock, is taken over. Should its
process live after all, the piece is done twice, to the same bytes: a claim saves work, no result hangs on it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from circuitcli.errors import InputError
from circuitcli.store import files
from circuitcli.store.holder import Holder, created, read

PATIENCE_SECONDS = 60.0
_RENEWALS = 6  # in that time
_POLL_SECONDS = 0.5


class Claims:
    """The claims in a folder, as one process sees them."""

    def __init__(self, folder: Path, patience: float = PATIENCE_SECONDS) -> None:
        """Nothing is claimed yet.

        Args:
            folder: Of their files; it is made.
            patience: Seconds for which a claim that isn't renewed stands.

        Raises:
            InputError: The folder can't be written.
        """
        self._folder, self._patience = folder, patience
        try:
            files.make(folder)
            self._now()
        except OSError as error:
            raise InputError(
                f"{folder} can't be written: {error.strerror}.",
                hint="Shards are shared by a folder that all processes may write: check its rights and its mount.",
            ) from None

    @contextmanager
    def taken(self, name: str) -> Iterator[bool]:
        """Whether this process does a piece of work, which nobody else begins as long as the block lasts."""
        path = self._folder / name
        if not self._take(path):
            yield False
            return
        ended = threading.Event()
        renewing = threading.Thread(target=self._renew, args=(path, ended), daemon=True)
        renewing.start()
        try:
            yield True
        finally:
            ended.set()
            renewing.join()
            self._release(path)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Wait until a piece of work is this process's, and do it."""
        while True:
            with self.taken(name) as mine:
                if mine:
                    yield
                    return
            time.sleep(_POLL_SECONDS)

    def alive(self) -> dict[str, Holder]:
        """Who holds what, of processes that haven't ended as far as is known."""
        found = {path.name: read(path) for path in self._folder.iterdir() if not path.name.startswith(".")}
        return {
            name: holder for name, holder in found.items() if holder and not self._dead(self._folder / name, holder)
        }

    def _take(self, path: Path) -> bool:
        if created(path):
            return True
        holder = read(path)
        if holder is None and self._age(path) < self._patience:
            return False  # it is being written, or has just been given up
        return (holder is None or self._dead(path, holder)) and self._take_over(path)

    def _take_over(self, path: Path) -> bool:
        """Take a claim that stands no more: one process at a time looks at it again, and makes it anew."""
        guard = path.with_name(f".taking-{path.name}")
        if not created(guard):
            if self._age(guard) >= self._patience:
                guard.unlink(missing_ok=True)
            return False
        try:
            holder = read(path)
            if holder is not None and not self._dead(path, holder):
                return False
            path.unlink(missing_ok=True)
            return created(path)
        finally:
            guard.unlink(missing_ok=True)

    def _dead(self, path: Path, holder: Holder) -> bool:
        return holder.ended() or self._age(path) >= self._patience

    def _age(self, path: Path) -> float:
        """Seconds since a claim was renewed, by the clock of whatever keeps the folder."""
        try:
            return self._now() - path.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _now(self) -> float:
        clock = self._folder / f".clock-{socket.gethostname()}-{os.getpid()}"
        try:
            clock.write_bytes(b"")
            os.utime(clock)
            return clock.stat().st_mtime
        finally:
            clock.unlink(missing_ok=True)

    def _renew(self, path: Path, ended: threading.Event) -> None:
        while not ended.wait(self._patience / _RENEWALS):
            with suppress(OSError):  # somebody took it over; what is done here is done all the same
                os.utime(path)

    def _release(self, path: Path) -> None:
        mine, holder = Holder.me(), read(path)
        if holder is not None and (holder.host, holder.pid, holder.born) == (mine.host, mine.pid, mine.born):
            path.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Remove all claims, and their folder, if it is there; nobody may be at work."""
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink(missing_ok=True)
        folder.rmdir()
