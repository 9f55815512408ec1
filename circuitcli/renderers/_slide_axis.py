"""The axis of a slide: all tokens of a prompt in order, those without boxes small, as running text between columns."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby
from typing import NamedTuple

from circuitcli.core.tokens import running, visible
from circuitcli.renderers._html import LEADING, width, wrapped

SIZE, HEAD = 10, 12  # of fonts
LINES = 5
WORD = 80  # points; a longer one may break
SHARE = 0.36  # of the width, for all of them together
LEAST = 8  # characters of a stretch, if it has them
TOKEN_LIMIT, HEAD_LIMIT = 30, 16


class Stretch(NamedTuple):
    """One token, or several without boxes: their text in lines, how wide these are, and the first position."""

    lines: tuple[str, ...]
    width: int
    first: int


def axis(tokens: Sequence[str], columns: Collection[int | None], room: float) -> list[Stretch | int | None]:
    """The positions that are columns, and what stands between them, from left to right; a column of none comes first.

    Of a prompt that is too long for the room each stretch has its beginning and end.
    """
    positions = [*range(len(tokens)), *sorted(pos for pos in columns if pos is not None and pos >= len(tokens))]
    found: list[tuple[int, str | None]] = []
    for is_column, group in groupby(positions, key=lambda pos: pos in columns):
        members = list(group)
        if is_column:
            found += [(pos, None) for pos in members]
        else:
            text = "".join(running(tokens[pos], TOKEN_LIMIT) for pos in members)
            if text.strip():  # else there is nothing to be read, and of nothing Graphviz makes no label
                found.append((members[0], " ".join(text.split())))
    needed = sum(width(text, SIZE) for _, text in found if text) / LINES
    share = min(1.0, SHARE * room / needed) if needed else 1.0
    none: list[Stretch | int | None] = [None] if None in columns else []
    return none + [pos if text is None else _stretch(_short(text, share), pos) for pos, text in found]


def height(axis: Sequence[Stretch | int | None]) -> float:
    """Of the highest stretch."""
    return max([1, *(len(part.lines) for part in axis if isinstance(part, Stretch))]) * LEADING * SIZE


def head(tokens: Sequence[str], pos: int) -> Stretch:
    """A token as it stands at the foot of its column, if it has no box of its own."""
    token = visible(tokens[pos], HEAD_LIMIT) if pos < len(tokens) else "–"
    return Stretch((token,), width(token, HEAD, bold=True), pos)


def _short(text: str, share: float) -> str:
    keep = max(LEAST, int(share * len(text)))
    return text if keep >= len(text) else f"{text[: keep // 2].rstrip()} … {text[-(keep // 2) :].lstrip()}"


def _stretch(text: str, first: int) -> Stretch:
    points = max([width(text, SIZE) / LINES, *(min(width(word, SIZE), WORD) for word in text.split())])
    while len(wrapped(text, SIZE, points, LINES + 1)) > LINES:
        points *= 1.05
    lines = wrapped(text, SIZE, points, LINES)
    return Stretch(tuple(lines), max((width(line, SIZE) for line in lines), default=LEAST), first)
