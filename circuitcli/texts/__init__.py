"""Plug point: where text comes from. One file a source."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True)
class TextRequest:
    """Which text is asked for.

    Attributes:
        values: What the user typed for the source: prompts, a file, a dataset's name; nothing for the demo.
        column: The column that holds the texts, where there are columns; `auto` finds it.
    """

    values: tuple[str, ...]
    column: str


@runtime_checkable
class TextSource(Protocol):
    """A place that has texts."""

    def identity(self, request: TextRequest) -> str:
        """What identifies the text: it changes when the text does.

        Raises:
            InputError: There is no such text, or it can't be read.
            HubError: The hub couldn't be asked.
        """
        ...

    def documents(self, request: TextRequest) -> Iterator[str]:
        """The texts, in order, one by one; those that are null or blank are left out.

        Raises:
            InputError: One of them isn't as it should be, or there is none.
            HubError: The hub stopped answering.
        """
        ...
