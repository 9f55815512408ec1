"""Graphviz's HTML-like labels: text made safe, its width guessed, cells and tables.

Graphviz lays text out with the widths of Helvetica and knows those of ASCII only, so that every cell is given a
width here, a little more than its text needs in any common sans-serif font.
"""

from __future__ import annotations

import html
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable

from circuitcli.core.tokens import visible

FONT = "Helvetica"
INK = "#1a1a1a"
FACTS = "#5f5f5f"
RAISES = "#2166ac"  # blue: ablation raises the target.  The two ends of ColorBrewer's RdBu,
LOWERS = "#b2182b"  # red: ablation lowers it.           which the colour-blind tell apart
BLUE_TINT = "#dbe9f6"
RED_TINT = "#fbe3e0"
GROUP = "#00795c"  # a group that the user made
LEADING = 1.22  # from one line to the next, in sizes of the font
SHADE = "#f5a623"  # activation: neither of the two

# Widths of Helvetica and of Helvetica-Bold in 1/1000 em.
_PLAIN = {
    191: "'",
    222: "ijl‘’",
    260: "|",
    278: " !,./:;[\\]ftI·",
    333: "()-`r{}“”",
    355: '"',
    389: "*",
    469: "^",
    500: "Jcksvxyz",
    556: "#$0123456789?L_abdeghnopqu–",
    584: "+<=>~−",
    611: "FTZΔ",
    667: "&ABEKPSVXY",
    722: "CDHNRUw",
    778: "GOQ",
    833: "Mm",
    834: "␣⏎⇥␍",
    889: "%",
    944: "W",
    1015: "@…→—",
}
_BOLD = {
    238: "'",
    278: " ,./I\\ijl·‘’",
    280: "|",
    333: "!()-:;[]`ft",
    389: "*r{}",
    474: '"',
    500: "z“”",
    556: "#$0123456789_aceksvxyJ–",
    584: "+<=>^~−",
    611: "?FLTZΔbdghnopqu",
    667: "EPSVXY",
    722: "&ABCDHKNRU",
    778: "GOQw",
    833: "M␣⏎⇥␍",
    889: "%m",
    944: "W",
    975: "@",
    1015: "…→—",
}
_WIDTHS = [{char: width / 1000 for width, chars in table.items() for char in chars} for table in (_PLAIN, _BOLD)]


def width(text: str, size: float, *, bold: bool = False) -> int:
    """Points to reserve for a text at a font size, on the safe side."""
    return int(1.04 * size * sum(_em(char, bold=bold) for char in text)) + 2


def natural_width(text: str, size: float, *, bold: bool = False) -> float | None:
    """Points that a text takes in Helvetica; None if it holds characters whose width isn't known here."""
    known = [_known(char, bold=bold) for char in text]
    return None if None in known else size * sum(em for em in known if em is not None)


def _known(char: str, *, bold: bool) -> float | None:
    """The width of a character in Helvetica, in em; of a letter with an accent that of the letter."""
    return _WIDTHS[bold].get(char) or _WIDTHS[bold].get(unicodedata.normalize("NFD", char)[0])


def _em(char: str, *, bold: bool) -> float:
    by_bytes = 0.278 * len(char.encode(errors="replace"))  # how graphviz-pure counts what isn't ASCII
    known = _known(char, bold=bold)
    if known is not None:
        return known if char.isascii() else max(known, by_bytes)
    wide = unicodedata.east_asian_width(char) in "WF" or ord(char) > 0xFFFF
    return 1.3 if wide else max(0.6, by_bytes)


def escape(text: str) -> str:
    """Text for an HTML-like label; it must already be free of control characters (`core.tokens.visible`).

    After the entities Graphviz still reads its own escapes (`\\N` is the node's name), so that backslashes are doubled.
    """
    return html.escape(text, quote=True).replace("\\", "\\\\")


def words(text: str, limit: int = 60) -> str:
    """Text in one line, each word shown as a token is and the spaces between them kept."""
    return " ".join(visible(word, limit) for word in text.split())


def wrapped(text: str, size: float, points: float, most: int, *, bold: bool = False) -> list[str]:
    """A text in lines that aren't wider than so many points, at most so many of them; one that goes on ends in `…`.

    Lines break between words, or within a word that is longer than a line.
    """
    lines: list[str] = []
    while text and len(lines) < most:
        rest = "…" if len(lines) == most - 1 else ""
        if width(text, size, bold=bold) <= points:
            return [*lines, text]
        end = bisect_right(range(1, len(text)), points, key=lambda n: width(text[:n] + rest, size, bold=bold))
        end = max(1, end)
        between = text.rfind(" ", 0, end + 1)
        end = between if between > 0 else end
        lines.append(text[:end].rstrip() + rest)
        text = text[end:].lstrip()
    return lines


def font(
    text: str, *, size: float | None = None, color: str | None = None, bold: bool = False, italic: bool = False
) -> str:
    """A run of text, escaped. Graphviz refuses empty runs: those become a space.

    Bold and italic are faces of their own: tags for them would put the line higher than its neighbours.
    """
    run = escape(text) or " "
    face = f"{FONT}-{'Bold' * bold}{'Oblique' * italic}" if bold or italic else None
    wanted = (("FACE", face), ("POINT-SIZE", size), ("COLOR", color))
    given = "".join(f' {k}="{v}"' for k, v in wanted if v is not None)
    return f"<FONT{given}>{run}</FONT>" if given else run


def cell(inner: str = "", **attributes: object) -> str:
    """One cell; attributes are those of Graphviz's TD, in lower case."""
    given = "".join(f' {k.upper()}="{v}"' for k, v in attributes.items() if v is not None)
    return f"<TD{given}>{inner}</TD>"


def centred(
    text: str, points: float, size: float, *, color: str | None = None, bold: bool = False, italic: bool = False
) -> str:
    """A text in the middle of so many points, whatever Graphviz takes its width for: a table of one line."""
    known = natural_width(text, size, bold=bold)
    needed = min(round(width(text, size, bold=bold) if known is None else known), round(points))
    lead = (round(points) - needed) // 2
    run = font(text, size=size, color=color, bold=bold, italic=italic) + '<BR ALIGN="LEFT"/>'
    high = round(LEADING * size)
    middle = cell(run, width=needed, height=high, fixedsize="TRUE", align="LEFT")
    sides = [[cell(width=side)] if side else [] for side in (lead, round(points) - needed - lead)]
    return table([[*sides[0], middle, *sides[1]]], cellpadding=0, fixedsize="TRUE", width=round(points), height=high)


def table(rows: Iterable[Iterable[str]], **attributes: object) -> str:
    """A table of rows of cells, without lines or gaps unless attributes ask for them."""
    merged = {"border": 0, "cellborder": 0, "cellspacing": 0, "cellpadding": 1} | attributes
    given = "".join(f' {k.upper()}="{v}"' for k, v in merged.items())
    return f"<TABLE{given}>" + "".join(f"<TR>{''.join(cells)}</TR>" for cells in rows) + "</TABLE>"


def blend(color: str, share: float) -> str:
    """`color` laid over white with an opacity between 0 and 1."""
    share = min(1.0, max(0.0, share))
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in parts)
