"""The cache: where each file, or the part of it that has come, lies on the disk."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub.file_download import repo_folder_name

from circuitcli.errors import ResourceError, no_room
from circuitcli.runtime.hub.errors import in_units
from circuitcli.runtime.remote import RemoteFile, stays_inside, total

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")


class Folder:
    """The cache's folder of one repository: refs, blobs and snapshots."""

    def __init__(self, cache: Path, repo: str) -> None:
        name = repo_folder_name(repo_id=repo, repo_type="model")
        self.repo = repo
        self.locks = cache / ".locks" / name
        self._root = cache / name

    def blob(self, name: str) -> Path:
        return self._root / "blobs" / name

    def partial(self, name: str) -> Path:
        """Not the `.incomplete` of other tools: those may be written out of order, and have holes."""
        return self._root / "blobs" / f"{name}.circuit.incomplete"

    def pointer(self, commit: str, path: str) -> Path:
        return self._root / "snapshots" / commit / path

    def commit(self, revision: str) -> str | None:
        """The commit that the cache has for a branch, a tag or a commit."""
        ref = self._root / "refs" / revision
        commit = ref.read_text().strip() if stays_inside(revision) and ref.is_file() else revision
        return commit if COMMIT.fullmatch(commit) else None

    def remember(self, revision: str, commit: str) -> None:
        """Note a revision's commit; a cache that can't be written does without."""
        if not stays_inside(revision) or self.commit(revision) == commit:
            return
        ref = self._root / "refs" / revision
        part = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            ref.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(commit)
            part.replace(ref)

    def listing(self, revision: str) -> list[RemoteFile]:
        """What the cache has of a revision."""
        commit = self.commit(revision)
        snapshot = self.pointer(commit or "-", "")
        paths = sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file())
        return [file for file in (self.find(revision, path) for path in paths) if file]

    def find(self, revision: str, path: str) -> RemoteFile | None:
        """A file of a revision, if the cache has it."""
        commit = self.commit(revision)
        if commit is None or not stays_inside(path):
            return None
        pointer = self.pointer(commit, path)
        if not pointer.is_file():
            return None
        blob = pointer.resolve().name
        sha256 = blob if SHA256.fullmatch(blob) else None
        return RemoteFile(self.repo, path, commit, pointer.stat().st_size, sha256, pointer, blob, revision=revision)

    def now(self, file: RemoteFile) -> RemoteFile:
        """The same file, with where it lies now, or how much of it."""
        pointer, blob, partial = self.pointer(file.commit, file.path), self.blob(file.blob), self.partial(file.blob)
        there = [path for path in (pointer, blob) if path.is_file()]
        have = partial.stat().st_size if partial.is_file() else 0
        return replace(file, cached=there[0] if there else None, partial=have if have <= (file.size or 0) else 0)

    def link(self, blob: Path, pointer: Path) -> None:
        """Show a blob in a snapshot; where links can't be made, it moves there."""
        pointer.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            try:
                if pointer.is_symlink() and not pointer.exists():
                    pointer.unlink()
                pointer.symlink_to(os.path.relpath(blob, pointer.parent))
            except (NotImplementedError, PermissionError):
                blob.replace(pointer)


def check_room(cache: Path, missing: Sequence[RemoteFile]) -> None:
    """Refuse to begin what can't end well.

    Raises:
        ResourceError: The disk has less free than these files need.
    """
    there = next(path for path in (cache, *cache.absolute().parents) if path.is_dir())
    needed, free = total(missing), shutil.disk_usage(there).free
    if needed > free:
        raise ResourceError(
            f"{in_units(needed)} are to be downloaded, but only {in_units(free)} are free in {cache}.",
            hint="Free some space, or keep the cache elsewhere: set HF_HUB_CACHE to a folder on another disk.",
        )


@contextlib.contextmanager
def writing(cache: Path) -> Iterator[None]:
    """Within it a full disk, or a cache that can't be written, is told in two lines: it is no bug.

    Raises:
        ResourceError: It is one of them.
    """
    try:
        yield
    except OSError as error:
        known = no_room(error, cache)
        if known is not None:
            raise ResourceError(known.message, hint=f"{known.hint} What has been downloaded is kept.") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise ResourceError(
                f"The cache {cache} can't be written.", hint="Set HF_HUB_CACHE to a folder of your own."
            ) from None
        raise
