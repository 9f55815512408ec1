"""A run: one folder that holds everything of one experiment."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli_w

from circuitcli.errors import InputError, UsageError, quoted
from circuitcli.store import files, lock, records, written
from circuitcli.store.records import FileEntry, Plan, Record


class Run:
    """A run folder: its settings, and the plans, records and files of its stages."""

    def __init__(self, root: Path, folders: Mapping[str, str] = MappingProxyType({})) -> None:
        """A run folder, which needn't exist yet.

        Args:
            root: Where it is.
            folders: Of its stages, by their names; what isn't asked of a stage needs none.

        Raises:
            UsageError: The path is a file, a link, or a folder with something else in it.
        """
        self.root, self.folders = root, folders
        self._verified: set[str] = set()
        self._records: dict[Path, tuple[tuple[int, ...], Record]] = {}  # as they were when last read
        self._held = False  # by this process, which then wants it to stay
        if root.is_symlink() or (root.exists() and not root.is_dir()):
            raise UsageError(f"{root} is a link or a file, not a run folder.", hint="Name a folder with --run.")
        if root.is_dir() and not self.settings_path.is_file() and any(_content(root)):
            raise UsageError(
                f"{root} has files in it but no settings.toml: it isn't a run folder.",
                hint="Name an empty or a new folder with --run.",
            )

    @property
    def title(self) -> str:
        """Its name as text, whatever bytes it has."""
        return os.fsencode(self.root.resolve().name).decode(errors="backslashreplace")

    @property
    def settings_path(self) -> Path:
        """The run's own settings."""
        return self.path("settings.toml")

    def settings(self) -> dict[str, Any]:
        """The run's own settings as written; empty for a new run."""
        if not self.settings_path.exists():
            return {}
        hint = "Mend the file, or make a new run."
        try:
            return written.toml(written.text(self.settings_path, "", hint=hint), str(self.settings_path))
        except UsageError as error:  # of a file in a run, and so no usage
            raise InputError(error.message, hint=hint) from None

    def save_settings(self, tree: dict[str, Any]) -> None:
        """Write the settings, if they changed."""
        data = tomli_w.dumps(tree).encode()
        if not self.settings_path.is_file() or self.settings_path.read_bytes() != data:
            files.write(self.settings_path, data)

    @contextmanager
    def locked(self, say: Callable[[str], None], *, shared: bool = False) -> Iterator[None]:
        """Be the one process that writes this run, or one of those that share it; wait, and say so, for another one.

        A command that was refused leaves no trace: folders in which nothing was written go away again.
        """
        with files.no_space(self.root):
            try:
                made = files.make(self.root)
            except FileNotFoundError:  # such as /proc, which says so of what can't be made there
                raise InputError(f"{self.root} can't be made.", hint="Name another folder with --run.") from None
        with lock.locked(self.root, self.path(lock.LOCK), say, shared=shared):
            self._held = True
            try:
                yield
            except FileNotFoundError as error:
                if not self._has(error.filename):
                    raise
                raise _gone(Path(os.fsdecode(error.filename))) from None
            finally:
                self._held = False
                with suppress(OSError):  # a folder with something in it stays
                    if not any(_content(self.root)):
                        self.path(lock.LOCK).unlink()
                    for folder in made:
                        folder.rmdir()

    def _has(self, path: str | bytes | None) -> bool:
        """Whether a path lies in this run."""
        return path is not None and Path(os.path.abspath(os.fsdecode(path))).is_relative_to(os.path.abspath(self.root))

    def folder(self, stage: str) -> Path:
        """The folder of a stage."""
        return self.root / self.folders[stage]

    def _about(self, stage: str, what: str) -> Path:
        return self.path(f"{self.folders[stage]}/{what}.json")

    def plan(self, stage: str) -> Plan | None:
        """What the stage set out to do, if it has started."""
        return records.load_plan(self._about(stage, "plan"))

    def save_plan(self, stage: str, plan: Plan) -> None:
        """Write a stage's plan; before any of its files."""
        records.save(self._about(stage, "plan"), plan)

    def record(self, stage: str) -> Record | None:
        """What the stage did, if it is done. It is read again once another file is in its place."""
        path = self._about(stage, "stage")
        try:
            status = path.stat()
        except OSError:
            return records.load_record(path)
        now = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        then, known = self._records.get(path, ((), None))
        if known is None or then != now:
            known = records.load_record(path)
            if known is not None:
                self._records[path] = now, known
        return known

    def save_record(self, stage: str, record: Record) -> None:
        """Write a stage's record; last."""
        records.save(self._about(stage, "stage"), record)

    def reopen(self, stage: str, descendants: Sequence[str] = ()) -> None:
        """Take back the records of a stage and, first, of those that build on it, so that they count as not done."""
        for name in reversed(descendants):
            with suppress(InputError):  # of a damaged plan, which is told when its stage is worked on
                plan = self.plan(name)
                if plan is not None and self._about(name, "stage").exists():  # it was done, not interrupted
                    self.save_plan(name, replace(plan, reopened=stage))
            self._about(name, "stage").unlink(missing_ok=True)
        self._about(stage, "stage").unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what a killed process left unfinished."""
        for path in files.unfinished(self.root):
            path.unlink(missing_ok=True)

    def discard(self, stage: str, descendants: Sequence[str] = ()) -> None:
        """Remove what a stage wrote: first the records that `reopen` takes back, then only the files of its plan."""
        plan = self.plan(stage)
        paths = {name: self.path(name) for name in (plan.shards if plan else ())}
        self.reopen(stage, descendants)
        for name, path in paths.items():
            path.unlink(missing_ok=True)
            self._verified.discard(name)
            for folder in path.parents[: len(path.relative_to(self.folder(stage)).parents) - 1]:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()
        self._about(stage, "plan").unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """A path in the run by its name in plans and records.

        Raises:
            InputError: It leaves the run; or the folder, in which this process works, is no longer there.
        """
        if self._held and not self.root.is_dir():  # else what is written next would make it anew, without the rest
            raise _gone(self.root)
        return files.inside(self.root, name)

    def name(self, path: Path) -> str:
        """The name of a path in plans and records."""
        return path.relative_to(self.root).as_posix()

    def entry(self, path: Path, rows: int | None = None) -> FileEntry:
        """What the record says of a file that was just written or found complete."""
        return FileEntry(files.digest(path), rows, path.stat().st_size)

    def adopt(self, stage: str, other: Run) -> None:
        """Take over a stage that another run has finished, unless that was done: its files are of both then.

        Raises:
            InputError: It isn't finished there, or a file is missing or of another size.
        """
        record, plan = other.require(stage), other.plan(stage)
        if plan is None or self.record(stage) == record:
            return
        self.save_plan(stage, plan)
        for name, entry in record.files.items():
            if not other.path(name).is_file():
                raise missing(other.path(name), stage)
            other.verify(stage, name, entry, hashed=False)
            files.link(other.path(name), self.path(name))
        self.save_record(stage, record)

    def verified(self, stage: str, name: str) -> Path:
        """A file of a finished stage, once its hash was checked against the record.

        Raises:
            InputError: The stage isn't done, or the file is missing, not of the stage, or not as recorded.
        """
        record = self.require(stage)
        path = files.inside(self.root, name)
        entry = record.files.get(name)
        if entry is None or not path.is_file():
            raise missing(path, stage)
        if name not in self._verified:
            self.verify(stage, name, entry)
            self._verified.add(name)
        return path

    def verify(self, stage: str, name: str, entry: FileEntry, *, hashed: bool = True) -> None:
        """Check a file of a stage against its entry in a record.

        Raises:
            InputError: Its size or, where that is checked, its hash is another one.
        """
        path = files.inside(self.root, name)
        if not self.as_recorded(path, entry, hashed=hashed):
            size = path.stat().st_size
            wrong = f"it has {size:,} bytes" if entry.bytes not in (None, size) else "its sha256 is wrong"
            raise InputError(
                f"{path} isn't what was recorded: {wrong}.", hint=f"Run `circuit {stage} --force` on this run."
            )

    def as_recorded(self, path: Path, entry: FileEntry, *, hashed: bool = True) -> bool:
        """Whether a file has the size and, where that is checked, the hash that a record says."""
        return entry.bytes in (None, path.stat().st_size) and (not hashed or files.digest(path) == entry.sha256)

    def require(self, stage: str) -> Record:
        """The record of a stage that must be done.

        Raises:
            InputError: It isn't.
        """
        record = self.record(stage)
        if record is None:
            raise InputError(
                f"{self.root} has no finished {stage} stage.",
                hint=f"Run `circuit {stage} --run {quoted(self.root)}` first.",
            )
        return record

    def free_disk(self) -> int:
        """Bytes free on the run's disk."""
        return shutil.disk_usage(self.root).free


def missing(path: Path, stage: str) -> InputError:
    """A file of a finished stage isn't there."""
    return InputError(f"{path} is missing.", hint=f"Run `circuit {stage} --force` on this run.")


def _content(root: Path) -> Iterator[Path]:
    """What lies in a folder, but for the lock, and what was never finished, of a run that hasn't begun."""
    aside = (lock.LOCK, lock.HOLDER)
    return (path for path in root.iterdir() if path.name not in aside and path.suffix != files.UNFINISHED)


def _gone(path: Path) -> InputError:
    return InputError(
        f"{path} is gone: something removed it while this run was being written.",
        hint="Leave the folder of a run alone until its command has ended, and run the command again.",
    )
