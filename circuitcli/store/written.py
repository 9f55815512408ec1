"""Files that a person writes or edits: text in UTF-8, with or without a byte order mark, and TOML in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from circuitcli.errors import InputError, UsageError
from circuitcli.store import files

# Far more than all settings take.
MAX_BYTES = 1_000_000


def text(path: Path, what: str, max_bytes: int = MAX_BYTES, *, hint: str = "Check its path.") -> str:
    """The text of a file.

    Args:
        path: The file.
        what: It is, for errors, which name its path too.
        max_bytes: That it may have.
        hint: What to do where it can't be read.

    Raises:
        InputError: It is missing, can't be read, has more bytes, or is not UTF-8.
    """
    data = files.content(path, max_bytes, what=what, hint=hint)
    name = f"{what} {path}".strip()
    if len(data) > max_bytes:
        raise InputError(f"{name} is larger than {max_bytes:,} bytes: it is refused.", hint="Give a smaller one.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name} is not UTF-8.", hint="Save it as UTF-8.") from None


def toml(source: str, name: str) -> dict[str, Any]:
    """The tree in TOML.

    Raises:
        UsageError: It is not TOML, or nested without end.
    """
    import tomli

    try:
        return tomli.loads(source)
    except RecursionError:
        raise UsageError(f"{name} is not TOML that can be read: it is nested too deeply.", hint="Mend it.") from None
    except ValueError as error:  # TOMLDecodeError is one, and so is a number of too many digits
        raise UsageError(f"{name} is not TOML: {error}.", hint="Mend that line.") from None
