"""Numbers in words, as English has them: of things, bytes and seconds; and as short as they can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from circuitcli.core.attributed import Measure

UNKNOWN = "–"


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


def short(value: float) -> str:
    """Two decimals without the 0 before them."""
    text = f"{value:.2f}".replace("-0.00", "0.00")
    return text.replace("0.", ".", 1) if abs(value) < 0.995 else text


def with_interval(measure: Measure, said: Callable[[float], str] = short) -> str:
    """A number and its interval, as `said` writes them: .93 (.90–.95), or – where it isn't defined."""
    if measure.value is None:
        return UNKNOWN
    if measure.low is None or measure.high is None:
        return said(measure.value)
    return f"{said(measure.value)} ({said(measure.low)}–{said(measure.high)})"


def spread(best: int, median: float, worst: int) -> str:
    """Ranks: `1`, or `2 (1–7)`, the median, and the best and worst."""
    return str(best) if best == worst else f"{median:g} ({best}–{worst})"


def dictionaries(elsewhere: Sequence[Sequence[object]]) -> str:
    """What dictionaries are called, by the sites that each writes where it doesn't read; of an SAE there are none.

    `SAEs`, `transcoders`, `cross-layer transcoders`, or `dictionaries` where there are SAEs and others.
    """
    if not any(elsewhere):
        return "SAEs"
    if not all(elsewhere):
        return "dictionaries"
    return "cross-layer transcoders" if any(len(sites) > 1 for sites in elsewhere) else "transcoders"
