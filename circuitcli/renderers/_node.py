"""The box of one feature: its name and facts, its top contexts, and the tokens that it promotes and suppresses."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import Any, NamedTuple

from circuitcli.core.circuit import Context, Node, TokenEffect
from circuitcli.core.tokens import visible
from circuitcli.renderers import _change, _dictionaries, _survival
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
    natural_width,
    table,
    width,
    words,
)

SIZE = 13
NAME_SIZE = 20
NAME_LIMIT = 60
TOKEN_LIMIT = 20  # characters of a token
LINE, ROW = 18, 22  # points: the height of a context's cells, and from one row to the next
GAP = 2  # points between tokens that are promoted or suppressed
LABEL_LINE = 48  # of a line of a label
MIN_WIDTH = 240
LEAD = width("suppresses", SIZE - 1) + 6  # points before the first token
LEAST_CHANCE = 5e-5  # changes of a probability that are told


class Box(NamedTuple):
    """The label of a node and about how large it will be, in points."""

    label: str
    width: int
    height: int


def box(node: Node, *, numbers: bool = False) -> Box:
    """An HTML-like table; each row in it is a table of its own, so that no row widens another's cells.

    With `numbers` tokens have their effects beside them.
    """
    contexts = [_line(context, node.max_activation) for context in node.contexts]
    before, after = (
        max((line.before for line in contexts), default=0),
        max((line.after for line in contexts), default=0),
    )
    name, facts = visible(node.id, NAME_LIMIT), _facts(node)
    head = width(name, NAME_SIZE, bold=True) + width(facts, SIZE - 1) + 16
    called = max((width(line, SIZE, bold="bold" in style) for line, style in names(node)), default=0)
    chips = [_chip(effect, numbers=numbers) for effect in (*node.promoted, *node.suppressed)]
    points = sorted(points + GAP for _, points in chips) or [0]
    usual = 2 * points[max(0, len(points) - 3)] if numbers else 0  # two in a row, but for the widest
    reads, place = _dictionaries.where(node), {"size": SIZE - 1, "color": FACTS}
    total = max(MIN_WIDTH, before + after, head, called, width(reads, SIZE - 1), LEAD + max(points[-1], usual))
    rows = [_head(name, facts, total)]
    rows += [_named(reads, place, total)] if reads else []
    rows += [_named(line, style, total) for line, style in names(node)]
    rows += [_context(line, before, total) for line in contexts]
    rows += _tokens("promotes", node.promoted, RAISES, BLUE_TINT, total, numbers=numbers)
    rows += _tokens("suppresses", node.suppressed, LOWERS, RED_TINT, total, numbers=numbers)
    border = {"border": 3, "color": INK} if node.pinned else {"border": 1, "color": _survival.frame(node, "#8c8c8c")}
    if node.change:
        border = {"border": 4, "color": _change.color(node.change)}
    label = table(
        [[cell(row, align="LEFT")] for row in rows], bgcolor="white", style="ROUNDED", cellpadding=2, **border
    )
    return Box(label, total + 12, ROW * len(rows) + 10)


def facts_in_words(node: Node) -> str:
    """All facts of a node on one line, for its tooltip."""
    kl = "not measured" if node.kl_mean is None else f"{number(node.kl_mean)} nats"
    return (
        f"{node.id}{' (pinned)' if node.pinned else ''}: fires at {percent(node.density)} of positions, "
        f"largest activation {number(node.max_activation)}, ablated at n={node.n}, mean KL {kl}"
        + (f", {_survival.in_words(node.survival)}" if node.survival is not None else "")
        + (f", {where}" if (where := _dictionaries.where(node)) else "")
    )


def number(value: float, digits: int = 3) -> str:
    """So many significant digits, with a real minus sign."""
    return f"{value:.{digits}g}".replace("-", "−") if math.isfinite(value) else "–"


def percent(share: float, digits: int = 2) -> str:
    """A share as a percentage of so many significant digits, without exponent."""
    if not math.isfinite(share) or share <= 0:
        return "0%"
    decimals = max(0, digits - 1 - math.floor(math.log10(share * 100)))
    return f"{share * 100:.{min(decimals, 6)}f}%"


def _facts(node: Node) -> str:
    parts = ["pinned"] if node.pinned else []
    if node.kind != "feature":
        parts.append(words(node.kind))
    else:
        parts.append(f"fires {percent(node.density)}")
    if node.kl_mean is not None:
        parts.append(f"KL {number(node.kl_mean, 2)}")
    if node.survival is not None:
        parts.append(_survival.in_words(node.survival))
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


class Line(NamedTuple):
    """A context as it is drawn: cells that join to its text, and the points before the firing token and from it on."""

    cells: list[str]
    before: int
    after: int


def _line(context: Context, largest: float) -> Line:
    """Tokens side by side as in the text, neighbours of one shade in one cell.

    Cells begin and end where their text does, rounded to points over the whole line, so that nothing adds up.
    """
    cells: list[str] = []
    edges, firing = [0.0], 0.0
    looks = [_look(context, i, largest) for i in range(len(context.tokens))]
    for (color, bold), group in groupby(range(len(looks)), key=looks.__getitem__):
        if bold:
            firing = edges[-1]
        text = "".join(running(context.tokens[i], TOKEN_LIMIT, firing=bold) for i in group)
        if not text:
            continue
        edges.append(edges[-1] + _exact(text, bold=bold))
        points = round(edges[-1]) - round(edges[-2])
        run = font(text, size=SIZE, bold=bold) + '<BR ALIGN="LEFT"/>'  # or what Graphviz thinks too wide is centred
        cells.append(cell(run, width=points, height=LINE, fixedsize="TRUE", align="LEFT", bgcolor=color))
    return Line(cells, round(firing), round(edges[-1]) - round(firing))


def _look(context: Context, i: int, largest: float) -> tuple[str | None, bool]:
    """The shade of a token, and whether it is bold: the firing one is."""
    activation = context.activations[i]
    share = activation / largest if largest > 0 and math.isfinite(activation) else 0.0
    return blend(SHADE, share) if share > 0 else None, i == context.firing


def _exact(text: str, *, bold: bool) -> float:
    """Points that a text takes, as near as can be known."""
    found = natural_width(text, SIZE, bold=bold)
    return width(text, SIZE, bold=bold) if found is None else found


def running(token: str, limit: int, *, firing: bool = False) -> str:
    """A token within running text: the one space before a word stays a space, all other whitespace is shown.

    One without text takes no place, as in `core.tokens.running`.
    """
    if not token and not firing:
        return ""
    if len(token) > 1 and token[0] == " " and not token[1].isspace():
        return " " + visible(token[1:], limit)
    return visible(token, limit)


def _context(line: Line, before: int, total: int) -> str:
    """One row: the firing token stands at the same place in all of them."""
    lead = before - line.before
    trail = total - before - line.after
    cells = [cell(width=lead)] * bool(lead) + line.cells + [cell(width=trail)] * bool(trail)
    return table([cells], cellpadding=0, fixedsize="TRUE", width=total, height=LINE, align="LEFT")  # never stretched


def _tokens(
    word: str, effects: Sequence[TokenEffect], color: str, tint: str, total: int, *, numbers: bool
) -> list[str]:
    """Rows of tokens, none if there are none; what doesn't fit the width goes on in the next row."""
    lines: list[list[str]] = []
    room = 0
    for effect in effects:
        run, points = _chip(effect, numbers=numbers)
        if points + GAP > room:
            _fill(lines, room)
            label = font("" if lines else word, size=SIZE - 1, color=color)
            lines.append([cell(label, width=LEAD, align="LEFT")])
            room = total - LEAD
        text = "".join(font(part, size=size, color=color) for part, size in run)
        lines[-1].append(cell(text, width=points, align="LEFT", bgcolor=tint))
        room -= points + GAP
    _fill(lines, room)
    return [table([line], cellpadding=1, cellspacing=GAP) for line in lines]


def _chip(effect: TokenEffect, *, numbers: bool) -> tuple[list[tuple[str, int]], int]:
    """A token, and its numbers if they are wanted, each with its font size; and the points that they take."""
    run = [(visible(effect.token, TOKEN_LIMIT), SIZE)]
    if numbers:
        run.append((f" {in_numbers(effect)}", SIZE - 3))
    return run, sum(width(text, size) for text, size in run) + 4


def in_numbers(effect: TokenEffect) -> str:
    """What ablation does to a token: `−2.07, Δp −0.0031`; in nats, and of its probability where that is known."""
    chance = effect.prob_effect_mean
    small = chance is not None and abs(chance) < LEAST_CHANCE
    said = "" if chance is None else ", Δp ≈ 0" if small else f", Δp {chance:+.4f}"
    return f"{effect.effect_mean:+.2f}{said}".replace("-", "−")


def _fill(lines: list[list[str]], room: int) -> None:
    """Close the last row with an empty cell, so that nothing stretches."""
    if lines and room > 0:
        lines[-1].append(cell(width=room))
