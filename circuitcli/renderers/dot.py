"""DOT, the language of Graphviz: the source from which svg and png are drawn.

Each site is one rank, in the order in which the model computes them: columns from left to right, or, where that makes
the better picture, rows from bottom to top. Within a rank Graphviz orders the boxes so that few arrows cross.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from circuitcli.core.circuit import Circuit, Edge, Node
from circuitcli.core.sites import SITES
from circuitcli.core.tokens import visible
from circuitcli.renderers import _change
from circuitcli.renderers._html import FACTS, FONT, LOWERS, RAISES, escape, font, words
from circuitcli.renderers._legend import header, opacity, title
from circuitcli.renderers._node import NAME_LIMIT, SIZE, Box, box, facts_in_words, number

HEADING_SIZE = 22
HEADING_WIDTH = 240
RANK_GAP, BOX_GAP = 80, 22  # points between ranks, and between boxes of a rank
PAGE = 4 / 3  # width over height
PLAIN_WIDTH, MAX_ZOOM = 1500, 2.0  # the legend grows with pictures wider than this, up to so much
PEN = (1.5, 7.0)  # an arrow's line, points, at no effect and at the largest drawn


@dataclass(frozen=True)
class Dot:
    """DOT source, UTF-8."""

    def files(self, circuit: Circuit) -> dict[str, bytes]:
        return {"circuit.dot": source(circuit).encode()}


plugin = Dot()


def source(circuit: Circuit) -> str:
    """DOT source of a circuit. The same circuit gives the same text, whatever the order of its nodes and edges."""
    edges = sorted(circuit.edges, key=lambda e: (abs(e.effect_mean), e.source, e.target))  # the largest on top
    ends = {name for edge in edges for name in (edge.source, edge.target)}
    drawn = sorted((node for node in circuit.nodes if node.id in ends), key=place)
    unknown = sorted(ends - {node.id for node in drawn})
    largest = max((abs(edge.effect_mean) for edge in edges if math.isfinite(edge.effect_mean)), default=0.0)
    by_site = ranks(drawn)
    direction, points = _direction(by_site)
    zoom = min(MAX_ZOOM, max(1.0, points / PLAIN_WIDTH))
    lines = [
        "digraph circuit {",
        f'  graph [rankdir={direction}, charset="UTF-8", outputorder=edgesfirst, bgcolor="white", pad=0.3,',
        f"    ranksep={RANK_GAP / 72:.2f}, nodesep={BOX_GAP / 72:.2f}, splines=true, labelloc=t, labeljust=l,",
        f"    fontname={_quoted(FONT)}, tooltip={_quoted(title(circuit))},",
        f"    label=<{header(circuit, zoom)}>];",
        f"  node [shape=plain, fontname={_quoted(FONT)}, fontsize={SIZE}];",
        "  edge [arrowsize=0.9];",
        *_rank_lines(by_site),
        *(f"  {_quoted(name)} [label=<{font(visible(name, NAME_LIMIT), bold=True)}>];" for name in unknown),
        *(_arrow(edge, largest, of_a_difference=bool(circuit.metadata.get("diff"))) for edge in edges),
        "}",
    ]
    return "\n".join(lines) + "\n"


def place(node: Node) -> tuple[int, int, str, int]:
    """Sorts nodes by the order in which the model computes them, sites that it doesn't know last."""
    order = SITES.index(node.site) if node.site in SITES else len(SITES)
    return node.layer, order, node.site, node.feature


Ranks = dict[str, list[tuple[Node, Box]]]


def ranks(nodes: Iterable[Node]) -> Ranks:
    """The nodes of each site and their boxes, under the site's heading."""
    ranks: Ranks = {}
    for node in nodes:
        ranks.setdefault(f"layer {node.layer} · {node.site}", []).append((node, box(node)))
    return ranks


def _direction(ranks: Ranks) -> tuple[str, float]:
    """LR or BT, whichever is the smaller on a page of 4:3, and about how wide the picture then is, in points."""
    boxes = [[box for _, box in members] for members in ranks.values()]
    across = sum(max(b.width for b in rank) + RANK_GAP for rank in boxes)
    down = max((sum(b.height + BOX_GAP for b in rank) for rank in boxes), default=0)
    wide = HEADING_WIDTH + max((sum(b.width + BOX_GAP for b in rank) for rank in boxes), default=0)
    high = sum(max(b.height for b in rank) + RANK_GAP for rank in boxes)
    columns, rows = max(across, down * PAGE), max(wide, high * PAGE)
    return ("LR", across) if columns <= rows else ("BT", wide)


def _rank_lines(ranks: Ranks) -> list[str]:
    """A rank for each site, headed by its name; the headings are tied into a line, first in each rank."""
    lines, heads = [], []
    for name, members in ranks.items():
        head = _quoted(f"rank {name}")
        heads.append(head)
        lines.append("  { rank=same;")
        lines.append(f"    {head} [label=<{font(words(name), size=HEADING_SIZE, color=FACTS, bold=True)}>];")
        for node, drawn in members:
            lines.append(f"    {_quoted(node.id)} [tooltip={_quoted(facts_in_words(node))}, label=<{drawn.label}>];")
            lines.append(f"    {head} -> {_quoted(node.id)} [style=invis];")
        lines.append("  }")
    lines += [f"  {a} -> {b} [style=invis, weight=1000];" for a, b in pairwise(heads)]
    return lines


def _arrow(edge: Edge, largest: float, *, of_a_difference: bool = False) -> str:
    magnitude = abs(edge.effect_mean) if math.isfinite(edge.effect_mean) else 0.0
    alpha = opacity(magnitude, largest)
    hue = RAISES if edge.effect_mean > 0 else LOWERS
    color = (_change.color(edge.change) if of_a_difference else hue) + f"{round(255 * alpha):02x}"
    thin, thick = PEN
    pen = thin + (thick - thin) * (magnitude / largest if largest else 0.0)
    attributes = f'color="{color}", penwidth={pen:.2f}, tooltip={_quoted(in_words(edge))}'
    if edge.change:
        attributes += f", style={_change.style(edge.change)}"
    return f"  {_quoted(edge.source)} -> {_quoted(edge.target)} [{attributes}];"


def in_words(edge: Edge) -> str:
    """`source → target: −0.42 [−0.51, −0.33], n=100`."""
    interval = ""
    if edge.ci_low is not None and edge.ci_high is not None:
        interval = f" [{number(edge.ci_low)}, {number(edge.ci_high)}]"
    became = f" ({edge.change})" if edge.change else ""
    return f"{edge.source} → {edge.target}: {number(edge.effect_mean)}{interval}, n={edge.n}{became}"


def _quoted(text: str) -> str:
    """A DOT string: visible characters only, markup as entities.

    Names and tooltips are read for escapes once and twice: a backslash (of a Windows path) becomes its look-alike.
    """
    return '"' + escape(words(text, 1000).replace("\\", "⧵")) + '"'
