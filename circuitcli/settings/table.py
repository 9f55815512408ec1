"""The one table of settings, read off the tree: it makes the flags, the profile keys and the documentation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, get_args, get_origin, get_type_hints

from circuitcli.settings.tree import Flag, Settings


@dataclass(frozen=True)
class Setting:
    """One row of the table of settings."""

    key: str
    flag: Flag
    kind: type
    repeats: bool
    default: Any

    @property
    def parameter(self) -> str:
        """The name of the flag as a Python parameter: the key with its dots made underscores."""
        return self.key.replace(".", "__")


@lru_cache(maxsize=1)
def table() -> tuple[Setting, ...]:
    """Every setting, in the order of the tree."""
    rows: list[Setting] = []
    _collect(Settings, "", rows)
    return tuple(rows)


def _collect(tree: type, prefix: str, rows: list[Setting]) -> None:
    hints = get_type_hints(tree, include_extras=True)
    for item in dataclasses.fields(tree):
        if dataclasses.is_dataclass(hints[item.name]):
            _collect(hints[item.name], f"{item.name}.", rows)
            continue
        kind, *marks = get_args(hints[item.name])
        flag = next(mark for mark in marks if isinstance(mark, Flag))
        repeats = get_origin(kind) is tuple or any(get_origin(part) is tuple for part in get_args(kind))
        plain = kind if kind in (bool, int, float) else str
        rows.append(Setting(f"{prefix}{item.name}", flag, plain, repeats, item.default))
