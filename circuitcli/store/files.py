"""Files that exist only when they are finished, inside a folder that they can't leave."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from circuitcli.core import lfs
from circuitcli.errors import InputError, no_room

# To ask for the umask is to set it for a moment, in which nothing may be made.
_ASKING = threading.Lock()
# The suffix of a file that is being written, or never was finished.
UNFINISHED = ".part"


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its name once the block has ended well.

    Raises:
        ResourceError: The disk is full.
    """
    with no_space(path):
        make(path.parent)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=UNFINISHED, dir=path.parent)
        os.close(handle)
        part = Path(name)
        try:
            yield part
            _sync(part)
            part.chmod(0o666 & ~_umask())
            part.replace(path)
            _sync(path.parent)
        finally:
            part.unlink(missing_ok=True)


def write(path: Path, data: bytes | memoryview) -> None:
    """Write a whole file, or nothing."""
    with complete(path) as part:
        part.write_bytes(data)


def link(source: Path, path: Path) -> None:
    """Another name for a finished file, which nothing writes into; a copy where its file system has but one name."""
    with complete(path) as part:
        part.unlink()
        try:
            os.link(source, part)
        except OSError:
            shutil.copyfile(source, part)


@contextmanager
def no_space(path: Path) -> Iterator[None]:
    """Turn a full disk into an error that says so."""
    try:
        yield
    except OSError as error:
        known = no_room(error, path)
        if known is None:
            raise
        raise known from None


def make(folder: Path) -> list[Path]:
    """Make a folder and those above it, one by one: pathlib and os call themselves once for each, which ends at 1,000.

    Returns:
        Those that weren't there, the deepest first.
    """
    missing = list(takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    for path in reversed(missing):
        with _ASKING:
            path.mkdir(exist_ok=True)
    return missing


def unfinished(root: Path) -> Iterator[Path]:
    """What was never finished in a folder and those in it, however deep they are; links aren't followed."""
    folders = [root]
    while folders:
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif entry.name.startswith(".") and entry.name.endswith(UNFINISHED):
                    yield Path(entry.path)


def content(path: Path, most: int, *, what: str = "", hint: str) -> bytes:
    """The bytes of a file that somebody gave, `most` of them and one more if it has more.

    Raises:
        InputError: It can't be read, is a folder, a pipe (which would be waited for) or a device, or only a pointer to
            a file; `what` is what it should be, and `hint` what to do.
    """
    name = f"{what} {path}".strip()
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):
            found = "it is a folder" if stat.S_ISDIR(kind) else "it is no ordinary file"
            raise InputError(f"{name} can't be read: {found}.", hint=hint)
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise InputError(f"{name} can't be read: {error.strerror}.", hint=hint) from None
    except ValueError:  # a NUL, or half a character
        raise InputError(f"{name} can't be read: it is no path.", hint=hint) from None
    if lfs.is_pointer(data):
        raise lfs.pointer(name)
    return data


def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inside(root: Path, name: str) -> Path:
    """The file `name` of a folder; names that leave the folder, or pass through a link, are refused."""
    path = root / name
    parts = Path(name).parts
    outside = Path(name).is_absolute() or ".." in parts or not parts
    if outside or any((root / Path(*parts[: i + 1])).is_symlink() for i in range(len(parts))):
        raise InputError(
            f"{name!r} in the run {root} is a link or lies outside of it.",
            hint="Don't trust this run folder; make a new one.",
        )
    return path


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def _umask() -> int:
    with _ASKING:
        mask = os.umask(0)
        os.umask(mask)
    return mask
