"""A .jsonl file that somebody wrote by hand: an object a line, with keys that are known."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitcli.errors import InputError, nearest
from circuitcli.store import files

MAX_BYTES = 16 << 20
_KINDS = {str: "a text", int: "a whole number", list: "a list of texts"}


@dataclass(frozen=True)
class Lines:
    """How the lines of a kind look.

    Attributes:
        keys: What each key may hold: text, whole numbers, lists of texts.
        whole: The keys whose text may not be blank.
        like: An example, as a hint.
    """

    keys: Mapping[str, tuple[type, ...]]
    whole: tuple[str, ...]
    like: str

    def checked(self, where: str, row: Mapping[str, Any]) -> dict[str, Any]:
        """What an object says; null is as good as nothing.

        Raises:
            InputError: A key isn't known, or holds what it may not.
        """
        for key, value in row.items():
            if key not in self.keys:
                raise InputError(f"{where}: unknown key `{key:.80}`.", hint=nearest(key, self.keys, what="keys"))
            self._check(where, key, value)
        return {key: value for key, value in row.items() if value is not None}

    def _check(self, where: str, key: str, value: Any) -> None:
        wanted = self.keys[key]
        texts = value if isinstance(value, list) else [value]
        fits = value is None or (not isinstance(value, bool) and isinstance(value, wanted))
        if not fits or (isinstance(value, list) and not all(isinstance(one, str) for one in value)):
            kinds = " or ".join(_KINDS[kind] for kind in wanted)
            raise InputError(f"{where}: `{key}` should be {kinds}.", hint=self.like)
        for text in texts:
            if isinstance(text, str):
                self._check_text(where, key, text)

    def _check_text(self, where: str, key: str, text: str) -> None:
        if key in self.whole and not text.strip():
            raise InputError(f"{where}: `{key}` is blank.", hint=self.like)
        if not text:
            raise InputError(f"{where}: `{key}` is empty.", hint="Leave it out, or give a token.")
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{where}: `{key}` holds half a character, which is no Unicode.", hint="Mend it."
            ) from None


def content(path: str, hint: str) -> bytes:
    """The bytes of a file, MAX_BYTES and one more if it has more.

    Raises:
        InputError: It can't be read.
    """
    return files.content(Path(path), MAX_BYTES, what="The file", hint=hint)


def objects(path: str, data: bytes, like: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file's bytes, each with its line, for errors; lines that are blank say nothing.

    Raises:
        InputError: It is too large or no UTF-8, or a line is no object; `like` is the hint then.
    """
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} has more than {MAX_BYTES >> 20} MiB.", hint="Ask fewer questions at once.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data.count(b"\n", 0, error.start)
        raise InputError(f"{path}, line {before + 1}: it is not UTF-8.", hint="Save it as UTF-8.") from None
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut within strings
        if line.strip():
            found = parsed(line)
            if found is None:
                raise InputError(f"{path}, line {number}: it is not a JSON object.", hint=like)
            yield f"{path}, line {number}", found


def parsed(line: str | bytes) -> dict[str, Any] | None:
    """The object that a line is; None of any other line."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
