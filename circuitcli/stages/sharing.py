"""Ablations by several processes that share a run's folder, as the tasks of an array job do: no one leads them.

1.  Whoever comes first plans: what a plan, the start and new shards are is agreed on under a claim (`store.claims`).
2.  Each process takes shards that nobody has, those of its own part first, and publishes their tables by rename.
3.  A layer's features follow from the effects of the layer before: who finds nothing to do waits for the others, and
    does what they leave when they end.
4.  One process merges: it writes the record, as the stage by one process does.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from circuitcli.core.sites import FeatureId, parse_feature
from circuitcli.core.words import amount
from circuitcli.errors import CircuitError, InputError, UsageError
from circuitcli.executors.local import Local
from circuitcli.stages.ablate import NAME, Ablating
from circuitcli.stages.stage import Job, Outcome, Work, stage, unstarted
from circuitcli.store import ablations, files
from circuitcli.store.ablations import Shard
from circuitcli.store.claims import Claims, sweep
from circuitcli.store.records import fingerprint

if TYPE_CHECKING:
    from circuitcli.core.contexts import Firings
    from circuitcli.stages.start import Start

_PLAN = "plan"
_POLL_SECONDS = 0.5
_AUTO = "auto"
_SLURM = "SLURM_ARRAY_TASK_"
_MISSING = "`circuit ablate --shard 1/1` on this run computes them, and so does the stage without --merge."


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, counted from 1."""

    number: int
    count: int

    def first(self, shards: Sequence[Shard]) -> Iterator[Shard]:
        """Its own shards, then those of the others, the last first: who is done soonest helps the slowest."""
        place = self.number - 1
        yield from shards[place :: self.count]
        yield from reversed([one for i, one in enumerate(shards) if i % self.count != place])


def part(text: str, environment: Mapping[str, str] = os.environ) -> Part:
    """`3/8`; `auto` is the task of the SLURM array job in which this process runs.

    Raises:
        UsageError: It is neither, or there is no such job.
    """
    if text == _AUTO:
        return _of_array(environment)
    number, slash, count = text.partition("/")
    hint = "Give the part and how many there are, counted from 1: --shard 3/8."
    if not (slash and all(n.isascii() and n.isdecimal() and len(n) < 10 for n in (number, count))):
        raise UsageError(f"--shard {text:.40} is no part of a whole.", hint=hint)
    found = Part(int(number), int(count))
    if not 1 <= found.number <= found.count:
        raise UsageError(f"There is no part {found.number} of {found.count}.", hint=hint)
    return found


