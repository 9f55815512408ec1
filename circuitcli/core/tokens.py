"""How a token is shown: the same in tables and pictures, on one line, with nothing in it that a reader can't see."""

from __future__ import annotations

import unicodedata

ELLIPSIS = "…"

# The control pictures of Unicode (␀ … ␟, ␡), but newline and tab as the keys that type them, space as an open box.
_SHOWN = {chr(c): chr(0x2400 + c) for c in range(0x20)} | {"\x7f": "␡", " ": "␣", "\n": "⏎", "\t": "⇥"}


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


def _escaped(char: str) -> str:
    """A character as Python would write it: `\\xa0`, `\\u202e` or `\\U000e0001`."""
    code = ord(char)
    if code > 0xFFFF:
        return f"\\U{code:08x}"
    return f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"
