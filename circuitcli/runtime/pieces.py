"""What each token stands for, so that the tokens of a sequence join to its text.

A decoder may strip the space before a first word, set spaces between words, or join the pieces of one, so that tokens
decoded one by one lose their spaces. Here a token is what it adds to what stands before it:

    in a sequence      decode(previous, token) − decode(previous)      the first one: decode(token)
    on its own         decode(anchor, token) − decode(anchor)          the anchor is some ordinary word

A token that isn't whole characters shows its bytes, `<0xE2><0x80>`, wherever it stands; an id that the tokenizer lacks,
as models whose vocabulary is padded have them, is `<id 50280>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache

# What decoders put in place of bytes that are no whole character.
_LOST = "\ufffd"
# A byte, as vocabularies of sentencepiece have it.
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
_PLAIN_BYTES = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_OTHER_BYTES = sorted(set(range(256)) - set(_PLAIN_BYTES))
# Byte-level vocabularies, GPT-2's and those after it, write a byte as a character: itself if it prints, else one of
# those from U+0100 on.
_BYTES = {chr(byte): byte for byte in _PLAIN_BYTES} | {chr(0x100 + i): byte for i, byte in enumerate(_OTHER_BYTES)}
# Pairs of tokens that are remembered.
_REMEMBERED = 1 << 16


class Pieces:
    """The texts of tokens."""

    def __init__(
        self, decode: Callable[[list[int]], str], entry: Callable[[int], str | None], anchor: Sequence[int]
    ) -> None:
        """See the module.

        Args:
            decode: Text of a sequence, special tokens too, nothing cleaned up.
            entry: What the vocabulary calls a token; None of an id that it lacks.
            anchor: Tokens of an ordinary word.
        """
        self._decode, self._entry, self._anchor = decode, entry, tuple(anchor)
        self._added = lru_cache(_REMEMBERED)(self._added_anew)

    def of(self, tokens: Sequence[int], start: int = 0, stop: int | None = None) -> list[str]:
        """The tokens from `start` to before `stop` of a sequence, as they stand in the whole of it."""
        places = range(len(tokens))[start:stop]
        return [self._added((tokens[place - 1],) if place else (), tokens[place]) for place in places]

    def alone(self, token: int) -> str:
        """An entry of the vocabulary: those that differ by a space in front are told apart."""
        return self._added(self._anchor, token)

    def _added_anew(self, before: tuple[int, ...], token: int) -> str:
        """What a token adds to the text before it."""
        entry = self._entry(token)
        if entry is None:
            return f"<id {token}>"
        earlier, text = self._decode([*before]) if before else "", self._decode([*before, token])
        if earlier.endswith(_LOST) or not text.startswith(earlier):  # bytes before it are decoded together with its own
            return self._added(self._anchor if before != self._anchor else (), token)
        return _in_bytes(text[len(earlier) :], entry)


def _in_bytes(text: str, entry: str) -> str:
    """The text, or, where it lacks bytes that are no whole character, what the vocabulary says of them."""
    if _LOST not in text:
        return text
    if BYTE_TOKEN.fullmatch(entry):
        return entry
    if not all(char in _BYTES for char in entry):
        return text
    decoded = bytes(_BYTES[char] for char in entry).decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda found: f"<0x{ord(found[0]) - 0xDC00:02X}>", decoded)
