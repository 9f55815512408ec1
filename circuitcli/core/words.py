"""Numbers in words, as English has them: of things, bytes and seconds."""

from __future__ import annotations


def amount(count: int, one: str, several: str | None = None) -> str:
    """How many there are: `1 sequence`, `0 sequences`, `2,000 sequences`; `several` is the plural if not by an s."""
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def quantity(count: int) -> str:
    """Bytes in the unit that reads best."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, whichever reads best."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
