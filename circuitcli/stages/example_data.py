"""What a circuit is judged on, as it was written: prompts, multiple-choice questions or text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from circuitcli.errors import InputError
from circuitcli.results.next_tokens import on_prompts
from circuitcli.stages import questions
from circuitcli.stages.choice_file import Choices, choices
from circuitcli.stages.line_file import content, objects, parsed
from circuitcli.stages.question_file import Written, averaged, question
from circuitcli.stages.stage import Job

Kind = Literal["prompts", "choices", "text"]
_NAMES: Mapping[Kind, str] = {"prompts": "a prompt", "choices": "a multiple-choice question", "text": "a text"}
_LIKE = 'Lines look like {"prompt": "…"}, {"question": "…", "choices": ["…", "…"], "answer": 0} or {"text": "…"}.'


@dataclass(frozen=True)
class Data:
    """What was written.

    Attributes:
        kind: Of all of it.
        prompts: Questions of prompts.
        choices: Multiple-choice questions.
        file: Of text; empty: the run's own source.
        texts: Texts themselves, in the place of both.
    """

    kind: Kind
    prompts: tuple[Written, ...] = ()
    choices: tuple[Choices, ...] = ()
    file: str = ""
    texts: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[Written, ...] | tuple[Choices, ...]:
        """The questions."""
        return self.prompts or self.choices


def data(job: Job) -> Data:
    """What the settings name: a file, or what the run was asked, or text of its source.

    Raises:
        InputError: A file can't be read, has nothing in it, or lines that aren't as they should be or of two kinds.
    """
    path = job.settings.validate.prompts
    if path:
        return _of_file(path)
    if job.settings.attribute.prompts or on_prompts(job.settings):
        return Data("prompts", prompts=tuple(questions.written(job)))
    return Data("text")


def _of_file(path: str) -> Data:
    """Questions, if its first line is one; else it is a file of text, whatever that may be."""
    raw = content(path, "--prompts takes the path of a .jsonl file of questions, or of a file of text.")
    first = next((line for line in raw.split(b"\n") if line.strip()), b"")
    row = parsed(first.removeprefix(b"\xef\xbb\xbf"))
    kind = None if row is None else kind_of(row)
    if kind is None and path.endswith(".jsonl"):
        next(objects(path, raw, _LIKE), None)  # which says what is wrong with it
    if kind is None or kind == "text":
        return Data("text", file=path)
    rows = list(objects(path, raw, _LIKE))
    for where, one in rows:
        if kind_of(one) not in (kind, None):
            raise InputError(
                f"{where}: it is {_NAMES[kind_of(one) or kind]}, but {rows[0][0].rpartition(', ')[2]} is "
                f"{_NAMES[kind]}: one can't be averaged with the other.",
                hint="Put each kind in a file of its own.",
            )
    if kind == "choices":
        return Data(kind, choices=tuple(choices(*row) for row in rows))
    return Data(kind, prompts=tuple(averaged([question(*row) for row in rows])))


def kind_of(row: Mapping[str, Any]) -> Kind | None:
    """What an object is, by its keys; None if none of them says."""
    if row.keys() & {"question", "choices", "answer"}:
        return "choices"
    if "prompt" in row:
        return "prompts"
    return "text" if "text" in row else None
