"""YAML as plain data and no more: a mapping of text, numbers and lists; nothing in it is executed."""

from __future__ import annotations

import re
from typing import Any

from circuitcli.errors import CircuitError, InputError, UsageError

# Far more than any such file has; larger ones, and deeper ones, are refused before anything is built.
MAX_CHARACTERS = 100_000
_MAX_DEPTH = 10
_MAX_DIGITS = 1000
_NUMBER = re.compile(rf"[-+]?\d.{{{_MAX_DIGITS}}}", re.DOTALL)


def load(
    text: str,
    name: str,
    *,
    holds: str = "settings",
    example: str = "SEED: 0",
    error: type[CircuitError] = UsageError,
) -> dict[Any, Any]:
    """The mapping that a YAML text holds.

    Args:
        text: Of the file.
        name: Of the file, for messages.
        holds: What it should hold.
        example: A line of such a file.
        error: What is raised where it isn't YAML, or no mapping.

    Raises:
        CircuitError: See `error`.
        InputError: It is too large or too deep, refers to itself, or asks for types of its own (`!!python/…`).
    """
    import yaml

    if len(text) > MAX_CHARACTERS:
        raise _refused(name, f"is larger than {MAX_CHARACTERS:,} characters")
    try:
        _check_events(yaml.parse(text, Loader=yaml.SafeLoader), name)
        found = yaml.safe_load(text)
    except yaml.YAMLError as reason:
        raise error(f"{name} is not YAML: {_why(reason)}.", hint="Mend that line.") from None
    except ValueError as reason:  # a date or a number that there isn't, such as 2024-99-99
        raise error(f"{name} is not YAML: {reason}.", hint="Mend that value.") from None
    if not isinstance(found, dict):
        what = "holds nothing" if found is None else f"holds no {holds}"
        raise error(f"{name} {what}.", hint=f"It should have lines such as `{example}`.")
    return found


def plain(text: str) -> str:
    """One short line: what can't be printed as escapes."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def _check_events(events: Any, name: str) -> None:
    """Refuse aliases, tags and depth, one event after another: nothing is built, so nothing can grow."""
    import yaml

    depth = 0
    for event in events:
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _MAX_DEPTH:
            raise _refused(name, f"is nested deeper than {_MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            raise _refused(name, f"has an alias (`*{plain(event.anchor)}`)")
        if getattr(event, "tag", None) is not None:
            raise _refused(name, f"has a tag (`{plain(event.tag)}`), and tags can ask for code to run")
        if isinstance(event, yaml.ScalarEvent) and event.style is None and _NUMBER.match(event.value):
            raise _refused(name, f"has a number of more than {_MAX_DIGITS} digits")


def _refused(name: str, why: str) -> InputError:
    return InputError(f"{name} {why}: it is refused.", hint="Such a file is plain text, numbers and lists; mend it.")


def _why(error: Exception) -> str:
    """The parser's complaint on one line, with its place."""
    said = [getattr(error, name, None) for name in ("context", "problem")]
    text = ", ".join(part for part in said if part) or str(error).splitlines()[0]
    mark = getattr(error, "problem_mark", None)
    return plain(text) + (f" (line {mark.line + 1})" if mark is not None else "")
