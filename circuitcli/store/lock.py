"""One process at a time in a run folder.

The kernel's lock (flock) where the file system has one: it goes with the process, however that ends. Where it has
none (some NFS and Lustre mounts), a file that says who works there: one of a process of this machine that has ended
is taken away, one of a process of another machine is refused, since nobody here can know whether it still runs.
"""

from __future__ import annotations

import datetime
import errno
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from circuitcli.errors import InputError

LOCK, HOLDER = ".lock", ".lock-holder"
# What flock answers where there are no locks.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EIO, errno.ENOSYS, errno.EINVAL)
_POLL_SECONDS = 0.2
# How long a holder's file may be there without words in it: somebody is writing them.
_UNWRITTEN_SECONDS = 2.0


@dataclass(frozen=True)
class Holder:
    """A process that works in a run; `born` tells it from a later one of the same number."""

    host: str
    pid: int
    born: str
    since: str

    @classmethod
    def me(cls) -> Holder:
        """The process that asks."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), _born(os.getpid()), now)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    def ended(self) -> bool:
        """Whether it is known to have ended: only of this machine's processes."""
        if self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return True
        except PermissionError:  # another person's
            pass
        return _born(self.pid) != self.born


@contextmanager
def locked(folder: Path, lock: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Be the one process that works in a folder; wait, and say for whom, while another one does.

    Args:
        folder: What is worked in.
        lock: The file to lock, in it; another one beside it is used where it can't be locked.
        say: Told of a wait.

    Raises:
        InputError: A process of another machine works there, or did, and no lock tells which.
    """
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0), 0o666)
    try:
        if _flock(handle, lambda: _wait(say, folder, _read(lock))):
            with suppress(OSError):  # only so that others can say who it is
                os.ftruncate(handle, 0)
                os.write(handle, _words(Holder.me()))
            yield
            with suppress(OSError):
                os.ftruncate(handle, 0)
        else:
            with _held(folder, lock.with_name(HOLDER), say):
                yield
    finally:
        os.close(handle)  # and with it goes the lock


def _flock(handle: int, wait: Callable[[], None]) -> bool:
    """Lock a file, after a wait if need be; False where the file system has no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


@contextmanager
def _held(folder: Path, path: Path, say: Callable[[str], None]) -> Iterator[None]:
    """The same by a file that is there as long as the process works."""
    told = False
    while not _created(path):
        holder = _read(path) or _unwritten(path)
        if holder is None:
            continue  # whoever held it has just ended
        if holder.ended():
            _take_away(path, holder)
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


def _created(path: Path) -> bool:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(handle, "wb") as file:
        file.write(_words(Holder.me()))
    return True


def _take_away(path: Path, holder: Holder) -> None:
    """Remove a file that names this holder, and put it back if it names one who came in between."""
    aside = path.with_name(f"{path.name}-{os.getpid()}")
    with suppress(FileNotFoundError, FileExistsError):
        path.rename(aside)
        if _read(aside) != holder:
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def _unwritten(path: Path) -> Holder | None:
    """Who holds a file that doesn't say so: none once it has gone, or says so after all."""
    until = time.monotonic() + _UNWRITTEN_SECONDS
    while time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
        if not path.exists() or _read(path):
            return None
    return Holder("a machine that isn't named", 0, "", "a time that isn't either")


def _wait(say: Callable[[str], None], folder: Path, holder: Holder | None) -> None:
    who = f" ({holder})" if holder else ""
    say(f"Another process is writing {folder}{who}: waiting for it (Ctrl-C to stop).")


def _words(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _read(path: Path) -> Holder | None:
    """Who a file names, if it names anybody."""
    try:
        with path.open("rb") as file:
            tree = json.loads(file.read(10_000))
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {"host": str, "pid": int, "born": str, "since": str}
    right = isinstance(tree, dict) and {key: type(value) for key, value in tree.items()} == kinds and tree["pid"] > 0
    return Holder(**tree) if right else None


def _born(pid: int) -> str:
    """When a process started, in ticks since this machine did; nothing where /proc doesn't say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
