"""What executors compute, and where what it reads lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

R = TypeVar("R")
Done = Callable[[int], None]
Say = Callable[[str], None]


@runtime_checkable
class Task(Protocol[R]):
    """A picklable value that any process computes to the same result; its length counts units of progress."""

    def compute(self, sources: Any, *, done: Done, say: Say) -> R:
        """What comes of it.

        Args:
            sources: Where the process has what the task reads.
            done: Told how many more units are done.
            say: Told what people should know, as of smaller batches.

        Raises:
            NotHere: Something that it reads isn't there.
            ResourceError: Its smallest part doesn't fit into memory.
        """
        ...

    def __len__(self) -> int: ...

    def halves(self) -> Sequence[Task[R]]:
        """Tasks that give the same together in less memory, each in smaller batches too; () if there are none."""
        ...

    def joined(self, results: Sequence[R]) -> R:
        """Its result from those of its halves."""
        ...


@dataclass(frozen=True)
class Places:
    """Where tasks find what they read.

    Attributes:
        here: For this process.
        afar: Makes the same for another one, and is picklable; called once in each.
        device: The kind of device that tasks compute on there; None: whichever there is.
    """

    here: Any
    afar: Callable[[], Any]
    device: str | None = None
