"""What any work goes by and works with, whether a run is there or not: settings, whom to tell, the device, the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitcli.executors import Executor
from circuitcli.executors.local import Local
from circuitcli.runtime.remote import RemoteFile, total
from circuitcli.settings import Settings, defaults, table, to_dict
from circuitcli.stages.report import Beside, Report
from circuitcli.store import records

if TYPE_CHECKING:
    from circuitcli.runtime.checkpoint import Checkpoint
    from circuitcli.runtime.device import Runtime
    from circuitcli.runtime.hub import Hub


@dataclass(frozen=True)
class Tools:
    """Settings, a report, where tasks are computed, and what is made by them when it is first needed."""

    settings: Settings
    report: Report
    executor: Executor = field(default_factory=Local, kw_only=True)

    @cached_property
    def runtime(self) -> Runtime:
        """The device, dtype, threads and seeds of this process; torch is imported only now, which takes seconds."""
        with self.report.track("Starting torch", 0, ""):
            from circuitcli.runtime import device as devices
        runtime = self.settings.runtime
        size = None if runtime.batch_size == "auto" else runtime.batch_size
        return devices.make(runtime.device, runtime.dtype, size, self.settings.seed)

    @property
    def behind(self) -> bool:
        """Whether this process has time to write while tasks are computed: by others, or by a GPU."""
        return self.executor.elsewhere or self.runtime.device.type != "cpu"

    @contextmanager
    def tracking(self, what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """Progress over tasks, with what the executor says of itself beside it."""
        watched = self.report.beside(self.executor.words) if isinstance(self.report, Beside) else nullcontext()
        with watched, self.report.track(what, total, unit) as done:
            yield done

    @cached_property
    def hub(self) -> Hub:
        """Where models and SAEs are fetched from."""
        from circuitcli.runtime.hub import Hub

        return Hub()

    def fetch(self, files: Sequence[RemoteFile]) -> list[Path]:
        """Files of the hub, with one bar over all that aren't in the cache."""
        size = total(files)
        if not size:
            return self.hub.fetch(files)
        with self.report.track("Downloading", size, "B") as done:
            return self.hub.fetch(files, done)

    def find(self, revision: str) -> Checkpoint:
        """The model of the settings at a revision; transformers reads its configuration, and is imported only now."""
        with self.report.track(f"Looking at {self.settings.model}", 0, ""):
            from circuitcli.runtime import checkpoint as checkpoints

            return checkpoints.find(self.settings.model, revision, self.hub)

    def chosen(self, prefixes: tuple[str, ...]) -> dict[str, Any]:
        """The settings with these prefixes, flat, as JSON holds them."""
        tree = to_dict(self.settings)
        flat: dict[str, Any] = {}
        for row in table():
            head, _, name = row.key.rpartition(".")
            part = tree.get(head, {}) if head else tree
            if row.key.startswith(prefixes) and name in part:
                flat[row.key] = part[name]
        return flat

    def changes(self, then: Mapping[str, Any], prefixes: tuple[str, ...]) -> list[str]:
        """The settings with these prefixes that aren't as then; of what a plan or record doesn't name the defaults."""
        told = {key: value for key, value in then.items() if key.startswith(prefixes) and key in defaults()}
        return records.changes({**defaults(), **told}, {**defaults(), **self.chosen(prefixes)})
