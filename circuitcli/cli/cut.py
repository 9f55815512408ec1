"""Text on a terminal: how wide it is, where a line may break, and how a cell gives way with a mark.

Widths are in cells: a wide character takes two, a combining mark none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.text import Text

from circuitcli.core.tokens import ELLIPSIS

# What keeps together where a line breaks: a command between backticks, else a word.
_PIECE = re.compile(r"`[^`]*`\S*|\S+")
# Between the columns of a table, and the items of a cell.
GAP = "  "
# Between the nodes of a path.
ARROW = " → "


@dataclass(frozen=True)
class Focused:
    """A cell with a part, from `start` to `end`, that stays when it is cut, and stands below that of other rows."""

    text: Text
    start: int
    end: int

    def __str__(self) -> str:
        """The whole text."""
        return self.text.plain

    @property
    def before(self) -> Text:
        """What stands before the part."""
        return self.text[: self.start]

    @property
    def rest(self) -> Text:
        """The part, and what follows it."""
        return self.text[self.start :]


def head(text: Text, width: int) -> Text:
    """As many of the first characters as fit."""
    cut = text.copy()
    while cut.cell_len > width:
        cut = cut[: len(cut) - max(1, (cut.cell_len - width) // 2)]
    return cut


def tail(text: Text, width: int) -> Text:
    """As many of the last characters as fit, without marks that belong to what is gone."""
    cut = text.copy()
    while cut.cell_len > width or (len(cut) < len(text) and cut.plain and not cut[:1].cell_len):
        cut = cut[max(1, (cut.cell_len - width) // 2) :]
    return cut


def at_end(text: Text, width: int) -> Text:
    """The beginning, and `…` where something is gone."""
    if text.cell_len <= width:
        return text
    return head(text, width - 1) + Text(ELLIPSIS)


def at_start(text: Text, width: int) -> Text:
    """`…` where something is gone, and the end."""
    if text.cell_len <= width:
        return text
    return Text(ELLIPSIS) + tail(text, width - 1)


def path(text: Text, width: int) -> Text:
    """`…/` and the last folders that fit, or the end of the last one."""
    if text.cell_len <= width:
        return text
    for slash in re.finditer("/", text.plain):
        shorter = Text(ELLIPSIS) + text[slash.start() :]
        if shorter.cell_len <= width and len(shorter) > 2:
            return shorter
    return at_start(text, width)


def parted(text: Text) -> list[Text]:
    """The items of a list, which stand two spaces apart: a token may have a comma."""
    return list(text.split(GAP))


def items(text: Text, width: int) -> Text:
    """The first ones of a list, whole, and `…` where others are gone."""
    if text.cell_len <= width:
        return text
    for gap in reversed(list(re.finditer(GAP, text.plain))):
        shorter = text[: gap.end()] + Text(ELLIPSIS)
        if shorter.cell_len <= width:
            return shorter
    return at_end(text, width)


def hops(text: Text, width: int) -> Text:
    """A path from its first node to its last, with `…` in the place of nodes between them that don't fit."""
    if text.cell_len <= width:
        return text
    parts = list(text.split(ARROW))
    for left_out in range(1, len(parts) - 1):
        head = (len(parts) - left_out) // 2
        shorter = Text(ARROW).join([*parts[:head], Text(ELLIPSIS), *parts[head + left_out :]])
        if shorter.cell_len <= width:
            return shorter
    return at_end(text, width)


def around(cells: Sequence[Focused], width: int) -> list[Text]:
    """Each cut on both sides of its part, which stand below one another."""
    left = max(cell.before.cell_len for cell in cells)
    right = max(cell.rest.cell_len for cell in cells)
    kept = max(cell.text[cell.start : cell.end].cell_len for cell in cells)
    room = max(0, min(left, max((width - kept) // 2, width - right)))
    found = []
    for cell in cells:
        before = at_start(cell.before, room) if room else Text()
        found.append(Text(" " * (room - before.cell_len)) + before + at_end(cell.rest, width - room))
    return found


def words(line: Text) -> list[Text]:
    """The pieces of a line between which it may break."""
    return [line[piece.start() : piece.end()] for piece in _PIECE.finditer(line.plain)]


def flow(pieces: Iterable[Text], width: int, *, gap: str = " ", indent: int = 2, whole: bool = False) -> list[Text]:
    """Pieces one after another on lines that fit, all lines but the first indented.

    A piece that is wider than a line breaks between words, and a word that is wider anywhere, with `…`, unless `whole`.
    """
    lines: list[Text] = []
    for piece in pieces:
        if lines and lines[-1].cell_len + len(gap) + piece.cell_len <= width:
            lines[-1] = lines[-1] + Text(gap) + piece
            continue
        margin = Text(" " * (indent if lines else 0))
        if len(margin) + piece.cell_len <= width:
            lines.append(margin + piece)
        elif " " in piece.plain:
            parts = flow(piece.split(" "), width - len(margin), indent=0 if lines else indent, whole=whole)
            lines += [margin + part for part in parts]
        elif whole:
            lines.append(margin + piece)
        else:
            lines += _chopped(piece, width, margin)
    return lines


def _chopped(word: Text, width: int, margin: Text) -> list[Text]:
    """A word on as many lines as it takes, with `…` where it goes on."""
    lines = []
    room = max(3, width - len(margin))
    while word.cell_len > room:
        part = head(word, room - len(ELLIPSIS))
        lines.append(margin + part + Text(ELLIPSIS))
        word = word[len(part) :]
    return [*lines, margin + word]
