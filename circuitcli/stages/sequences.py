"""From the text to sequences of tokens.

Texts are sampled and cut into sequences of `max_tokens`; prompts are read whole. Special tokens of the tokenizer that
are written out, as `<|endoftext|>` may be, are outliers wherever they stand, as position 0 is:

    in a text      one ends a document: what stands before it and behind it are documents of their own
    in a prompt    it stays, as the token that it is; no feature is chosen, counted or edited there, though the next
                   token is read wherever it would be
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from circuitcli import plugins
from circuitcli.core.sampling import Sample, half, pad, sample_documents, to_sequences
from circuitcli.core.words import amount
from circuitcli.errors import InputError, UsageError
from circuitcli.settings import Settings
from circuitcli.stages.documents import counted, documents, say_what_ends, sequence_limit
from circuitcli.stages.subject import Subject
from circuitcli.texts import TextRequest, TextSource

Say = Callable[[str], None]


@dataclass(frozen=True)
class Prompt:
    """A prompt.

    Attributes:
        text: As it was typed.
        ids: Its tokens, behind BOS if there is one.
        special: The positions of special tokens behind the first.
    """

    text: str
    ids: list[int]
    special: list[int]

    @property
    def counts(self) -> tuple[bool, ...]:
        """At which positions there are nodes: those from 1 on that hold no special token."""
        return tuple(place > 0 and place not in self.special for place in range(len(self.ids)))


def hushed(line: str) -> None:
    """Says nothing."""


def source_of(settings: Settings) -> tuple[TextSource, TextRequest]:
    """Where the text comes from, and which is asked for."""
    texts = settings.texts
    values = {"demo": (), "prompt": texts.prompt, "file": (texts.file,), "dataset": (texts.dataset,)}
    return plugins.load("texts", texts.source), TextRequest(values.get(texts.source, ()), texts.column)


def read_sample(subject: Subject, say: Say) -> Sample:
    """The sequences: first those of the sample, then those for contexts alone; or a half of the first.

    `say` is told of special tokens.

    Raises:
        UsageError: A prompt is longer than what the model reads.
        InputError: Sequences are to be longer than that, no text is long enough, or has halves, or the model lacks BOS.
    """
    texts, seed = subject.tools.settings.texts, subject.tools.settings.seed
    if texts.source == "prompt":
        first, others = read_prompts(subject, say)
        drawn = [*first, *others]
        sample = pad([one.ids for one in drawn], [one.special for one in drawn])
    else:
        sample = _texts(subject, bos_of(subject), say)
    if not texts.half:
        return sample
    count = min(texts.num_sequences, len(sample.lengths))  # those for contexts alone are left out
    if count < 2:
        raise InputError("The text has one sequence, and no halves.", hint="Give more of it, or texts.half = 0.")
    return sample.of(half(count, texts.half, seed))


def bos_of(subject: Subject) -> int | None:
    """The id that sequences start with, if they do.

    Raises:
        InputError: They are to, and the model lacks BOS.
    """
    if not prepend_bos(subject):
        return None
    if subject.tokenizer.bos is None:
        raise InputError(f"{subject.tools.settings.model} has no BOS token.", hint="Give --prepend-bos false.")
    return subject.tokenizer.bos


def prepend_bos(subject: Subject) -> bool:
    """Whether sequences start with BOS: as set, or as the SAEs were trained.

    Raises:
        InputError: The SAEs disagree.
    """
    wanted, entries = subject.tools.settings.texts.prepend_bos, subject.entries
    if wanted != "auto":
        return wanted
    with_bos = {entry.facts.prepend_bos for entry in entries}
    if len(with_bos) > 1:
        split = ", ".join(f"{e.at} {'with' if e.facts.prepend_bos else 'without'}" for e in entries)
        raise InputError(
            f"The SAEs disagree on BOS: {split}.", hint="Use them in separate runs, or say --prepend-bos true or false."
        )
    return with_bos.pop()


def _texts(subject: Subject, bos: int | None, say: Say) -> Sample:
    """Documents at random, each cut into sequences."""
    settings = subject.tools.settings
    count, extra, longest = settings.texts.num_sequences, _extra(settings), sequence_limit(subject)
    source, request = source_of(settings)
    special: Counter[str] = Counter()
    first, others = sample_documents(
        documents(subject, source.documents(request), special), count, extra, settings.seed
    )
    say_what_ends(special, say)

    def cut(chosen: list[str], wanted: int) -> list[list[int]]:
        ids = [subject.tokenizer.encode(text) for text in chosen]
        return to_sequences(ids, bos=bos, max_tokens=longest, count=wanted)

    sequences = cut(first, count)
    if len(sequences) == count:  # only behind a full sample are others not mistaken for its own
        sequences += cut(others, extra)
    return pad(sequences)


def read_prompts(subject: Subject, say: Say) -> tuple[list[Prompt], list[Prompt]]:
    """The settings' prompts, each whole: those of the sample, and those for contexts alone.

    Of more than the sample has, a random choice; that, and special tokens, `say` is told.

    Raises:
        UsageError: One is longer than what the model reads.
        InputError: One is too short, or the model lacks BOS.
    """
    settings = subject.tools.settings
    source, request = source_of(settings)
    prompts = [read_prompt(subject, text, f"Prompt {i}") for i, text in enumerate(source.documents(request))]
    count = settings.texts.num_sequences
    first, others = sample_documents(prompts, count, _extra(settings), settings.seed)
    drawn = [*first, *others]
    if len(drawn) < len(prompts):
        say(
            f"{len(drawn):,} of {len(prompts):,} prompts {'is' if len(drawn) == 1 else 'are'} read, at random: "
            f"give --num-sequences {len(prompts)}."
        )
    special = Counter(subject.tokenizer.text(one.ids[place]).strip() for one in drawn for place in one.special)
    if special:
        say(f"{counted(special)} in the prompts: no feature is chosen, counted or edited there.")
    return first, others


def read_prompt(subject: Subject, text: str, name: str) -> Prompt:
    """One prompt, as the run's are read; `name` is what errors call it.

    Raises:
        UsageError: It is longer than what the model reads.
        InputError: It is too short, or the model lacks BOS.
    """
    bos = bos_of(subject)
    ids, places = subject.tokenizer.encode_prompt(text)
    ahead = bos is not None and ids[:1] != [bos]
    limit = subject.checkpoint.shape.n_ctx
    if ahead + len(ids) > limit:
        raise UsageError(
            f"{name} has {amount(len(ids), 'token')}{' and BOS' if ahead else ''}: "
            f"{subject.tools.settings.model} reads {limit:,}.",
            hint="A prompt is read whole. Shorten it, or give it with --text, in sequences of --max-tokens.",
        )
    if bos is not None and ahead:
        ids, places = [bos, *ids], [place + 1 for place in places]
    places = [place for place in places if place]
    if len(ids) - len(places) < 2:
        raise InputError(
            f"{name} is not long enough: it needs two tokens, BOS counted, and special tokens behind it not.",
            hint="Give a longer one: nothing is measured at the first token.",
        )
    return Prompt(text, ids, places)


def documents_drawn(settings: Settings) -> int:
    """How many documents the run's sequences are made of, those for contexts alone too."""
    return settings.texts.num_sequences + _extra(settings)


def _extra(settings: Settings) -> int:
    """Sequences for contexts alone."""
    return max(0, settings.contexts.num_sequences - settings.texts.num_sequences)
