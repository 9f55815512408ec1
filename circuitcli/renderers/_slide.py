"""DOT source of a circuit of a prompt: one slide of 16:9, on which every box has its place.

The prompt's tokens are the axis: below, whole and in order, those that have boxes as heads of columns and the others
small between them. Above stand features and errors, site by site upwards, and the target on top. What doesn't fit is
left out, the least influential first, and the headline says how much that is. Graphviz only leads the arrows around
the boxes: the source asks for `neato`, with all places given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from circuitcli.core.circuit import Circuit
from circuitcli.core.tokens import readable
from circuitcli.core.words import amount
from circuitcli.renderers import _change, _slide_axis, _slide_box, _slide_words, _survival
from circuitcli.renderers._html import FACTS, FONT, LOWERS, RAISES, cell, centred, font, table, width
from circuitcli.renderers._legend import opacity, title
from circuitcli.renderers._node import number
from circuitcli.renderers._slide_grid import Room
from circuitcli.renderers._slide_parts import Arrow, Choice, chosen, folded
from circuitcli.renderers._slide_plan import AXIS, HEADINGS, SMALLEST, Plan, Point, plan

WIDTH, HEIGHT = 1280, 720
MARGIN, GAP = 28, 12
RIGHT = 16  # points beside the boxes, for arrows
HEADING_SIZE = 12
MOST = 30  # boxes
PEN = (1.2, 5.0)  # an arrow's line, points, at no weight and at the largest drawn

Quoted = Callable[[str], str]


def source(circuit: Circuit, quoted: Quoted) -> str:
    """DOT source. The same circuit gives the same text, whatever the order of its nodes and edges.

    `quoted` makes a string of DOT.
    """
    whole, inner = folded(circuit), WIDTH - 2 * MARGIN
    tokens = readable(circuit.metadata.attribution.tokens) if circuit.metadata.attribution else []
    signs, below = _slide_words.legend(circuit, inner)
    _, above = _slide_words.headline(circuit, _slide_words.left_out(whole, Choice([], [])), inner)
    room = Room(inner - RIGHT, HEIGHT - 2 * MARGIN - above - below - 2 * GAP)
    drawn = chosen(whole, lambda parts: plan(tokens, parts, room, [SMALLEST]) is not None, MOST)
    placed = plan(tokens, drawn.parts, room)
    assert placed is not None, "targets alone always fit"
    headline, high = _slide_words.headline(circuit, _slide_words.left_out(whole, drawn), inner)
    written = [
        "digraph circuit {",
        "  graph [layout=neato, inputscale=72, splines=true, outputorder=edgesfirst, pad=0, bgcolor=white,",
        f'    viewport="{WIDTH},{HEIGHT},1,{WIDTH / 2},{HEIGHT / 2}",',
        f'    charset="UTF-8", fontname={quoted(FONT)}, tooltip={quoted(title(circuit))}];',
        f'  node [shape=plain, fontname={quoted(FONT)}, tooltip=" "];',
        "  edge [arrowsize=0.7];",
        *(
            f'  "· corner {i}" [{_at(*at)}, style=invis, width=0, height=0, label=""];'
            for i, at in enumerate(((0, 0), (WIDTH, HEIGHT)))
        ),
        _text("headline", (WIDTH / 2, HEIGHT - MARGIN - high / 2), headline),
        _text("legend", (WIDTH / 2, MARGIN + below / 2), signs),
    ]
    corner = (MARGIN, MARGIN + below + GAP)
    written += _headings(placed, corner) + _axis(tokens, drawn, placed, corner)
    written += _boxes(circuit, drawn, placed, corner, quoted) + _arrows(circuit, drawn, quoted)
    return "\n".join([*written, "}"]) + "\n"


def _at(x: float, y: float) -> str:
    return f'pos="{x:.1f},{y:.1f}!"'


def _text(name: str, at: Point, label: str) -> str:
    """A node that is no part of the circuit; its name is the id of its group in an svg."""
    return f'  "· {name}" [id="{name}", {_at(*at)}, label=<{label}>];'


def _lines(lines: Sequence[str], **looks: object) -> str:
    return table([[cell(line, **looks)] for line in lines], cellpadding=0)


def _headings(placed: Plan, corner: Point) -> list[str]:
    left, floor = corner
    written = []
    for i, (heading, y) in enumerate(placed.rows):
        if heading:
            first, *others = heading.split("\n")
            lines = [font(first, size=HEADING_SIZE, color=FACTS, bold=True)]
            lines += [font(line, size=HEADING_SIZE, color=FACTS) for line in others]
            label = _lines(lines, align="LEFT", width=HEADINGS - GAP)
            written.append(_text(f"row-{i}", (left + (HEADINGS - GAP) / 2, floor + y), label))
    return written


def _axis(tokens: Sequence[str], drawn: Choice, placed: Plan, corner: Point) -> list[str]:
    """Tokens without boxes of their own, and below all of them their positions."""
    left, floor = corner
    middle = floor + placed.axis
    boxed = {part.first.pos for part in drawn.parts if part.first.kind == "token"}
    written = []
    for pos, x in placed.heads:
        if pos not in boxed:
            head = _slide_axis.head(tokens, pos)
            shown = [centred(line, head.width, _slide_axis.HEAD, bold=True) for line in head.lines]
            written.append(_text(f"token-{pos}", (left + x, middle), _lines(shown)))
        number = centred(str(pos), width(str(pos), _slide_axis.SIZE), _slide_axis.SIZE, color=FACTS)
        written.append(_text(f"position-{pos}", (left + x, floor + AXIS / 3), _lines([number])))
    for part, x in placed.stretches:
        lines = [centred(line, part.width, _slide_axis.SIZE, color=FACTS) for line in part.lines]
        written.append(_text(f"tokens-{part.first}", (left + x, middle), _lines(lines)))
    return written


def _boxes(circuit: Circuit, drawn: Choice, placed: Plan, corner: Point, quoted: Quoted) -> list[str]:
    largest = max((abs(part.effect or 0.0) for part in drawn.parts), default=0.0)
    unit = circuit.metadata.attribution.unit if circuit.metadata.attribution else ""
    written = []
    for part in sorted(drawn.parts, key=lambda part: part.id):
        x, y = placed.boxes[part.id]
        facts, label = quoted(_slide_box.in_words(part, unit)), _slide_box.box(part, placed.look, largest)
        written.append(f"  {quoted(part.id)} [{_at(corner[0] + x, corner[1] + y)}, tooltip={facts}, label=<{label}>];")
    return written


def _arrows(circuit: Circuit, drawn: Choice, quoted: Quoted) -> list[str]:
    """The strongest last, so that they lie on top."""
    largest = max((abs(arrow.weight) for arrow in drawn.arrows), default=0.0)
    (thin, thick), written = PEN, []
    for arrow in reversed(drawn.arrows):
        share = abs(arrow.weight) / largest if largest else 0.0
        share = max(_survival.weight(circuit, edge, share) for edge in arrow.edges)
        hue = RAISES if arrow.weight > 0 else LOWERS
        if circuit.metadata.diff:
            hue = _change.color(arrow.change)
        looks = f'color="{hue}{round(255 * opacity(share, 1.0)):02x}", penwidth={thin + (thick - thin) * share:.2f}'
        style = f", style={_change.style(arrow.change)}" if arrow.change else ""
        ends = f"{quoted(arrow.source)} -> {quoted(arrow.target)}"
        written.append(f"  {ends} [{looks}, tooltip={quoted(_in_words(arrow))}{style}];")
    return written


def _in_words(arrow: Arrow) -> str:
    """`source → target: −0.70 (relp)`; of a group how many edges there are."""
    how = ", ".join(sorted({edge.method or "?" for edge in arrow.edges}))
    many = f", sum of {amount(len(arrow.edges), 'edge')}" if len(arrow.edges) > 1 else ""
    known = [edge.survival for edge in arrow.edges if edge.survival is not None]
    many += f", {_survival.in_words(max(known))}" if known else ""
    became = f" ({arrow.change})" if arrow.change else ""
    return f"{arrow.source} → {arrow.target}: {number(arrow.weight)} ({how}){many}{became}"
