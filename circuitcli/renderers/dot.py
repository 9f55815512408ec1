"""DOT, the language of Graphviz: the source from which svg and png are drawn.

Each site is one rank, in the order in which the model computes them: columns from left to right, or, where that makes
the better picture, rows from bottom to top; a long one goes on in lines beside its first. Within a line Graphviz orders
the boxes so that few arrows cross, and it leads arrows around boxes. A circuit of a prompt is a slide: see `_slide`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

from circuitcli.core.circuit import Circuit, Edge
from circuitcli.core.tokens import visible
from circuitcli.renderers import _change, _slide, _survival
from circuitcli.renderers._html import FACTS, FONT, LOWERS, RAISES, escape, font, words
from circuitcli.renderers._legend import header, opacity, title
from circuitcli.renderers._node import NAME_LIMIT, SIZE, facts_in_words, number
from circuitcli.renderers._ranks import BOX_GAP, RANK_GAP, Ranks, lines, model_order, ranks, shape, with_numbers

HEADING_SIZE = 22
PLAIN_WIDTH, MAX_ZOOM = 1500, 2.0  # the legend grows with pictures wider than this, up to so much
PORTS = {"LR": "tailport=e, headport=w", "BT": "tailport=n, headport=s"}  # from one rank towards the next
NO_PORTS = 'tailport="", headport=""'
PEN = (1.5, 7.0)  # an arrow's line, points, at no effect and at the largest drawn


@dataclass(frozen=True)
class Dot:
    """DOT source, UTF-8."""

    def files(self, circuit: Circuit) -> dict[str, bytes]:
        return {"circuit.dot": source(circuit).encode()}


plugin = Dot()


def source(circuit: Circuit) -> str:
    """DOT source of a circuit. The same circuit gives the same text, whatever the order of its nodes and edges."""
    if circuit.metadata.attribution:
        return _slide.source(circuit, _quoted)
    edges = sorted(circuit.edges, key=lambda e: (abs(e.effect_mean), e.source, e.target))  # the largest on top
    ends = {name for edge in edges for name in (edge.source, edge.target)}
    drawn = sorted((node for node in circuit.nodes if node.id in ends), key=model_order)
    unknown = sorted(ends - {node.id for node in drawn})
    largest = max((abs(edge.effect_mean) for edge in edges if math.isfinite(edge.effect_mean)), default=0.0)
    by_site = ranks(drawn, numbers=with_numbers(circuit))
    stands = shape(by_site)
    zoom = min(MAX_ZOOM, max(1.0, stands.width / PLAIN_WIDTH))
    written = [
        "digraph circuit {",
        f'  graph [rankdir={stands.direction}, charset="UTF-8", outputorder=edgesfirst, bgcolor="white", pad=0.3,',
        f"    ranksep={RANK_GAP / 72:.2f}, nodesep={BOX_GAP / 72:.2f}, splines=true, labelloc=t, labeljust=l,",
        f"    fontname={_quoted(FONT)}, tooltip={_quoted(title(circuit))},",
        f"    label=<{header(circuit, zoom)}>];",
        f"  node [shape=plain, fontname={_quoted(FONT)}, fontsize={SIZE}];",
        f"  edge [arrowsize=0.9, {PORTS[stands.direction]}];",
        *_rank_lines(by_site, stands.most),
        *(f"  {_quoted(name)} [label=<{font(visible(name, NAME_LIMIT), bold=True)}>];" for name in unknown),
        *(_arrow(edge, _share(circuit, edge, largest), of_a_difference=bool(circuit.metadata.diff)) for edge in edges),
        "}",
    ]
    return "\n".join(written) + "\n"


def _rank_lines(ranks: Ranks, most: int) -> list[str]:
    """A rank for each line of each site, the first of them headed by its name; what leads them is tied into a line."""
    written, heads = [], []
    for name, members in ranks.items():
        for i, line in enumerate(lines(members, most)):
            head = _quoted(f"rank {name}" if i == 0 else f"rank {name} ({i})")
            heads.append(head)
            heading = font(words(name), size=HEADING_SIZE, color=FACTS, bold=True)
            looks = 'style=invis, width=0, height=0, label=""' if i else f"label=<{heading}>"
            written += ["  { rank=same;", f"    {head} [{looks}];"]
            for node, drawn in line:
                facts = _quoted(facts_in_words(node))
                written.append(f"    {_quoted(node.id)} [tooltip={facts}, label=<{drawn.label}>];")
                written.append(f"    {head} -> {_quoted(node.id)} [style=invis, {NO_PORTS}];")
            written.append("  }")
    written += [f"  {a} -> {b} [style=invis, weight=1000, {NO_PORTS}];" for a, b in pairwise(heads)]
    return written


def _share(circuit: Circuit, edge: Edge, largest: float) -> float:
    """What the line of an arrow shows: its |effect| beside the largest, or how often it survives."""
    magnitude = abs(edge.effect_mean) if math.isfinite(edge.effect_mean) else 0.0
    return _survival.weight(circuit, edge, magnitude / largest if largest else 0.0)


def _arrow(edge: Edge, share: float, *, of_a_difference: bool = False) -> str:
    alpha = opacity(share, 1.0)
    hue = RAISES if edge.effect_mean > 0 else LOWERS
    color = (_change.color(edge.change) if of_a_difference else hue) + f"{round(255 * alpha):02x}"
    thin, thick = PEN
    pen = thin + (thick - thin) * share
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
    often = f", {_survival.in_words(edge.survival)}" if edge.survival is not None else ""
    return f"{edge.source} → {edge.target}: {number(edge.effect_mean)}{interval}, n={edge.n}{often}{became}"


def _quoted(text: str) -> str:
    """A DOT string: visible characters only, markup as entities.

    Names and tooltips are read for escapes once and twice: a backslash (of a Windows path) becomes its look-alike.
    """
    return '"' + escape(words(text, 1000).replace("\\", "⧵")) + '"'
