"""Files that exist only when they are finished, inside a folder that they can't leave."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from circuitcli.errors import InputError, ResourceError

# The suffix of a file that is being written, or never was finished.
UNFINISHED = ".part"


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, which takes its name once the block has ended well.

    Raises:
        ResourceError: The disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=UNFINISHED, dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        with no_space(path):
            yield part
            _sync(part)
            part.chmod(0o666 & ~_umask())
            part.replace(path)
            _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write(path: Path, data: bytes) -> None:
    """Write a whole file, or nothing."""
    with complete(path) as part:
        part.write_bytes(data)


@contextmanager
def no_space(path: Path) -> Iterator[None]:
    """Turn a full disk into an error that says so."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise ResourceError(
            f"The disk is full: {path} couldn't be written.", hint="Free some space and run the command again."
        ) from None


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
    mask = os.umask(0)
    os.umask(mask)
    return mask
