"""Numbers of things in words, as English has them."""

from __future__ import annotations


def amount(count: int, one: str, several: str | None = None) -> str:
    """How many there are: `1 sequence`, `0 sequences`, `2,000 sequences`; `several` is the plural if not by an s."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"
