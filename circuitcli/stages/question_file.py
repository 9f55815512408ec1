"""Questions in a .jsonl file: an object a line, with a prompt and what is asked of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from circuitcli.errors import InputError
from circuitcli.stages.line_file import Lines, content, objects

_LIKE = 'Lines look like {"prompt": "…", "target": " heavens"}; they may have against and counterfactual too.'
# Tokens are named by text or, as whole numbers, by id.
LINES = Lines(
    {"prompt": (str,), "target": (str, int), "against": (str, int), "counterfactual": (str,)},
    ("prompt", "counterfactual"),
    _LIKE,
)


@dataclass(frozen=True)
class Written:
    """A question as it was written.

    Attributes:
        where: The file and line, for errors; empty where flags or settings ask.
        prompt: The prompt.
        target, against: Tokens by text or by id; None if not given.
        counterfactual: The prompt whose activations replace its own; None if not given.
    """

    where: str
    prompt: str
    target: str | int | None = None
    against: str | int | None = None
    counterfactual: str | None = None


def read_questions(path: str) -> list[Written]:
    """The questions in a file, in order.

    Raises:
        InputError: It can't be read, is too large or no UTF-8, has no question, or one that isn't as it should be, or
            that can't be averaged with the others; which line says so.
    """
    data = content(path, "--prompts takes the path of a .jsonl file of questions.")
    found = [question(where, row) for where, row in objects(path, data, _LIKE)]
    if not found:
        raise InputError(f"{path} has no question in it.", hint=_LIKE)
    return averaged(found)


def averaged(questions: list[Written]) -> list[Written]:
    """The same questions.

    Raises:
        InputError: Some are of another kind of metric than others.
    """
    alike(questions, "against", "log-probabilities and differences of logits can't be averaged")
    return questions


def question(where: str, row: Mapping[str, Any]) -> Written:
    """The question of an object.

    Raises:
        InputError: It isn't as it should be.
    """
    given = LINES.checked(where, row)
    if "prompt" not in given:
        raise InputError(f"{where}: it has no `prompt`.", hint=_LIKE)
    if "against" in given and "target" not in given:
        raise InputError(f"{where}: `against` needs a `target`.", hint="Give both, or leave both out.")
    return Written(where, **given)


def alike(questions: Sequence[Any], key: str, why: str) -> bool:
    """Whether all of them have a key; False: none has. Answers are averaged, so that they must be of one kind.

    Raises:
        InputError: Some have it, and some don't; `why` says what that is about.
    """
    has = [one for one in questions if getattr(one, key) is not None]
    if 0 < len(has) < len(questions):
        lacks = next(one for one in questions if getattr(one, key) is None)
        raise InputError(
            f"{lacks.where}: it has no `{key}`, but line {has[0].where.rpartition(' ')[2]} has: {why}.",
            hint=f"Give every line `{key}`, or none.",
        )
    return bool(has)
