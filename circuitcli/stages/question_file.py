"""Questions in a .jsonl file: an object a line, with a prompt and what is asked of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitcli.errors import InputError, nearest
from circuitcli.store import files

MAX_BYTES = 16 << 20
_LINES = 'Lines look like {"prompt": "…", "target": " heavens"}; they may have against and counterfactual too.'
# What each key may hold: text, or, of tokens, also a whole number, which is an id.
_KEYS: Mapping[str, tuple[type, ...]] = {
    "prompt": (str,),
    "target": (str, int),
    "against": (str, int),
    "counterfactual": (str,),
}


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
    """The questions in a file, in order; lines that are blank say nothing.

    Raises:
        InputError: It can't be read, is too large or no UTF-8, has no question, or one that isn't as it should be, or
            that can't be averaged with the others; which line says so.
    """
    hint = "--prompts takes the path of a .jsonl file of questions."
    data = files.content(Path(path), MAX_BYTES, what="The questions", hint=hint)
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} has more than {MAX_BYTES >> 20} MiB.", hint="Ask fewer questions at once.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: it is not UTF-8.", hint="Save it as UTF-8.") from None
    found = list(_questions(path, text))
    if not found:
        raise InputError(f"{path} has no question in it.", hint=_LINES)
    alike(found, "against", "log-probabilities and differences of logits can't be averaged")
    return found


def _questions(path: str, text: str) -> Iterator[Written]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut within strings
        if line.strip():
            where = f"{path}, line {number}"
            yield _question(where, _parsed(line, where))


def _parsed(line: str, where: str) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{where}: it is not a JSON object.", hint=_LINES)
    return found


def _question(where: str, row: dict[str, Any]) -> Written:
    """The question of an object; null is as good as nothing."""
    for key, value in row.items():
        if key not in _KEYS:
            raise InputError(f"{where}: unknown key `{key:.80}`.", hint=nearest(key, _KEYS, what="keys"))
        wanted = _KEYS[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, wanted)):
            kinds = " or ".join({str: "a text", int: "a whole number"}[kind] for kind in wanted)
            raise InputError(f"{where}: `{key}` should be {kinds}.", hint=_LINES)
        if isinstance(value, str):
            _check(where, key, value)
    if row.get("prompt") is None:
        raise InputError(f"{where}: it has no `prompt`.", hint=_LINES)
    given = {key: value for key, value in row.items() if value is not None}
    if "against" in given and "target" not in given:
        raise InputError(f"{where}: `against` needs a `target`.", hint="Give both, or leave both out.")
    return Written(where, **given)


def _check(where: str, key: str, text: str) -> None:
    if key in ("prompt", "counterfactual") and not text.strip():
        raise InputError(f"{where}: `{key}` is blank.", hint=_LINES)
    if not text:
        raise InputError(f"{where}: `{key}` is empty.", hint="Leave it out, or give a token.")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: `{key}` holds half a character, which is no Unicode.", hint="Mend it.") from None


def alike(questions: Sequence[Written], key: str, why: str) -> bool:
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
