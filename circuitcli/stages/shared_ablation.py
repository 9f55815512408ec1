"""Ablations by several processes that share a run: what they agree on beside the plan is where the features start."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from circuitcli.core.sites import FeatureId, parse_feature
from circuitcli.core.words import amount
from circuitcli.errors import CircuitError, InputError
from circuitcli.stages import sharing
from circuitcli.stages.ablate import NAME, Ablating
from circuitcli.stages.sharing import Part, Shared
from circuitcli.stages.stage import Job, Outcome
from circuitcli.store import ablations, files
from circuitcli.store.ablations import Shard
from circuitcli.store.claims import Claims
from circuitcli.store.records import fingerprint

if TYPE_CHECKING:
    from circuitcli.stages.start import Start


@dataclass(frozen=True)
class Ablated(Shared):
    """What came of a part.

    Attributes:
        features, contexts: How many features are ablated, at how many contexts.
    """

    features: int
    contexts: int


def share(job: Job, part: Part) -> Ablated | None:
    """Do a part of the ablations, and what others leave; None if the stage is done.

    Raises:
        InputError: The stage was begun from other inputs, or the folder can't be written.
        ResourceError: Something doesn't fit into memory or on the disk.
    """
    todo = sharing.begin(job, NAME, {}, part, lambda todo: Ablating(job, todo).inputs.batch_size)
    if todo is None:
        return None
    work = _Sharing(job, todo)
    job.report.say(f"{NAME}: part {part.number} of {part.count}; starts from {work.start.words}.")
    expected = work.estimate()
    if expected is not None:
        expected.check(allow_over_memory=job.settings.runtime.allow_over_memory)
    chosen, contexts = work.every_layer()
    made = sharing.ended(todo).made
    return Ablated(made, len(work.shards(chosen)), len(chosen), contexts)


def merge(job: Job) -> Outcome:
    """End the stage: verify that all shards are there, and write its record.

    Raises:
        InputError: Some are missing, or somebody is still at work on them.
    """
    before = job.run.record(NAME)
    return sharing.merge(job, NAME, {}, lambda todo: _Merging(job, todo, before).work())


class _Agreed(Ablating):
    """The work of the stage, from the start on which processes that share it have agreed."""

    def agreed_start(self) -> Start | None:
        """The start, if anybody has written it."""
        from circuitcli.stages.start import Start

        try:
            said = json.loads(self._start.read_bytes())
            return Start([parse_feature(name) for name in said["features"]], str(said["words"]))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, RecursionError, CircuitError):
            raise InputError(
                f"{self._start} isn't as it was written.", hint="Remove it, and the next part chooses the start anew."
            ) from None

    def agree(self, start: Start) -> None:
        """Write it."""
        said = {"features": [str(feature) for feature in start.features], "words": start.words}
        files.write(self._start, json.dumps(said).encode())

    @property
    def _start(self) -> Path:
        decided = {"plan": self.todo.plan.fingerprint, **self.job.chosen(self.job.stages[NAME].chooses)}
        return self.job.claims(NAME) / f".start-{fingerprint(decided)[:16]}.json"


class _Sharing(_Agreed):
    """A part of the work of the stage."""

    def have(self, shard: Shard) -> bool:
        """Whether it is there, whoever made it."""
        return self.there(shard)

    def choose_start(self) -> Start:
        with Claims(self.job.claims(NAME)).alone("start"):
            found = self.agreed_start()
            if found is None:
                self.job.runtime.with_plan(batch_size=self.todo.plan.batch_size, threads=self.todo.plan.threads)
                found = super().choose_start()
                self.agree(found)
            return found


class _Merging(_Agreed):
    """The work of the stage, none of which is left."""

    def choose_start(self) -> Start:
        return self.agreed_start() or super().choose_start()

    def shards(self, features: Sequence[FeatureId]) -> list[Shard]:
        """Those that were planned; none is planned now."""
        planned = {FeatureId(s.site, i) for s in ablations.shards(self.todo.plan.shards) for i in s.features}
        new = len(set(features) - planned)
        if new:
            raise InputError(
                f"No part has begun {amount(new, 'feature')} of those that are chosen.", hint=sharing.missing(NAME)
            )
        return super().shards(features)
