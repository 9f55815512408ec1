"""Documents of a text, before they are cut into sequences: special tokens that are written out end them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from circuitcli.core.words import amount
from circuitcli.errors import InputError
from circuitcli.stages.subject import Subject

# Kinds of special tokens that are named.
_NAMED = 3


def sequence_limit(subject: Subject) -> int:
    """Most tokens of a sequence of text, its BOS counted.

    Raises:
        InputError: The model reads fewer.
    """
    settings, limit = subject.tools.settings, subject.checkpoint.shape.n_ctx
    if settings.texts.max_tokens > limit:
        raise InputError(
            f"{settings.model} reads {amount(limit, 'token')}, not {settings.texts.max_tokens}.",
            hint=f"Give --max-tokens {limit}.",
        )
    return settings.texts.max_tokens


def documents(subject: Subject, texts: Iterable[str], special: Counter[str]) -> Iterator[str]:
    """Texts as documents, which end at special tokens; these are counted."""
    for text in texts:
        parts, between = subject.tokenizer.split(text)
        special.update(between)
        yield from (part for part in parts if part.strip())


def say_what_ends(special: Counter[str], say: Callable[[str], None]) -> None:
    """Which special tokens end documents, if any does."""
    if special:
        say(f"{counted(special)} in the text: documents end there, and none of them is read.")


def counted(special: Counter[str]) -> str:
    """How many special tokens there are, and which are the most frequent: `2 special tokens (<s>, </s>)`."""
    named = ", ".join(token for token, _ in special.most_common(_NAMED))
    more = ", …" if len(special) > _NAMED else ""
    return f"{amount(special.total(), 'special token')} ({named}{more})"
