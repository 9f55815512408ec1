"""What is asked: why each of some prompts goes on with a token. From settings, or a file of questions, to tokens.

A prompt becomes tokens as those of a run on prompts do. A token is named by its text, with the space before a word, or
by its id, `id:15`; without one the model's most likely next token is meant, which is found when the model is there.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import Literal, Protocol, runtime_checkable

from circuitcli.core.sampling import half
from circuitcli.core.words import amount
from circuitcli.errors import InputError, UsageError
from circuitcli.results.next_tokens import on_prompts
from circuitcli.stages.question_file import Written, alike, read_questions
from circuitcli.stages.sequences import Prompt, Say, hushed, read_prompt, read_prompts, source_of
from circuitcli.stages.spelling import find_token, shown, side_by_side
from circuitcli.stages.stage import Job
from circuitcli.stages.subject import Subject

LIKELIEST = 10  # next tokens that are explained at most, where nothing else is said
Baseline = Literal["zero", "mean", "resample", "patch"]


@runtime_checkable
class MayDiffer(Protocol):
    """A question, which may have a counterfactual."""

    @property
    def where(self) -> str:
        """The file and line; empty if it is in none."""
        ...

    @property
    def counterfactual(self) -> str | None:
        """The text whose activations replace its own."""
        ...


@dataclass(frozen=True)
class Asked:
    """A prompt and what is asked of it, in tokens.

    Attributes:
        prompt: Its text.
        ids: Its tokens, BOS counted; m is read at the last one.
        counts: At which positions there are nodes: those from 1 on that hold no special token.
        target: The token to explain; None: the most likely next one.
        against: The token whose logit is subtracted from the target's; None: m is a log-probability.
        counterfactual: The text of the prompt whose activations replace its own; None where the baseline isn't patch.
        counterfactual_ids: Its tokens, as many.
    """

    prompt: str
    ids: tuple[int, ...]
    counts: tuple[bool, ...]
    target: int | None
    against: int | None
    counterfactual: str | None
    counterfactual_ids: tuple[int, ...] | None


def written(job: Job) -> list[Written]:
    """The questions as they were written: those of the file, or the settings' of each of the run's prompts.

    Raises:
        InputError: The file can't be read, or the run isn't on prompts and there is none.
    """
    asked = job.settings.attribute
    if asked.prompts:
        return read_questions(asked.prompts)
    if not on_prompts(job.settings):
        raise InputError(
            f"{job.run.root} isn't on prompts: there is nothing to explain.",
            hint="Give a file of questions, --prompts FILE, or make a run of a prompt: "
            "`circuit run-all --prompt TEXT --attribute`.",
        )
    source, request = source_of(job.settings)
    question = asked.target or None, asked.against or None, asked.counterfactual or None
    return [Written("", prompt, *question) for prompt in source.documents(request)]


def identity(job: Job) -> str:
    """What identifies the questions, without a tokenizer: sha256 of their texts.

    Raises:
        InputError: As `written`.
    """
    rows = [astuple(one)[1:] for one in written(job)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def baseline(job: Job, asked: Sequence[Written | Asked]) -> Baseline:
    """What replaces activations."""
    return replaced_by(job.settings.attribute.baseline, paired=any(one.counterfactual is not None for one in asked))


def replaced_by(wanted: Literal["auto"] | Baseline, *, paired: bool) -> Baseline:
    """What replaces activations; `auto` is patch where counterfactuals are given, else zero."""
    if wanted == "auto":
        return "patch" if paired else "zero"
    return wanted


def targets(job: Job) -> int:
    """How many of the likeliest next tokens are explained at most, each as likely as it is.

    Several are in the replacement model, whose metric is linear in their logits, of one prompt without a target.

    Raises:
        UsageError: Several were asked for elsewhere.
        InputError: As `written`.
    """
    how = job.settings.attribute
    if how.targets == 1 or (how.targets == "auto" and not how.replace):
        return 1
    asked = written(job)
    named = any(one.target is not None or one.against is not None for one in asked)
    if how.targets == "auto":
        return LIKELIEST if len(asked) == 1 and not named else 1
    flag = f"--targets {how.targets}"
    if not how.replace:
        raise UsageError(
            f"{flag} needs --freeze --replace: several next tokens are explained in the replacement model alone.",
            hint="Add these, or leave --targets out.",
        )
    if named:
        raise UsageError(
            f"{flag} doesn't go with --target, which is one.", hint="Leave one of them out: --target '' names none."
        )
    if len(asked) > 1:
        raise UsageError(
            f"{flag} is of one prompt, and there are {len(asked)}: of several each has one target.",
            hint="Leave --targets out, or make a run of one prompt.",
        )
    return how.targets


def check_patch(asked: Sequence[MayDiffer], what: str) -> None:
    """Refuse questions of which some or all lack the counterfactual that activations are taken from.

    Args:
        asked: The questions.
        what: What has them, for errors.

    Raises:
        InputError: Which of them it is.
    """
    if not alike(asked, "counterfactual", "what replaces activations must be the same for all"):
        raise InputError(
            f"{what} has no `counterfactual`, from which --baseline patch takes activations.",
            hint="Give every line one, or leave --baseline out.",
        )


def asked(job: Job, subject: Subject | None = None, say: Say | None = None) -> list[Asked]:
    """The questions in tokens, in order; or a half of them.

    Args:
        job: The run and its settings.
        subject: The model; the one that the run recorded if not given.
        say: What is told how a spelling was understood; the job's report if not given.

    Raises:
        UsageError: A token that was typed is none, or a prompt of the run is longer than what the model reads.
        InputError: There is nothing to ask; a prompt or counterfactual isn't as it should be; or anything in a file.
    """
    subject = subject or job.subject
    questions = written(job)
    patch = baseline(job, questions) == "patch"
    if patch:
        check_patch(questions, job.settings.attribute.prompts)
    reader = Reader(subject, say or job.report.say, {})
    if job.settings.attribute.prompts:
        return _part(job, [reader.of_file(one, patch=patch) for one in questions])
    prompts, _ = read_prompts(subject, hushed)
    return _part(job, [reader.question(one, f"prompt {i}", questions[0], patch=patch) for i, one in enumerate(prompts)])


def _part(job: Job, questions: list[Asked]) -> list[Asked]:
    """All of them, or the half that the settings name."""
    number = job.settings.attribute.half
    if not number:
        return questions
    if len(questions) < 2:
        raise InputError("One question has no halves.", hint="Ask several, or give attribute.half = 0.")
    return [questions[i] for i in half(len(questions), number, job.settings.seed)]


@contextmanager
def of_line(where: str) -> Iterator[None]:
    """Whatever is wrong with a line of a file is unfit input, and the line is named; of what is in none nothing is."""
    try:
        yield
    except (UsageError, InputError) as error:
        if not where:
            raise
        raise InputError(f"{where}: {error.message}", hint=error.hint) from None


@dataclass(frozen=True)
class Reader:
    """From what was written to tokens of a model; `known` are tokens that were found already."""

    subject: Subject
    say: Say
    known: dict[str | int, int]

    def of_file(self, one: Written, *, patch: bool) -> Asked:
        """A line of a file: whatever is wrong there is unfit input, and the line is named."""
        with of_line(one.where):
            prompt = read_prompt(self.subject, one.prompt, "The prompt")
            return self.question(prompt, "the prompt", one, patch=patch)

    def question(self, prompt: Prompt, name: str, one: Written, *, patch: bool) -> Asked:
        """A question of a prompt that is tokens already; `name` is what errors call it."""
        flags = ("`target`", "`against`") if one.where else ("--target", "--against")
        target, against = (self.token(*named) for named in zip((one.target, one.against), flags, strict=True))
        if target is not None and target == against:
            raise UsageError(
                f"{' and '.join(flags)} are the same token, {shown(self.subject.tokenizer, [target])}: their logits "
                "don't differ.",
                hint=f"Give another {flags[1]}, or leave it out.",
            )
        other = self.counterfactual(prompt, name, one) if patch and one.counterfactual else None
        return Asked(
            prompt=prompt.text,
            ids=tuple(prompt.ids),
            counts=prompt.counts,
            target=target,
            against=against,
            counterfactual=other.text if other else None,
            counterfactual_ids=tuple(other.ids) if other else None,
        )

    def token(self, spelled: str | int | None, flag: str) -> int | None:
        """The id of a token, looked for once; None of none."""
        if spelled is None:
            return None
        if spelled not in self.known:
            self.known[spelled] = find_token(self.subject, spelled, flag, self.say)
        return self.known[spelled]

    def counterfactual(self, prompt: Prompt, name: str, one: MayDiffer) -> Prompt:
        """The prompt that activations are taken from."""
        drop = "leave `counterfactual` out of every line" if one.where else "drop it: --counterfactual ''"
        try:
            other = read_prompt(self.subject, one.counterfactual or "", "The counterfactual")
        except UsageError as error:
            raise InputError(error.message, hint="Give one of as many tokens as the prompt.") from None
        if other.ids == prompt.ids:
            raise InputError(
                f"The counterfactual is {name} itself: activations would be replaced by themselves.",
                hint="Change what the answer should depend on, token for token.",
            )
        if len(other.ids) != len(prompt.ids):
            for line in side_by_side(self.subject.tokenizer, prompt.ids, other.ids):
                self.subject.tools.report.say(line)
            raise InputError(
                f"The counterfactual has {amount(len(other.ids), 'token')}, {name} has {len(prompt.ids)}: nothing says "
                "which activation replaces which.",
                hint=f"Word it so that there are as many (see above, side by side), or {drop}.",
            )
        return other
