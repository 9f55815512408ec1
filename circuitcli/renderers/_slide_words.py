"""What a slide says around its boxes: the question over them, what is left out, and what its signs mean under them."""

from __future__ import annotations

from collections.abc import Sequence

from circuitcli.core.circuit import Circuit, Edge, Node
from circuitcli.core.words import amount
from circuitcli.renderers import _change, _dictionaries, _legend, _question, _survival, _validated
from circuitcli.renderers._html import FACTS, INK, LOWERS, RAISES, cell, font, table, width, words, wrapped
from circuitcli.renderers._node import percent
from circuitcli.renderers._slide_parts import Choice

TITLE, TEXT, SMALL = 24, 14, 12  # sizes of fonts
LEAST = 19  # of a title in one line
WARNING = "#9a5b00"
GAP = 1.3  # from one line to the next, in sizes of the font
MOST = 2  # lines of each sentence
BETWEEN = "     "  # signs of the legend

Sign = tuple[str, str | None]  # what it means, and the colour of its arrow, if it has one


def headline(circuit: Circuit, left_out: str, points: float) -> tuple[str, int]:
    """An HTML-like label as wide as that, and how high it is."""
    diff = circuit.metadata.diff
    title = [_legend.title(circuit)] if diff else _title(_question.question(circuit), points)
    sentences: list[tuple[str, int, str, bool]] = [
        (_legend.share(circuit) if diff else "", TEXT, INK, True),
        (_question.question(circuit) if diff else _question.shown(circuit), TEXT, INK, False),
        (left_out, TEXT, INK, False),
        (_question.calibration(circuit), TEXT, FACTS, False),
        (_question.warning(circuit), TEXT, WARNING, True),
        (_validated.sentence(circuit), TEXT, INK, False),
    ]
    size = min(_fitting(line, points) for line in title)
    rows, height = [], 0
    for text, size, color, bold in [*((line, size, INK, True) for line in title), *sentences]:
        for line in wrapped(text, size, points, MOST, bold=bold):
            rows.append([cell(font(line, size=size, color=color, bold=bold), align="LEFT", width=round(points))])
            height += round(GAP * size)
    return table(rows, cellpadding=0), height


def _fitting(title: str, points: float) -> int:
    """The largest font in which a title is one line; if none is, the smallest."""
    return next((size for size in range(TITLE, LEAST, -1) if width(title, size, bold=True) <= points), LEAST)


def _title(question: str, points: float) -> list[str]:
    """A question that is too long for one line has its number on the next."""
    asked, mark, number = question.rpartition("? ")
    long = width(question, LEAST, bold=True) > points
    return [asked + mark.strip(), number] if long and mark else [question]


def left_out(whole: Choice, drawn: Choice) -> str:
    """What a slide has no room for, and how much that is; empty where everything is on it."""
    shown, every = ([node for part in some.parts for node in part.members] for some in (drawn, whole))
    edges, between = ([edge for arrow in some.arrows for edge in arrow.edges] for some in (drawn, whole))
    targets, asked = (sum(node.kind == "target" for node in some) for some in (shown, every))
    said = [
        "" if targets == asked else f"{targets:,} of {asked:,} targets",
        _part("node", len(shown) - targets, len(every) - asked, _effects(shown), _effects(every), "|effect|"),
        _part("edge", len(edges), len(between), _weights(edges), _weights(between), "|weight|"),
    ]
    first = ", the most influential first" if len(shown) - targets < len(every) - asked else ""
    return f"On this slide{first}: {' and '.join(part for part in said if part)}" if any(said) else ""


def _part(word: str, shown: int, every: int, sum_shown: float, sum_every: float, of: str) -> str:
    """`24 of these 180 nodes (71% of their Σ|effect|)`; empty of all of them, and never all of what isn't all."""
    share = min(sum_shown / sum_every, 0.99) if sum_shown < sum_every else 1.0
    return "" if shown == every else f"{shown:,} of these {amount(every, word)} ({percent(share)} of their Σ{of})"


def _effects(nodes: Sequence[Node]) -> float:
    return sum(abs(node.attribution.effect or 0.0) for node in nodes if node.attribution)


def _weights(edges: Sequence[Edge]) -> float:
    return sum(abs(edge.effect_mean) for edge in edges)


def legend(circuit: Circuit, points: float) -> tuple[str, int]:
    """An HTML-like label: what colours and signs mean, and how the picture was made; and how high it is."""
    lines: list[list[Sign]] = [[]]
    for sign in _signs(circuit):
        if lines[-1] and sum(_wide(other) for other in (*lines[-1], sign)) > points:
            lines.append([])
        lines[-1].append(sign)
    rows = ["".join(_shown(sign) for sign in line) for line in lines]
    rows.append(font(_made(circuit), size=SMALL - 1, color=FACTS))
    label = table([[cell(row, align="LEFT", width=round(points))] for row in rows], cellpadding=0)
    return label, round(GAP * SMALL * len(rows))


def _signs(circuit: Circuit) -> list[Sign]:
    asked = circuit.metadata.attribution
    if circuit.metadata.diff:
        became: list[Sign] = [(text, _change.COLORS[change]) for change, text in _change.WORDS_OF_PROMPTS.items()]
        return [*became, (_change.AS_IT_WAS, _change.UNCHANGED)]
    metric, unit = (words(asked.metric, 40), words(asked.unit, 20)) if asked else ("the metric", "its unit")
    return [
        (f"red: replacing it lowers {metric}", LOWERS),
        ("blue: replacing it raises that", RAISES),
        (f"numbers: effect in {unit}, ≈ estimated", None),
        ("arrows: effect by way of their target alone", None),
        ("dotted: error of " + ("an SAE" if _dictionaries.noun(circuit) == "SAEs" else "dictionaries"), None),
        *([(said, None)] if (said := _survival.legend(circuit.metadata)) else []),
    ]


def _wide(sign: Sign) -> int:
    return width(f"→ {sign[0]}{BETWEEN}", SMALL)


def _shown(sign: Sign) -> str:
    text, color = sign
    arrow = font("→ ", size=SMALL + 4, color=color, bold=True) if color else ""
    return arrow + font(text + BETWEEN, size=SMALL, color=FACTS)


def _made(circuit: Circuit) -> str:
    facts = circuit.metadata
    parts = (
        words(facts.model),
        f"{_dictionaries.noun(circuit)} {words(facts.release)}",
        words(facts.created)[:10],
        f"circuit {words(facts.version)}",
    )
    return " · ".join(part.strip() for part in parts if part.strip())
