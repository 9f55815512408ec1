"""Text that isn't in the run's sample: the beginnings of other documents, of its own source or of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from circuitcli import plugins
from circuitcli.core.sampling import sample_documents, to_sequences
from circuitcli.core.words import amount
from circuitcli.errors import InputError
from circuitcli.stages.documents import documents, say_what_ends, sequence_limit
from circuitcli.stages.sequences import Say, bos_of, documents_drawn, source_of
from circuitcli.stages.stage import Job
from circuitcli.stages.subject import Subject
from circuitcli.stages.text_identity import text_identity
from circuitcli.store import acts
from circuitcli.texts import TextRequest, TextSource

_ACTS = "cache-acts"
_GIVE = "Give text of your own with --prompts FILE."


def file_of_texts(path: str, column: str) -> tuple[TextSource, TextRequest]:
    """A file of texts, as --text takes one."""
    return plugins.load("texts", "file"), TextRequest((path,), column)


def unseen(job: Job, subject: Subject, file: str, count: int, say: Say) -> list[list[int]]:
    """The beginnings of at most `count` documents at random, with BOS if the run's sequences have it.

    A document gives one sequence, so that examples are of different documents. Of the run's own source those are drawn
    whose lots come next after the sample's; wherever they are from, sequences of the sample are left out.

    Args:
        job: The run.
        subject: Its model.
        file: A file of texts; empty: the run's own source.
        count: How many.
        say: What is told how many were left out, and of special tokens.

    Raises:
        InputError: The source isn't what it was, or there is no such document.
    """
    settings = job.settings
    if file:
        skipped, (source, request) = 0, file_of_texts(file, settings.validate.column)
    else:
        _check_source(job)
        skipped, (source, request) = documents_drawn(settings), source_of(settings)
    special: Counter[str] = Counter()
    texts = documents(subject, source.documents(request), special)
    _, drawn = sample_documents(texts, skipped, count, settings.seed)
    say_what_ends(special, say)
    found = sequences_of(subject, drawn)
    known = _sample(job)
    fresh = [piece for piece in found if tuple(piece) not in known and len(piece) > 2]
    seen = sum(tuple(piece) in known for piece in found)
    if seen:
        say(f"{amount(seen, 'text')} {'is' if seen == 1 else 'are'} left out: the run's sample has the same.")
    if not fresh:
        where = file or "The run's text"
        raise InputError(f"{where} has no document of three tokens that isn't in the run's sample.", hint=_GIVE)
    return fresh


def sequences_of(subject: Subject, texts: Iterable[str]) -> list[list[int]]:
    """The beginnings of texts, with BOS if sequences have it; of those that are long enough for one."""
    bos, longest = bos_of(subject), sequence_limit(subject)
    ids = (subject.tokenizer.encode(text) for text in texts)
    return [piece for one in ids for piece in to_sequences([one], bos=bos, max_tokens=longest, count=1)]


def _sample(job: Job) -> set[tuple[int, ...]]:
    """The sequences of the run's sample."""
    sample = acts.read_sample(job.run.verified(_ACTS, acts.TOKENS))
    return {tuple(row[:length].tolist()) for row, length in zip(sample.tokens, sample.lengths, strict=True)}


def _check_source(job: Job) -> None:
    """Refuse a source in which others than then would be drawn.

    Raises:
        InputError: It isn't what the run's sample was drawn from.
    """
    if job.settings.texts.file == "-":
        raise InputError("The run's text came from stdin, which is read once.", hint=_GIVE)
    if text_identity(job, job.report.say) != job.run.require(_ACTS).inputs["text"]:
        raise InputError("The run's text isn't what it was when its sample was drawn.", hint=_GIVE)
