"""Multiple-choice questions in tokens: a sequence for each choice, read for how likely it is behind the question."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

from circuitcli.core.evidence.examples import Example, Sequence
from circuitcli.core.evidence.readings import Following
from circuitcli.core.words import amount
from circuitcli.errors import InputError
from circuitcli.stages.choice_file import Choices
from circuitcli.stages.questions import Reader, of_line
from circuitcli.stages.sequences import Prompt, Say, read_prompt
from circuitcli.stages.subject import Subject


@dataclass(frozen=True)
class Read:
    """A multiple-choice question in tokens.

    Attributes:
        question: What stands before each choice.
        whole: The question with each choice behind it, the right one first.
        other: The question whose activations are the baseline, in as many tokens; None where it isn't patch.
        others: The same with each choice behind it.
    """

    question: Prompt
    whole: tuple[Prompt, ...]
    other: Prompt | None = None
    others: tuple[Prompt, ...] = ()

    @property
    def asked(self) -> Sequence:
        """The question alone."""
        return _sequence(self.question, None, self.other)

    @property
    def uneven(self) -> bool:
        """Whether choices differ in their number of tokens."""
        return len({len(one.ids) for one in self.whole}) > 1

    def likelier(self, *, mean: bool) -> Example:
        """How much likelier the right choice is than the best wrong one, together or per token."""
        start = len(self.question.ids)
        sequences = []
        for i, one in enumerate(self.whole):
            reading = Following(tuple(range(start - 1, len(one.ids) - 1)), tuple(one.ids[start:]), mean)
            sequences.append(_sequence(one, reading, self.others[i] if self.others else None))
        return Example(self.question.text, tuple(sequences), reading.unit)


def read(reader: Reader, one: Choices, *, patch: bool) -> Read:
    """The tokens of a question as it was written; with those of its counterfactual, where the baseline is patch.

    Raises:
        InputError: It isn't as it should be; its line is named.
    """
    with of_line(one.where):
        question = read_prompt(reader.subject, one.question, "The question")
        whole = _behind(reader.subject, question, one.right_first)
        if not patch:
            return Read(question, whole)
        other = reader.counterfactual(question, "the question", one)
        others = _behind(reader.subject, other, one.right_first)
        start = len(question.ids)
        if [each.ids[start:] for each in others] != [each.ids[start:] for each in whole]:
            raise InputError("Choices have other tokens behind the counterfactual.", hint=_SPACE)
        return Read(question, whole, other, others)


def likelier(found: Many[Read], say: Say) -> list[Example]:
    """The examples. Where choices of some differ in their number of tokens all count per token, which is said."""
    uneven = sum(one.uneven for one in found)
    if uneven:
        say(
            f"Choices differ in their number of tokens in {uneven:,} of {amount(len(found), 'question')}: "
            "log-probabilities are per token, in all of them."
        )
    return [one.likelier(mean=uneven > 0) for one in found]


_SPACE = 'Let the space stand at the beginning of each choice (" Paris"), not at the end of the question.'


def _behind(subject: Subject, question: Prompt, choices: Many[str]) -> tuple[Prompt, ...]:
    """A question with each of its choices behind it.

    Raises:
        InputError: Its tokens aren't the same with one, or two are the same tokens.
    """
    found: list[Prompt] = []
    for choice in choices:
        whole = read_prompt(subject, question.text + choice, f"The question with the choice {choice!r:.80}")
        if whole.ids[: len(question.ids)] != question.ids or len(whole.ids) == len(question.ids):
            raise InputError(f"The question's last tokens are others with the choice {choice!r:.80}.", hint=_SPACE)
        if any(whole.ids == one.ids for one in found):
            raise InputError(f"The choice {choice!r:.80} has the tokens of another one.", hint="Let choices differ.")
        found.append(whole)
    return tuple(found)


def _sequence(prompt: Prompt, reading: Following | None, other: Prompt | None) -> Sequence:
    return Sequence(tuple(prompt.ids), prompt.counts, reading, tuple(other.ids) if other else None)
