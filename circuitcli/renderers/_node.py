"""The box of one feature: its name and facts, its top contexts, and the tokens that it promotes and suppresses."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

from circuitcli.core.circuit import Context, Node, TokenEffect
from circuitcli.core.tokens import visible
from circuitcli.renderers import _change
from circuitcli.renderers._html import (
    BLUE_TINT,
    FACTS,
    GROUP,
    INK,
    LOWERS,
    RAISES,
    RED_TINT,
    SHADE,
    blend,
    cell,
    font,
    table,
    width,
    words,
)

SIZE = 13
NAME_SIZE = 20
NAME_LIMIT = 60
TOKEN_LIMIT = 12  # characters of a token
LABEL_LINE = 48  # of a line of a label
MIN_WIDTH = 240


class Box(NamedTuple):
    """The label of a node and about how large it will be, in points."""

    label: str
    width: int
    height: int


def box(node: Node) -> Box:
    """An HTML-like table; each row in it is a table of its own, so that no row widens another's cells."""
    contexts = [_pieces(context, node.max_activation) for context in node.contexts]
    before, after = (max((sum(w for _, w in pieces[side]) for pieces in contexts), default=0) for side in (0, 1))
    name, facts = visible(node.id, NAME_LIMIT), _facts(node)
    head = width(name, NAME_SIZE, bold=True) + width(facts, SIZE - 1) + 16
    called = max((width(line, SIZE, bold="bold" in style) for line, style in names(node)), default=0)
    total = max(MIN_WIDTH, before + after, head, called)
    rows = [_head(name, facts, total)]
    rows += [_named(line, style, total) for line, style in names(node)]
    rows += [_context(pieces, before, total) for pieces in contexts]
    rows += _tokens("promotes", node.promoted, RAISES, BLUE_TINT, total)
    rows += _tokens("suppresses", node.suppressed, LOWERS, RED_TINT, total)
    border = {"border": 3, "color": INK} if node.pinned else {"border": 1, "color": "#8c8c8c"}
    if node.change:
        border = {"border": 4, "color": _change.color(node.change)}
    label = table(
        [[cell(row, align="LEFT")] for row in rows], bgcolor="white", style="ROUNDED", cellpadding=3, **border
    )
    return Box(label, total + 12, 20 * len(rows) + 12)


def facts_in_words(node: Node) -> str:
    """All facts of a node on one line, for its tooltip."""
    kl = "not measured" if node.kl_mean is None else f"{number(node.kl_mean)} nats"
    return (
        f"{node.id}{' (pinned)' if node.pinned else ''}: fires at {percent(node.density)} of positions, "
        f"largest activation {number(node.max_activation)}, ablated at n={node.n}, mean KL {kl}"
    )


def number(value: float, digits: int = 3) -> str:
    """So many significant digits, with a real minus sign."""
    return f"{value:.{digits}g}".replace("-", "−") if math.isfinite(value) else "–"


def percent(share: float) -> str:
    """A share as a percentage of two significant digits, without exponent."""
    if not math.isfinite(share) or share <= 0:
        return "0%"
    digits = max(0, 1 - math.floor(math.log10(share * 100)))
    return f"{share * 100:.{min(digits, 6)}f}%"


def _facts(node: Node) -> str:
    parts = ["pinned"] if node.pinned else []
    if node.kind != "feature":
        parts.append(words(node.kind))
    else:
        parts.append(f"fires {percent(node.density)}")
    if node.kl_mean is not None:
        parts.append(f"KL {number(node.kl_mean, 2)}")
    return " · ".join(parts)


def _head(name: str, facts: str, total: int) -> str:
    left = min(width(name, NAME_SIZE, bold=True), total)
    return table(
        [
            [
                cell(font(name, size=NAME_SIZE, bold=True), width=left, align="LEFT"),
                cell(font(facts, size=SIZE - 1, color=FACTS), width=total - left, align="RIGHT"),
            ]
        ]
    )


def names(node: Node) -> list[tuple[str, dict[str, Any]]]:
    """What people call it, line by line, and how that is written: its label in at most two lines, and its group."""
    label = textwrap.wrap(words(node.label or "", LABEL_LINE), LABEL_LINE, max_lines=2, placeholder=" …")
    found: list[tuple[str, dict[str, Any]]] = [(line, {"italic": True}) for line in label]
    if node.group:
        group = textwrap.shorten(words(node.group, LABEL_LINE), LABEL_LINE, placeholder=" …")
        found.append((f"group {group}", {"bold": True, "color": GROUP}))
    return found


def _named(line: str, style: dict[str, Any], total: int) -> str:
    return table([[cell(font(line, **style), width=total, align="LEFT")]])


Pieces = tuple[list[tuple[str, int]], list[tuple[str, int]]]


def _pieces(context: Context, largest: float) -> Pieces:
    """Cells and their widths before the firing token, and from it on."""
    cells = []
    for i, (token, activation) in enumerate(zip(context.tokens, context.activations, strict=True)):
        text, firing = running(token, TOKEN_LIMIT), i == context.firing
        points = width(text, SIZE, bold=firing) + 2
        share = activation / largest if largest > 0 and math.isfinite(activation) else 0.0
        color = blend(SHADE, share) if share > 0 else None
        run = font(text, bold=firing)
        cells.append((cell(run, width=points, align="LEFT", bgcolor=color), points))
    return cells[: context.firing], cells[context.firing :]


def running(token: str, limit: int) -> str:
    """A token within running text: the one space before a word stays a space, all other whitespace is shown."""
    if len(token) > 1 and token[0] == " " and not token[1].isspace():
        return " " + visible(token[1:], limit)
    return visible(token, limit)


def _context(pieces: Pieces, before: int, total: int) -> str:
    """One row: the firing token stands at the same place in all of them."""
    left, right = pieces
    lead = before - sum(w for _, w in left)
    trail = total - before - sum(w for _, w in right)
    cells = [c for c, _ in (*left, *right)]
    if lead:
        cells.insert(0, cell(width=lead))
    if trail:
        cells.append(cell(width=trail))
    return table([cells])


def _tokens(word: str, effects: Sequence[TokenEffect], color: str, tint: str, total: int) -> list[str]:
    """Rows of tokens, none if there are none; what doesn't fit the width goes on in the next row."""
    lead = width("suppresses", SIZE - 1) + 6
    lines: list[list[str]] = []
    room = 0
    for effect in effects:
        text = visible(effect.token, TOKEN_LIMIT)
        points = width(text, SIZE) + 4
        if points > room:
            _fill(lines, room)
            label = font("" if lines else word, size=SIZE - 1, color=color)
            lines.append([cell(label, width=lead, align="LEFT")])
            room = total - lead
        lines[-1].append(cell(font(text, color=color), width=points, align="LEFT", bgcolor=tint))
        room -= points
    _fill(lines, room)
    return [table([line], cellpadding=2) for line in lines]


def _fill(lines: list[list[str]], room: int) -> None:
    """Close the last row with an empty cell, so that nothing stretches."""
    if lines and room > 0:
        lines[-1].append(cell(width=room))
