"""What a circuit is judged on, in tokens, each with the number that it is judged by.

prompts    log p(target), or logit(target) − logit(against); without a target of the model's likeliest next token
choices    log p(the right choice after the question) less that of the likeliest wrong one
text       mean log p(the token that follows) over the positions that count
all        with --metric kl, −KL(p of the model ‖ p now): at the last position, in text the mean over positions
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence as Many
from dataclasses import astuple, replace
from typing import TypeVar

from circuitcli.core.attribution.metric import Metric
from circuitcli.core.evidence.examples import Example, Sequence
from circuitcli.core.evidence.readings import Divergence, Following, Next
from circuitcli.core.sampling import sample_documents
from circuitcli.core.words import amount
from circuitcli.errors import InputError
from circuitcli.stages import choice_examples
from circuitcli.stages.choice_file import Choices
from circuitcli.stages.example_data import Data, data
from circuitcli.stages.question_file import Written
from circuitcli.stages.questions import Baseline, Reader, check_patch, replaced_by
from circuitcli.stages.sequences import Say, bos_of
from circuitcli.stages.stage import Job
from circuitcli.stages.subject import Subject
from circuitcli.stages.unseen import file_of_texts, sequences_of, unseen

Row = TypeVar("Row", Written, Choices)


def identity(job: Job) -> str:
    """What identifies the data, without a tokenizer. The run's own text is identified by what was cached of it.

    Raises:
        InputError: As `data`.
    """
    found = data(job)
    text = None
    if found.file:
        source, request = file_of_texts(found.file, job.settings.validate.column)
        text = [source.identity(request), request.column]
    told = [found.kind, [astuple(one)[1:] for one in found.rows], text]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def baseline(job: Job, found: Data | None = None) -> Baseline:
    """What replaces what lies outside a circuit; `auto` is patch where counterfactuals are given, else zero.

    Args:
        job: The run and its settings.
        found: The data; what the settings name if not given.

    Raises:
        InputError: As `data`; or activations are to come from counterfactuals, and something has none.
    """
    found = found or data(job)
    wanted = replaced_by(
        job.settings.validate.baseline, paired=any(one.counterfactual is not None for one in found.rows)
    )
    if wanted == "patch":
        if found.kind == "text":
            raise InputError(
                "Text has no counterfactual, from which --baseline patch takes activations.",
                hint="Give prompts or questions that have one, or another --baseline.",
            )
        check_patch(found.rows, job.settings.validate.prompts or "What the run was asked")
    return wanted


def examples(
    job: Job, subject: Subject | None = None, say: Say | None = None, found: Data | None = None
) -> list[Example]:
    """The examples, at most as many as the settings say, at random, in their order.

    Args:
        job: The run and its settings.
        subject: The model; the one that the run recorded if not given.
        say: What is told what was made of the data; the job's report if not given.
        found: The data; what the settings name if not given.

    Raises:
        UsageError: A token that the run was asked about is none.
        InputError: The data isn't as it should be; see `data` and `baseline`. Its line is named.
    """
    found, kl = found or data(job), job.settings.validate.metric == "kl"
    subject, say = subject or job.subject, say or job.report.say
    patch = baseline(job, found) == "patch"
    if found.texts:
        return _texts([_whole(subject, one, job.settings.validate.prompts) for one in found.texts], subject, kl=kl)
    if found.kind == "text":
        return _texts(unseen(job, subject, found.file, job.settings.validate.num_examples, say), subject, kl=kl)
    reader = Reader(subject, say, {})
    if found.kind == "choices":
        read = [choice_examples.read(reader, one, patch=patch) for one in chosen(job, found.choices, say)]
        return [_diverging(one.question.text, one.asked) for one in read] if kl else choice_examples.likelier(read, say)
    if kl and any(one.target is not None for one in found.prompts):
        say("--metric kl compares whole distributions of the next token: no target counts.")
    return [_prompt(reader, one, patch=patch, kl=kl) for one in chosen(job, found.prompts, say)]


def chosen(job: Job, rows: Many[Row], say: Say) -> list[Row]:
    """Of rows that were written not more than wanted, at random; an example each."""
    most = job.settings.validate.num_examples
    if len(rows) > most:
        say(f"{most:,} of {amount(len(rows), 'example')} are taken, at random: give --num-examples {len(rows)}.")
    return sample_documents(rows, most, 0, job.settings.seed)[0]


def _prompt(reader: Reader, one: Written, *, patch: bool, kl: bool) -> Example:
    asked = reader.of_file(one, patch=patch)
    reading = None if asked.target is None else Next(Metric(asked.target, asked.against))
    sequence = Sequence(asked.ids, asked.counts, reading, asked.counterfactual_ids)
    if kl:
        return _diverging(asked.prompt, sequence)
    return Example(asked.prompt, (sequence,), "nats" if reading is None else reading.unit)


def _diverging(name: str, sequence: Sequence) -> Example:
    """How far the next token is from the model's, behind the last position."""
    reading = Divergence((len(sequence.ids) - 1,))
    return Example(name, (replace(sequence, reading=reading),), reading.unit)


def _whole(subject: Subject, text: str, where: str) -> list[int]:
    """A text that is an example by itself."""
    found = sequences_of(subject, [text])
    if not found or len(found[0]) < 3:
        raise InputError(f"{where}: the text {text!r:.80} has fewer than three tokens.", hint="Give a longer one.")
    return found[0]


def _texts(pieces: Many[Many[int]], subject: Subject, *, kl: bool) -> list[Example]:
    """Sequences of text, named by what they say."""
    head, found = int(bos_of(subject) is not None), []
    for ids in pieces:
        at = tuple(range(1, len(ids) if kl else len(ids) - 1))
        reading = Divergence(at) if kl else Following(at, tuple(ids[place + 1] for place in at), mean=True)
        sequence = Sequence(tuple(ids), (False, *[True] * (len(ids) - 1)), reading)
        found.append(Example("".join(subject.tokenizer.pieces(list(ids)[head:])), (sequence,), reading.unit))
    return found
