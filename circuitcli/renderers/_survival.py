"""How often nodes and edges come up when a discovery is repeated: what lines show of it, and the words."""

from __future__ import annotations

from circuitcli.core.circuit import Circuit, Edge, Node
from circuitcli.core.metadata import Metadata, RepeatFacts
from circuitcli.core.words import amount
from circuitcli.renderers._html import INK, blend

FAINTEST = 0.2  # of a frame that survives never


def weight(circuit: Circuit, edge: Edge, share: float) -> float:
    """What an arrow's line shows, between 0 and 1: how often it survives, else `share`, that of the largest effect."""
    known = circuit.metadata.repeats is not None and edge.survival is not None
    return edge.survival if known and edge.survival is not None else share


def frame(node: Node, color: str) -> str:
    """The colour of a node's frame, darker the more often it survives; `color` where that isn't known."""
    return color if node.survival is None else blend(INK, FAINTEST + (1 - FAINTEST) * node.survival)


def legend(metadata: Metadata) -> str:
    """One line: what arrows and frames show; empty where nothing was repeated."""
    found = metadata.repeats
    return "" if found is None else f"wider, stronger line: comes up in more of {_repeats(found)}"


def _repeats(found: RepeatFacts) -> str:
    """`11 discoveries (5 seeds, 4 halves, 3 interventions)`; the run itself is in several of these."""
    kinds = (("seed", found.seeds), ("half", found.halves), ("intervention", found.interventions))
    said = ", ".join(amount(count, word, "halves" if word == "half" else None) for word, count in kinds if count)
    return f"{amount(found.total, 'discovery', 'discoveries')} ({said})"


def in_words(survival: float | None, metadata: Metadata | None = None) -> str:
    """`survives 80%`; with the metadata `comes up in 8 of 10 discoveries`; empty where that isn't known."""
    if survival is None:
        return ""
    if metadata is None or metadata.repeats is None:
        return f"survives {survival:.0%}"
    total = metadata.repeats.total
    return f"comes up in {round(survival * total)} of {total} discoveries"
