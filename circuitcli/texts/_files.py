"""Reading texts from files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

from circuitcli.errors import InputError


def digest(path: Path) -> str:
    """sha256 of a file of any kind, or an `InputError` that says why there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"The text file {path} can't be read: {error.strerror}.", hint="Check its path.") from None


def text_digest(path: Path) -> str:
    """The same of a file that has to be text.

    Raises:
        InputError: It can't be read, is empty, or isn't UTF-8.
    """
    found = digest(path)
    try:
        with path.open(encoding="utf-8") as file:
            pieces = sum(1 for _ in iter(lambda: file.read(1 << 20), ""))
    except UnicodeDecodeError:
        raise InputError(f"The text file {path} is not UTF-8.", hint="Convert it, e.g. with iconv.") from None
    if not pieces:
        raise InputError(f"The text file {path} is empty.", hint="Give a file with text in it.")
    return found


def jsonl(path: Path) -> Iterator[str]:
    """The `text` of each line."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _text(line, f"{path}, line {number}")


def _text(line: str, where: str) -> str:
    try:
        value = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        value = None
    if not isinstance(value, str):
        raise InputError(f"{where} is not a JSON object with a `text`.", hint='Lines look like {"text": "…"}.')
    return value


def paragraphs(path: Path) -> Iterator[str]:
    """The paragraphs of a text file, which blank lines separate; its line ends are kept."""
    for part in re.split(r"\n\s*\n", path.read_text(encoding="utf-8")):
        if part.strip():
            yield part.strip("\n")
