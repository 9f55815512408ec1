"""Prompts that are the beginnings of some of the text: what is asked where nobody asks anything."""

from __future__ import annotations

from circuitcli.core.sampling import sample_documents
from circuitcli.core.words import amount
from circuitcli.errors import InputError, UsageError
from circuitcli.stages.questions import Asked
from circuitcli.stages.sequences import bos_of, source_of
from circuitcli.stages.subject import Subject

# So many times the texts that are wanted are drawn: some are too short.
_DRAWN = 8


def beginnings(subject: Subject, count: int, tokens: int) -> list[Asked]:
    """`count` texts at random, or as many as there are, each cut to so many tokens, BOS counted.

    Of each the model's most likely next token is asked. No special token is read: where one stands a document ends.

    Raises:
        UsageError: The model reads fewer tokens.
        InputError: No text is long enough, or the model lacks BOS.
    """
    settings, limit = subject.tools.settings, subject.checkpoint.shape.n_ctx
    if tokens > limit:
        raise UsageError(
            f"{settings.model} reads {amount(limit, 'token')}, not {tokens}.", hint=f"Give --tokens {limit} or less."
        )
    source, request = source_of(settings)
    bos, tokenizer = bos_of(subject), subject.tokenizer
    head = () if bos is None else (bos,)
    drawn, _ = sample_documents(source.documents(request), _DRAWN * count, 0, settings.seed)
    found: list[tuple[int, ...]] = []
    for text in drawn:
        first = next((part for part in tokenizer.split(text)[0] if part.strip()), "")
        ids = (*head, *tokenizer.encode(first))[:tokens]
        if len(ids) == tokens and len(found) < count:
            found.append(ids)
    if not found:
        raise InputError(
            f"No text begins with {amount(tokens, 'token')}.", hint="Give longer text, or fewer with --tokens."
        )
    if len(found) < count:
        subject.tools.report.say(f"{len(found)} texts begin with {amount(tokens, 'token')}: {count} were asked for.")
    counts = tuple(place > 0 for place in range(tokens))
    return [Asked("".join(tokenizer.pieces(ids[len(head) :])), ids, counts, None, None, None, None) for ids in found]
