"""A stage by several processes that share a run's folder, as the tasks of an array job do: no one leads them.

1.  Whoever comes first plans: what a plan and its pieces are is agreed on under a claim (`store.claims`).
2.  Each process takes pieces that nobody has, those of its own part first, and publishes their files by rename.
3.  Where more follows from what is made, who finds nothing to do waits for the others, and does what they leave when
    they end.
4.  One process merges: it writes the record, as the stage by one process does.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from circuitcli.core.words import amount
from circuitcli.errors import InputError, UsageError
from circuitcli.executors import Done, Places
from circuitcli.executors.local import Local
from circuitcli.stages.pieces import Piece, compute
from circuitcli.stages.stage import Job, Outcome, Work, stage, unstarted
from circuitcli.stages.tools import Tools
from circuitcli.store.claims import Claims

T = TypeVar("T")
_PLAN = "plan"
_POLL_SECONDS = 0.5
_AUTO = "auto"
_SLURM = "SLURM_ARRAY_TASK_"


@dataclass(frozen=True)
class Part:
    """Part `number` of `count`, counted from 1."""

    number: int
    count: int

    def first(self, pieces: Sequence[T]) -> Iterator[T]:
        """Its own pieces, then those of the others, the last first: who is done soonest helps the slowest."""
        place = self.number - 1
        yield from pieces[place :: self.count]
        yield from reversed([one for i, one in enumerate(pieces) if i % self.count != place])


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


@dataclass
class Apart:
    """A process that does a part of a stage's pieces, beside others.

    Attributes:
        claims: Who does what.
        part: Its own.
        made: How many pieces it has done.
        pieces: All that there are by now, by their names.
    """

    claims: Claims
    part: Part
    made: int = 0
    pieces: set[str] = field(default_factory=set)
    _waited_for: str = field(default="", init=False)

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Alone."""
        with self.claims.alone(_PLAN):
            yield

    def begins(self) -> bool:
        """It may."""
        return True

    def check(self, new: int) -> None:
        """Anything may be planned."""

    def make(
        self, tools: Tools, what: str, unit: str, pieces: Sequence[Piece], places: Places, *, of: Collection[str]
    ) -> None:
        """Compute what nobody else does, and wait for the rest."""
        self.pieces |= {*of}
        left = [piece for piece in pieces if not piece.there()]
        with tools.report.track(what, sum(piece.units for piece in left), unit) as done:
            while left:
                ended = [piece for piece in self.part.first(left) if self._ended(tools, piece, places, done)]
                left = [piece for piece in left if piece not in ended]
                if left and not ended:
                    self._wait(tools, what, left)

    def _ended(self, tools: Tools, piece: Piece, places: Places, done: Done) -> bool:
        """Whether a piece is there, made here if nobody else makes it."""
        with self.claims.taken(piece.name) as mine:
            if mine and not piece.there():
                compute(tools, [piece], places, done)
                self.made += 1
                return True
        if piece.there():  # somebody else's
            done(piece.units)
            return True
        return False

    def _wait(self, tools: Tools, what: str, left: Sequence[Piece]) -> None:
        """Let the others go on; whose they are is said once."""
        alive = self.claims.alive()
        names = ", ".join(sorted({f"process {one.pid} on {one.host}" for one in alive.values()}))
        if names and names != self._waited_for:
            tools.report.say(f"{what}: waiting for {amount(len(left), 'piece')} of {names}.")
            self._waited_for = names
        time.sleep(_POLL_SECONDS)


@dataclass
class Merged:
    """Nobody does a piece: all have to be planned, and there.

    Attributes:
        stage: The stage's name.
    """

    stage: str
    _planning: bool = field(default=False, init=False)

    @contextmanager
    def planning(self) -> Iterator[None]:
        """Others have planned it."""
        self._planning = True
        try:
            yield
        finally:
            self._planning = False

    def begins(self) -> bool:
        """Not while pieces are looked for, which may be missing."""
        return not self._planning

    def check(self, new: int) -> None:
        """Refuse pieces that no part has planned."""
        if self._planning and new:
            raise InputError(f"No part has begun {amount(new, 'piece')} of work.", hint=missing(self.stage))

    def make(
        self, tools: Tools, what: str, unit: str, pieces: Sequence[Piece], places: Places, *, of: Collection[str]
    ) -> None:
        """Refuse what isn't there.

        Raises:
            InputError: How much that is.
        """
        count = sum(not piece.there() for piece in pieces)
        if count:
            raise InputError(f"{what}: {amount(count, 'piece')} of work not done yet.", hint=missing(self.stage))


def missing(name: str) -> str:
    """How to have the rest of a stage done."""
    return f"`circuit {name} --shard 1/1` on this run does it, and so does the stage without --merge."


@dataclass(frozen=True)
class Shared:
    """What came of a part.

    Attributes:
        made: Pieces that this process made.
        pieces: All pieces.
    """

    made: int
    pieces: int


def begin(job: Job, name: str, inputs: dict[str, Any], part: Part, batch_size: Callable[[Work], int]) -> Work | None:
    """Begin a part of a stage; None if that is done.

    Args:
        job: The run and its settings.
        name: Of the stage.
        inputs: What decides its numbers beside settings and parents.
        part: Of its pieces.
        batch_size: For a plan that has none yet.

    Raises:
        InputError: The stage was begun from other inputs, or the folder can't be written.
        UsageError: It isn't to be done in this process.
    """
    if not isinstance(job.executor, Local):
        raise UsageError(
            "--shard is the part of one process, which computes it.",
            hint="Leave --shard out, and workers share all of it; or leave --cluster and --scheduler out.",
        )
    job.parents(name)
    if unstarted(job, name, inputs) is None:
        job.report.say(f"{name}: already done.")
        return None
    claims = Claims(job.claims(name))
    with claims.alone(_PLAN):
        todo = unstarted(job, name, inputs)
        if todo is None:
            job.report.say(f"{name}: already done.")
            return None
        todo.shared, todo.pieces = True, Apart(claims, part)
        todo.planned_batch(todo.plan.batch_size or batch_size(todo))
    return todo


def ended(todo: Work) -> Shared:
    """What came of a part whose work has ended, said too."""
    assert isinstance(todo.pieces, Apart)
    todo.job.report.say(f"{todo.name}: all pieces are there; `circuit {todo.name} --merge` on this run ends the stage.")
    return Shared(todo.pieces.made, len(todo.pieces.pieces))


def merge(job: Job, name: str, inputs: dict[str, Any], work: Callable[[Work], None]) -> Outcome:
    """End a stage: verify that all pieces are there, and do the rest of its work.

    Raises:
        InputError: Some are missing, or somebody is still at work on them.
    """
    job.parents(name)  # a run without them is left as it is
    folder = job.claims(name)
    if folder.is_dir() and (alive := Claims(folder).alive()):
        raise InputError(
            f"{amount(len(alive), 'piece')} of work is still being done, by {next(iter(alive.values()))}.",
            hint="Merge when all parts have ended; a claim that isn't renewed for a minute doesn't count.",
        )

    if job.run.plan(name) is None:
        raise InputError(f"No part has begun {name}.", hint=missing(name))

    def merged(todo: Work) -> None:
        todo.pieces = Merged(name)
        work(todo)

    return stage(job, name, inputs, merged)
