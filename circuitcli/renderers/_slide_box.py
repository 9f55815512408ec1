"""The boxes of a slide: what they say, how large they are, and how they look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from circuitcli.core.circuit import Node
from circuitcli.core.tokens import visible
from circuitcli.core.words import amount
from circuitcli.renderers import _change, _dictionaries, _survival
from circuitcli.renderers._html import (
    FACTS,
    GROUP,
    INK,
    LEADING,
    LOWERS,
    RAISES,
    blend,
    cell,
    centred,
    table,
    width,
    words,
    wrapped,
)
from circuitcli.renderers._node import number, percent
from circuitcli.renderers._question import decimal
from circuitcli.renderers._slide_parts import Part

NAME_LIMIT, LABEL_LIMIT = 40, 80  # characters
NARROWEST, WIDEST = 6.0, 10.5  # of a box's text, in sizes of its font
LABEL_LINES = 2
PAD = 4  # points around the text
TINT = 0.28  # of the largest effect
FRAME = "#8c8c8c"


class Look(NamedTuple):
    """How all boxes of a slide are: size of the font, and points of width."""

    size: float
    width: int


def look(parts: Sequence[Part], size: float) -> Look:
    """As wide as the longest name."""
    named = [width(called(part), size, bold=True) for part in parts if not _labelled(part)]
    return Look(size, math.ceil(min(max([NARROWEST * size, *named]), WIDEST * size)) + 2 * PAD)


def extent(part: Part, look: Look) -> tuple[int, int]:
    """Width and height; tokens' boxes, which stand close to each other, are as wide as what is in them."""
    wide = look.width
    if part.first.kind == "token" and part.group is None:
        wide = min(wide, max(width(called(part), look.size, bold=True), width(says(part), look.size)) + 2 * PAD)
    lines = len(_lines(part, look.size, wide - 2 * PAD)) + 1
    return wide, lines * round(LEADING * look.size) + 2 * PAD


def called(part: Part) -> str:
    """A group's name, a label, or what the node is without its position."""
    node = part.first
    if part.group is not None:
        return words(part.group, LABEL_LIMIT)
    if node.label:
        return words(node.label, LABEL_LIMIT)
    if node.kind in ("token", "target") and node.attribution:
        tokens = node.attribution.token.split(", ")  # of several prompts some
        tokens = tokens if all(tokens) else [node.attribution.token or node.kind]
        return ", ".join(visible(token, NAME_LIMIT) for token in tokens)
    return visible(node.id.rpartition("@")[0] or node.id, NAME_LIMIT)


def box(part: Part, look: Look, largest: float) -> str:
    """An HTML-like label; tinted by the effect, as a share of the largest that is drawn."""
    wide, high = extent(part, look)
    inner = wide - 2 * PAD
    bold = not _labelled(part)
    lines = [centred(line, inner, look.size, bold=bold, italic=not bold) for line in _lines(part, look.size, inner)]
    lines.append(centred(says(part), inner, look.size, color=INK if part.effect is not None else FACTS))
    share = abs(part.effect or 0.0) / largest if largest else 0.0
    hue = LOWERS if (part.effect or 0.0) < 0 else RAISES
    fixed = {"fixedsize": "TRUE", "width": wide, "height": high, "cellpadding": 0}
    rows = [[cell(line)] for line in lines]
    return table(rows, **fixed, **_frame(part), bgcolor=blend(hue, TINT * share))


def says(part: Part) -> str:
    """`−1.10`, with `≈` where it is an estimate; `4 nodes Σ −2.31` of a group, `p = 49.7%` of a target."""
    asked = part.first.attribution
    if part.first.kind == "target" and asked is not None and part.group is None:
        return "" if asked.prob is None else f"p = {percent(asked.prob, 3)}"
    if part.effect is None:
        return "–"
    about = "≈ " if part.estimated else ""
    plus = "+" if part.effect > 0 else ""
    effect = f"{about}{plus}{decimal(part.effect)}"
    return effect if part.group is None else f"{amount(len(part.members), 'node')} Σ {effect}"


def in_words(part: Part, unit: str) -> str:
    """All that is known of it on one line, for its tooltip."""
    if part.group is None:
        place = _dictionaries.where(part.first)
        return f"{part.id}: {_facts(part.first, unit)}{f', {place}' if place else ''}"
    members = "; ".join(f"{node.id} {_effect(node, unit)}" for node in part.members)
    return f"{part.id}: {says(part)} {unit}: {members}"


def _facts(node: Node, unit: str) -> str:
    asked = node.attribution
    if asked is None:
        return node.kind
    if node.kind == "target":
        return says(Part(node.id, node, (node,), None, estimated=False))
    became = "" if asked.replacement is None else f" → {number(asked.replacement)}"
    how = {"feature": "activation", "error": "norm", "token": "norm"}.get(node.kind, "activation")
    return (
        f"{visible(asked.token, NAME_LIMIT)}, {how} {number(asked.activation)}{became}, {_effect(node, unit)}, "
        f"influence up to {percent(asked.influence)}"
        + (f", {_survival.in_words(node.survival)}" if node.survival is not None else "")
    )


def _effect(node: Node, unit: str) -> str:
    asked = node.attribution
    if asked is None or asked.effect is None:
        return "no effect known"
    return f"effect {number(asked.effect)} {unit} ({asked.method})"


def _labelled(part: Part) -> bool:
    return part.group is None and bool(part.first.label)


def _lines(part: Part, size: float, points: float) -> list[str]:
    most = LABEL_LINES if _labelled(part) or part.group is not None else 1
    return wrapped(called(part), size, points, most, bold=not _labelled(part)) or [" "]


def _frame(part: Part) -> dict[str, object]:
    """Dotted of an error, thick of what the user pinned, green of a group, in its own colour of what changed."""
    node = part.first
    if node.change and part.group is None:
        return {"border": 3, "color": _change.color(node.change), "style": "ROUNDED"}
    if part.group is not None:
        return {"border": 3, "color": GROUP, "style": "ROUNDED"}
    if node.pinned:
        return {"border": 3, "color": INK, "style": "ROUNDED"}
    if node.kind == "error":
        return {"border": 2, "color": FACTS, "style": "ROUNDED,DOTTED"}
    return {
        "border": 2 if node.kind == "target" else 1,
        "color": INK if node.kind == "target" else _survival.frame(node, FRAME),
        "style": "ROUNDED",
    }
