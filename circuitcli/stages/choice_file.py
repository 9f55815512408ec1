"""Multiple-choice questions in a .jsonl file: an object a line, with a question, its choices and the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from circuitcli.core.words import amount
from circuitcli.errors import InputError
from circuitcli.stages.line_file import Lines

_LIKE = 'Lines look like {"question": "…", "choices": [" a", " b"], "answer": 0}; they may have counterfactual too.'
LINES = Lines(
    {"question": (str,), "choices": (list,), "answer": (str, int), "counterfactual": (str,)},
    ("question", "counterfactual"),
    _LIKE,
)


@dataclass(frozen=True)
class Choices:
    """A multiple-choice question as it was written.

    Attributes:
        where: The file and line, for errors.
        question: What stands before each choice.
        choices: Two or more, each another text.
        right: Which of them is the answer.
        counterfactual: The question whose activations replace its own; None if not given.
    """

    where: str
    question: str
    choices: tuple[str, ...]
    right: int
    counterfactual: str | None = None

    @property
    def right_first(self) -> list[str]:
        """The choices, the right one first."""
        return [self.choices[self.right], *(one for i, one in enumerate(self.choices) if i != self.right)]


def choices(where: str, row: Mapping[str, Any]) -> Choices:
    """The question of an object.

    Raises:
        InputError: It isn't as it should be.
    """
    given = LINES.checked(where, row)
    for key in ("question", "choices", "answer"):
        if key not in given:
            raise InputError(f"{where}: it has no `{key}`.", hint=_LIKE)
    listed = given["choices"]
    if len(listed) < 2:
        raise InputError(
            f"{where}: it has {amount(len(listed), 'choice')}.", hint="Give two or more, one of them right."
        )
    twice = next((one for one in listed if listed.count(one) > 1), None)
    if twice is not None:
        raise InputError(f"{where}: the choice {twice!r:.80} is there twice.", hint="Let choices differ.")
    right = _right(where, listed, given["answer"])
    return Choices(where, given["question"], tuple(listed), right, given.get("counterfactual"))


def _right(where: str, listed: list[str], answer: str | int) -> int:
    """Which choice is the answer: by its number, from 0, or by its text."""
    if isinstance(answer, int) and 0 <= answer < len(listed):
        return answer
    if answer in listed:
        return listed.index(answer)
    raise InputError(
        f"{where}: the answer {answer!r:.80} is none of the choices.",
        hint=f"Give the number of the right choice, from 0 to {len(listed) - 1}, or its text as it stands there.",
    )
