"""The graph of a difference: what became of nodes and edges, in colours that colour-blind people can tell apart.

The colours are of Okabe and Ito's palette (2008); lost arrows are dashed as well, and all else stands back in grey.
"""

from __future__ import annotations

from circuitcli.core.circuit import Change
from circuitcli.core.metadata import DiffFacts

COLORS: dict[Change, str] = {"gained": "#009e73", "lost": "#d55e00", "changed": "#0072b2"}
UNCHANGED = "#bdbdbd"
STYLES: dict[Change, str] = {"lost": "dashed"}
WORDS: dict[Change, str] = {
    "gained": "gained: only in the second graph",
    "lost": "lost (dashed): only in the first graph",
    "changed": "changed: the 95% intervals don't overlap",
}
AS_IT_WAS = "as it was, or not known to have changed"
# Of circuits of prompts, whose numbers have no intervals.
WORDS_OF_PROMPTS: dict[Change, str] = WORDS | {"changed": "changed: another effect or weight"}


def color(change: Change | None) -> str:
    """Of an arrow or a frame in the graph of a difference."""
    return COLORS[change] if change else UNCHANGED


def style(change: Change | None) -> str:
    """Of an arrow's line."""
    return STYLES.get(change, "solid") if change else "solid"


def title(diff: DiffFacts) -> str:
    """One line: which graphs were compared."""
    return f"From {diff.before} to {diff.after}: what changed"


def summary(diff: DiffFacts, changes: list[Change | None]) -> str:
    """One line: how many edges became what."""
    counts = [f"{changes.count(change):,} {change}" for change in COLORS]
    untold = f", {diff.untold:,} without intervals to tell" if diff.untold else ""
    return f"Edges: {', '.join(counts)}, {diff.same:,} as they were{untold}"
