"""Tokens as people name them, by text or by id, and as people are shown them: how texts split, prompts side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence

from circuitcli.core.tokens import visible
from circuitcli.core.words import amount
from circuitcli.errors import UsageError, quoted
from circuitcli.runtime.tokenizer import Tokenizer
from circuitcli.stages.sequences import Say
from circuitcli.stages.subject import Subject

_ID = "id:"
# Of tokens that are shown: characters of each; and positions of two prompts side by side, so many before they differ.
_WIDE, _LONG, _BEFORE = 20, 40, 3


def find_token(subject: Subject, spelled: str | int, flag: str, say: Say) -> int:
    """The id of a token that is named by its text, with the space before a word, or by its id: `id:15`, or a number.

    Args:
        subject: The model.
        spelled: Its name.
        flag: Where it is named, for errors: `--target`, or a key of a file.
        say: What is told if another token differs by the space alone.

    Raises:
        UsageError: It isn't one token, or none of the model's; how it splits and what is one is said.
    """
    number = _number(spelled)
    return _by_text(subject.tokenizer, str(spelled), flag, say) if number is None else _by_id(subject, number, flag)


def _number(spelled: str | int) -> int | None:
    """The id that is meant, if one is."""
    if isinstance(spelled, int):
        return spelled
    digits = spelled.removeprefix(_ID)
    return int(digits) if digits != spelled and digits.isascii() and digits.isdigit() and len(digits) < 20 else None


def _by_id(subject: Subject, number: int, flag: str) -> int:
    count = subject.checkpoint.shape.d_vocab
    if not 0 <= number < count:
        raise UsageError(
            f"{flag}: there is no token {number}: {subject.checkpoint.name} has {amount(count, 'token')}.",
            hint=f"Give an id from 0 to {count - 1}, or the token's text.",
        )
    return number


def _by_text(tokenizer: Tokenizer, text: str, flag: str, say: Say) -> int:
    found, other = tokenizer.token(text), text[1:] if text.startswith(" ") else f" {text}"
    there = bool(other) and tokenizer.token(other) is not None
    if found is not None:
        if there and not text.startswith(" "):
            say(f"{flag} {text!r} is the token without a space before it; {other!r} is another one.")
        return found
    ids = tokenizer.encode(text)
    message = f"{flag} {text!r} isn't one token: it is {shown(tokenizer, ids) or 'none at all'}."
    if there:
        typed = f"{flag} {quoted(other)}" if flag.startswith("--") else json.dumps(other, ensure_ascii=False)
        raise UsageError(message, hint=f"{other!r} is one: give {typed}.")
    first = f"the first of these, {_ID}{ids[0]}, or " if ids else ""
    raise UsageError(
        message, hint=f"The model says one token after the other: give {first}another one, by its text or as {_ID}N."
    )


def shown(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Tokens as they follow one another: `␣heav|ens`."""
    return "|".join(visible(tokenizer.text(token), _WIDE) for token in ids)


def side_by_side(tokenizer: Tokenizer, ids: Sequence[int], others: Sequence[int]) -> list[str]:
    """A prompt and its counterfactual token by token, a line a position, from a little before they differ on."""
    pieces = [[visible(piece, _WIDE) for piece in tokenizer.pieces(one)] for one in (ids, others)]
    count = max(len(ids), len(others))
    left, right = (row + ["–"] * (count - len(row)) for row in pieces)
    differ = next((place for place, pair in enumerate(zip(ids, others, strict=False)) if pair[0] != pair[1]), None)
    first = min(len(ids), len(others)) if differ is None else differ
    begin = max(0, first - _BEFORE)
    stop = min(count, begin + _LONG)
    wide = max(len(text) for text in ("prompt", *left[begin:stop]))
    lines = [f"{place:>4}: {left[place]:<{wide}} | {right[place]}" for place in range(begin, stop)]
    lines[first - begin] += "  ← the first that differs"
    rest = [f"and {amount(count - stop, 'position')} more"] if stop < count else []
    return [f"{'':5} {'prompt':<{wide}} | counterfactual", *lines, *rest]
