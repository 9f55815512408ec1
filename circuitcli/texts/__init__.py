"""Plug point: where text comes from. One file a source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class TextSource(Protocol):
    """A place that has texts. `value` is what the user typed for it: prompts, a file, a dataset's name."""

    def identity(self, value: Sequence[str]) -> str:
        """What identifies the text: it changes when the text does.

        Raises:
            InputError: There is no such text, or it can't be read.
            HubError: The hub couldn't be asked.
        """
        ...

    def documents(self, value: Sequence[str]) -> Iterator[str]:
        """The texts, in order.

        Raises:
            InputError: One of them isn't as it should be.
        """
        ...
