"""Who holds what several processes want: a file that names a process, made by one alone, since it is made or was there.

It relies on O_EXCL, link and rename alone, which network file systems have too.
"""

from __future__ import annotations

import datetime
import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path


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


def created(path: Path) -> bool:
    """Whether this process has made the file, and holds it."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(handle, "wb") as file:
        file.write(words(Holder.me()))
    return True


def take_away(path: Path, holder: Holder | None) -> None:
    """Remove a file that names this holder, or nobody, and put it back if it names one who came in between."""
    aside = path.with_name(f"{path.name}-{socket.gethostname()}-{os.getpid()}")
    with suppress(FileNotFoundError, FileExistsError):
        path.rename(aside)
        if read(aside) != holder:
            os.link(aside, path)
    aside.unlink(missing_ok=True)


def words(holder: Holder) -> bytes:
    """What a file says of its holder."""
    return json.dumps(asdict(holder)).encode()


def read(path: Path) -> Holder | None:
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
