"""Files that others wrote: ordinary ones, none that only points elsewhere, and JSON of a size that anybody means."""

from __future__ import annotations

import json
import reprlib
import stat
from pathlib import Path
from typing import Any

from circuitcli.core import lfs
from circuitcli.errors import InputError

_MAX_JSON_BYTES, _MAX_DEPTH = 256 << 20, 64
_LONGEST_REASON = 300
_AGAIN = "Get it again."


def ordinary(path: Path, *, hint: str = _AGAIN) -> Path:
    """The path of a file that can be opened and read, and holds what its name says.

    Raises:
        InputError: It isn't there, is a folder, a pipe or a device, or a pointer of Git LFS.
    """
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path} can't be read: it is a folder.", hint=hint)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} can't be read: it is no ordinary file.", hint=hint)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise InputError(f"{path} can't be read: {why(error)}.", hint=hint) from None
    refuse_pointer(path, str(path))
    return path


def refuse_pointer(path: Path, name: str) -> None:
    """Refuse a pointer in place of a file's content.

    Args:
        path: The file; one that can't be read is left to whoever reads it next.
        name: What the error calls it.

    Raises:
        InputError: It is a pointer.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            return
        with path.open("rb") as file:
            head = file.read(lfs.BOUND)
    except OSError:
        return
    if lfs.is_pointer(head):
        raise lfs.pointer(name)


def json_object(path: Path, *, hint: str = _AGAIN) -> dict[str, Any]:
    """A JSON object in UTF-8, with or without a byte order mark.

    Raises:
        InputError: It can't be read, or holds something else.
    """
    ordinary(path, hint=hint)
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise InputError(f"{path} can't be read: it is far too large.", hint=hint)
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read: {why(error)}.", hint=hint) from None
    if not isinstance(found, dict):
        raise InputError(f"{path} can't be read: it is no JSON object.", hint=hint)
    _check_values(found, path, hint)
    return found


def _check_values(tree: dict[str, Any], path: Path, hint: str) -> None:
    """Refuse what later readers couldn't take: they recurse at each level, and write strings out as UTF-8."""
    level: list[Any] = [tree]
    for _ in range(_MAX_DEPTH):
        try:
            for text in (y for x in level for y in (x if isinstance(x, dict) else [x]) if isinstance(y, str)):
                text.encode()
        except UnicodeEncodeError:
            raise InputError(f"{path} can't be read: half a character is in it.", hint=hint) from None
        level = [y for x in level if isinstance(x, dict | list) for y in (x.values() if isinstance(x, dict) else x)]
        if not level:
            return
    raise InputError(f"{path} can't be read: it is nested more than {_MAX_DEPTH} deep.", hint=hint)


def shown(value: object) -> str:
    """A value from such a file in one short line, whatever it is."""
    return _SHORT.repr(value)


def why(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().partition("\n")[0][:_LONGEST_REASON].rstrip(" .:") or type(error).__name__


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 60, 60
