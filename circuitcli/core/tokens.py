"""How a token is shown: the same in tables and pictures, on one line, with nothing in it that a reader can't see."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

ELLIPSIS = "…"

# The control pictures of Unicode (␀ … ␟, ␡), but newline and tab as the keys that type them, space as an open box.
_SHOWN = {chr(c): chr(0x2400 + c) for c in range(0x20)} | {"\x7f": "␡", " ": "␣", "\n": "⏎", "\t": "⇥"}
_SHOWN_BYTE = len("<0xE2>")
_BYTES_IN_A_ROW = re.compile("(?:<0x[0-9A-F]{2}>)+")


def visible(token: str, limit: int) -> str:
    """The text that stands for a token: printable, without whitespace, at most `limit` characters long.

    Spaces, newlines and control characters become pictures (␣ ⏎ ⇥ ␀ …); all else that doesn't print (other spaces,
    directional marks, surrogates, private characters) becomes an escape such as `\\u202e`; what is too long ends
    in `…`; an empty token is `∅`. The result is text: escape it for the place where it goes.
    """
    if limit < 1:
        raise ValueError(f"limit must be at least 1, not {limit}")
    if not token:
        return "∅"
    shown = [_SHOWN.get(char) or (char if char.isprintable() else _escaped(char)) for char in token[: limit + 1]]
    if unicodedata.combining(token[0]):
        shown[0] = "◌" + shown[0]  # or the mark would sit on whatever stands before the token
    text = "".join(shown)
    if len(text) <= limit:
        return text
    text = ""
    for piece in shown:
        if len(text) + len(piece) > limit - len(ELLIPSIS):
            break
        text += piece
    return text + ELLIPSIS


def running(token: str, limit: int, *, firing: bool = False) -> str:
    """A token within a running text: its spaces are spaces, and one without text takes no place, unless it fires.

    Such are those whose bytes stand in another token, see `readable`.
    """
    return visible(token, limit).replace("␣", " ") if token or firing else ""


def readable(pieces: Sequence[str], firing: int | None = None) -> list[str]:
    """Tokens of a running text, in which characters that are split over several tokens are whole again.

    A piece shows the bytes that are no character of their own as `<0xE2><0x80>`. Bytes in a row that make a character
    stand as this in the last of their tokens, or in the firing one if it is among them; nothing else changes: bytes
    that make none stay as they are, before and behind whole characters too.
    """
    found = list(pieces)
    ends = [0]
    for piece in pieces:
        ends.append(ends[-1] + len(piece))
    for run in reversed(list(_BYTES_IN_A_ROW.finditer("".join(pieces)))):
        for start, stop, text in reversed(_characters(run)):
            places = [i for i in range(len(pieces)) if ends[i] < stop and ends[i + 1] > start]
            if len(places) < 2:
                continue
            home = firing if firing in places else places[-1]
            for i in places:
                first, end = max(start - ends[i], 0), min(stop - ends[i], len(pieces[i]))
                found[i] = found[i][:first] + (text if i == home else "") + found[i][end:]
    return found


def _characters(run: re.Match[str]) -> list[tuple[int, int, str]]:
    """Where what shows each character of bytes in a row begins and ends; a byte that is part of none counts as one."""
    raw = bytes(int(byte, 16) for byte in re.findall("<0x(..)>", run[0]))
    at, found = run.start(), []
    for char in raw.decode("utf-8", "surrogateescape"):
        stop = at + len(char.encode("utf-8", "surrogateescape")) * _SHOWN_BYTE
        found.append((at, stop, char))
        at = stop
    return found


def _escaped(char: str) -> str:
    """A character as Python would write it: `\\xa0`, `\\u202e` or `\\U000e0001`."""
    code = ord(char)
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"
