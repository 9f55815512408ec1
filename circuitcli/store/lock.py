"""One process at a time in a run folder, or several that share it, and no other beside them.

The kernel's lock (flock) where the file system has one: it goes with the process, however that ends. Where it has
none (some NFS and Lustre mounts), a file that says who works there: one of a process of this machine that has ended
is taken away, one of a process of another machine is refused, since nobody here can know whether it still runs.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from circuitcli.errors import InputError
from circuitcli.store.holder import Holder, created, read, take_away, words

LOCK, HOLDER = ".lock", ".lock-holder"
# What flock answers where there are no locks.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EIO, errno.ENOSYS, errno.EINVAL)
_POLL_SECONDS = 0.2
# How long a holder's file may be there without words in it: somebody is writing them.
_UNWRITTEN_SECONDS = 2.0


@contextmanager
def locked(folder: Path, lock: Path, say: Callable[[str], None], *, shared: bool = False) -> Iterator[None]:
    """Be the one process that works in a folder; wait, and say for whom, while another one does.

    Args:
        folder: What is worked in.
        lock: The file to lock, in it; another one beside it is used where it can't be locked.
        say: Told of a wait.
        shared: Whether others that share it may work there too. Where the file system has no locks it is waited for
            whoever works alone, and nobody is kept from it after that.

    Raises:
        InputError: A process of another machine works there, or did, and no lock tells which.
    """
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        if _flock(handle, lambda: _wait(say, folder, read(lock)), shared=shared):
            with suppress(OSError):  # only so that others can say who it is
                os.ftruncate(handle, 0)
                os.write(handle, words(Holder.me()))
            yield
            with suppress(OSError):
                os.ftruncate(handle, 0)
        elif shared:
            with _held(folder, lock.with_name(HOLDER), say):
                pass
            yield
        else:
            with _held(folder, lock.with_name(HOLDER), say):
                yield
    finally:
        os.close(handle)  # and with it goes the lock


def _flock(handle: int, wait: Callable[[], None], *, shared: bool) -> bool:
    """Lock a file, after a wait if need be; False where the file system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        try:
            fcntl.flock(handle, how | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(handle, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


@contextmanager
def _held(folder: Path, path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """The same by a file that is there as long as the process works."""
    told = False
    while not created(path):
        holder = read(path) or _unwritten(path)
        if holder is None:
            continue  # whoever held it has just ended
        if holder.ended():
            take_away(path, holder)
        elif holder.host != socket.gethostname():
            raise InputError(
                f"{folder} is taken by {holder}, and its file system has no locks that would say whether that still "
                "runs.",
                hint=f"If it no longer does, remove {path} and run the command again.",
            )
        else:
            if not told:
                _wait(say, folder, holder)
            told = True
            time.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _unwritten(path: Path) -> Holder | None:
    """Who holds a file that doesn't say so: none once it has gone, or says so after all."""
    until = time.monotonic() + _UNWRITTEN_SECONDS
    while time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
        if not path.exists() or read(path):
            return None
    return Holder("a machine that isn't named", 0, "", "a time that isn't either")


def _wait(say: Callable[[str], None], folder: Path, holder: Holder | None) -> None:
    who = f" ({holder})" if holder else ""
    say(f"Another process is writing {folder}{who}: waiting for it (Ctrl-C to stop).")
