"""A shard that sleeps as long as a real one takes, and gives back as much."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa

from circuitcli.core.branches import Branches
from circuitcli.executors import Done, Say
from circuitcli.stages.written import Written
from circuitcli.store.tables import Encoded

# Of a shard: its ablations, the seconds that they take, and the bytes of its files.
ABLATIONS, SECONDS = 3200, 5.2
SIZES = {"effects": 9_000_000, "logits": 60_000, "contexts": 130_000}


@cache
def made(kind: str) -> bytes:
    return os.urandom(2 * SIZES[kind])


@dataclass(frozen=True, eq=False)
class Sleep:
    """A shard that takes so long.

    Attributes:
        seconds: How long.
        task: What would be computed, which travels.
        seed: Of where it leads.
    """

    seconds: float
    task: Any = None
    seed: int = 0

    def __len__(self) -> int:
        return len(self.task) if self.task else 1

    def compute(self, sources: Any, *, done: Done, say: Say) -> Written | None:
        time.sleep(self.seconds)
        if self.task is None:
            return None
        share = len(self) / ABLATIONS
        files = {
            kind: Encoded(pa.py_buffer(made(kind)).slice(0, int(size * share)), len(self))
            for kind, size in SIZES.items()
        }
        return Written(files, self._branches())

    def _branches(self) -> Branches:
        features, follow = np.asarray(self.task.task.features), self.task.follow
        count = len(features) * follow.branching * bool(follow.firing)
        lots, fires = np.random.default_rng(self.seed), np.zeros(1, np.int64)
        for packed in follow.firing.values():
            fires = np.flatnonzero(np.unpackbits(np.frombuffer(packed, np.uint8)))
        return Branches(
            features=features,
            contexts=np.bincount(self.task.task.ablations.slot, minlength=len(features)),
            source=np.repeat(np.arange(len(features)), count // len(features)),
            site=np.zeros(count, np.int64),
            target=lots.choice(fires, count),
            mean=lots.normal(size=count),
            sites=tuple(follow.firing),
        )

    def halves(self) -> Sequence[Sleep]:
        return ()

    def joined(self, results: Sequence[Any]) -> Any:
        return results[0]