def _of_array(environment: Mapping[str, str]) -> Part:
    def value(name: str, default: str = "") -> int:
        return int(environment.get(f"{_SLURM}{name}") or default)

    try:
        first, step = value("MIN"), value("STEP", "1")
        found = Part((value("ID") - first) // step + 1, value("COUNT"))
    except (ValueError, ZeroDivisionError):
        found = Part(0, 0)
    if not 1 <= found.number <= found.count:
        raise UsageError(
            "--shard auto is for a task of a SLURM array job, and SLURM names none here.",
            hint="Submit with `sbatch --array=1-8`, or say which part it is: --shard 3/8.",
        )
    return found


@dataclass(frozen=True)
class Shared:
    """What came of a part.

    Attributes:
        made: Shards that this process computed.
        shards: All shards of the ablations.
        features, contexts: How many features are ablated, at how many contexts.
    """

    made: int
    shards: int
    features: int
    contexts: int


def share(job: Job, part: Part) -> Shared | None:
    """Do a part of the ablations, and what others leave; None if the stage is done.

    Raises:
        InputError: The stage was begun from other inputs, or the folder can't be written.
        ResourceError: Something doesn't fit into memory or on the disk.
        UsageError: It isn't to be done in this process.
    """
    if not isinstance(job.executor, Local):
        raise UsageError(
            "--shard is the part of one process, which computes it.",
            hint="Leave --shard out, and workers share all of it; or leave --cluster and --scheduler out.",
        )
    job.parents(NAME)
    claims = Claims(job.run.path(ablations.CLAIMS))
    with claims.alone(_PLAN):
        todo = unstarted(job, NAME, {})
        if todo is None:
            job.report.say(f"{NAME}: already done.")
            return None
        todo.shared = True
        work = _Sharing(job, todo, claims, part)
        todo.planned_batch(work.inputs.batch_size)
    job.report.say(f"{NAME}: part {part.number} of {part.count}; starts from {work.start.words}.")
    expected = work.estimate()
    if expected is not None:
        expected.check(allow_over_memory=job.settings.runtime.allow_over_memory)
    chosen, contexts = work.every_layer()
    job.report.say(f"{NAME}: all shards are there; `circuit ablate --merge` on this run ends the stage.")
    return Shared(work.made, len(work.shards(chosen)), len(chosen), contexts)


def merge(job: Job) -> Outcome:
    """End the stage: verify that all shards are there, and write its record.

    Raises:
        InputError: Some are missing, or somebody is still at work on them.
    """
    job.parents(NAME)  # a run without them is left as it is
    folder = job.run.path(ablations.CLAIMS)
    if folder.is_dir() and (alive := Claims(folder).alive()):
        raise InputError(
            f"{amount(len(alive), 'piece')} of work is still being done, by {next(iter(alive.values()))}.",
            hint="Merge when all parts have ended; a claim that isn't renewed for a minute doesn't count.",
        )
    before = job.run.record(NAME)
    outcome = stage(job, NAME, {}, lambda todo: _Merging(job, todo, before).work())
    sweep(folder)
    return outcome


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
        return self.job.run.path(f"{ablations.CLAIMS}/.start-{fingerprint(decided)[:16]}.json")


class _Sharing(_Agreed):
    """A part of the work of the stage."""

    def __init__(self, job: Job, todo: Work, claims: Claims, part: Part) -> None:
        super().__init__(job, todo)
        self.claims, self.part, self.made, self._waited_for = claims, part, 0, ""

    def choose_start(self) -> Start:
        with self.claims.alone("start"):
            found = self.agreed_start()
            if found is None:
                self.job.runtime.with_plan(batch_size=self.todo.plan.batch_size, threads=self.todo.plan.threads)
                found = super().choose_start()
                self.agree(found)
            return found

    def shards(self, features: Sequence[FeatureId]) -> list[Shard]:
        with self.claims.alone(_PLAN):
            self.todo.plan = self.job.run.plan(NAME) or self.todo.plan
            return super().shards(features)

    def compute(self, what: str, shards: Sequence[Shard]) -> None:
        """Compute what nobody else does, and wait for the rest."""
        left = [shard for shard in shards if not self.there(shard)]
        contexts = {shard: self.contexts(shard.site, shard.features) for shard in left}
        units = {shard: sum(map(len, found.values())) for shard, found in contexts.items()}
        with self.job.report.track(what, sum(units.values()), "contexts") as done:
            while left:
                ended = []
                for shard in self.part.first(left):
                    with self.claims.taken(shard.digest) as mine:
                        if mine and not self.there(shard):
                            self._make(shard, contexts[shard], done)
                            ended.append(shard)
                            continue
                    if self.there(shard):  # somebody else's
                        done(units[shard])
                        ended.append(shard)
                left = [shard for shard in left if shard not in ended]
                if left and not ended:
                    self._wait(what, left)

    def _make(self, shard: Shard, contexts: dict[int, Firings], done: Callable[[int], None]) -> None:
        tasks = iter([self.task(shard.site, contexts)])
        for _, parts in self.job.executor.results(tasks, self.inputs.places, done=done, say=self.job.report.say):
            ablations.write(self.job.run, shard, parts)
        self.made += 1

    def _wait(self, what: str, left: Sequence[Shard]) -> None:
        """Let the others go on; whose they are is said once."""
        alive = self.claims.alive()
        names = ", ".join(sorted({f"process {one.pid} on {one.host}" for one in alive.values()}))
        if names and names != self._waited_for:
            self.job.report.say(f"{what}: waiting for {amount(len(left), 'shard')} of {names}.")
            self._waited_for = names
        time.sleep(_POLL_SECONDS)


class _Merging(_Agreed):
    """The work of the stage, none of which is left."""

    def choose_start(self) -> Start:
        return self.agreed_start() or super().choose_start()

    def shards(self, features: Sequence[FeatureId]) -> list[Shard]:
        """Those that were planned; none is planned now."""
        planned = {FeatureId(s.site, i) for s in ablations.shards(self.todo.plan.shards) for i in s.features}
        new = len(set(features) - planned)
        if new:
            raise InputError(f"No part has begun {amount(new, 'feature')} of those that are chosen.", hint=_MISSING)
        return super().shards(features)

    def compute(self, what: str, shards: Sequence[Shard]) -> None:
        """Refuse what isn't there."""
        missing = [shard for shard in shards if not self.there(shard)]
        if missing:
            raise InputError(f"{what}: {len(missing)} of {amount(len(shards), 'shard')} aren't there.", hint=_MISSING)
        super().compute(what, shards)
