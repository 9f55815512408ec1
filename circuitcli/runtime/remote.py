"""Files on a hub, as plain records: to name one imports no library and asks nobody."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository at one commit.

    Attributes:
        sha256: Of a large file, as the hub states it; None for a small one, which is kept in git.
        cached: Where it lies if nothing needs downloading.
        blob: The hash that names its content in the cache: the sha256, or git's sha1.
        partial: Bytes of it that an earlier try has left.
        revision: What was asked for; the cache remembers its commit once the files are there.
    """

    repo: str
    path: str
    commit: str
    size: int | None
    sha256: str | None
    cached: Path | None
    blob: str = ""
    partial: int = 0
    revision: str = ""


def total(files: Iterable[RemoteFile]) -> int:
    """Bytes still to download; the same content counts once."""
    missing = {(file.repo, file.blob or file.path): file for file in files if file.cached is None}
    return sum(max((file.size or 0) - file.partial, 0) for file in missing.values())


def stays_inside(path: str) -> bool:
    """Whether a path of the hub's stays in the folder that it is joined to."""
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts and path[0] != "/" and "\\" not in path and "\0" not in path
