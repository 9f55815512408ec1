"""The one table of settings, read off the tree: it makes the flags, the profile keys and the documentation."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from circuitcli import plugins
from circuitcli.settings.tree import Flag, PlugIns, Settings

# Settings of commands that run-all doesn't do. It has no flags for them, whose names may be those of others.
APART = ("validate.", "stability.")

# What people type for a truth.
_TRUTHS = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)


@dataclass(frozen=True)
class Setting:
    """One row of the table of settings."""

    key: str
    flag: Flag
    kind: type
    repeats: bool
    default: Any

    plugins: PlugIns | None = None  # whose names its values are
    words: tuple[type, ...] = ()  # what else than text its flag's words may mean: truths or whole numbers

    @property
    def help(self) -> str:
        """What it says of itself."""
        return self.flag.help

    def of(self, settings: Settings) -> Any:
        """Its value."""
        head, _, name = self.key.rpartition(".")
        return getattr(getattr(settings, head) if head else settings, name)

    def typed(self, value: Any) -> Any:
        """What is typed on a command line, as a profile would have it: `8` is a number, `true` no word."""
        if bool in self.words and value.lower() in _TRUTHS:
            return _TRUTHS[value.lower()]
        if int in self.words and re.fullmatch(r"[+-]?[0-9]{1,20}", value):
            return int(value)
        return value

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


@lru_cache(maxsize=1)
def defaults() -> Mapping[str, Any]:
    """The default of every setting, as JSON holds it."""
    return MappingProxyType({r.key: list(r.default) if isinstance(r.default, tuple) else r.default for r in table()})


def _collect(tree: type, prefix: str, rows: list[Setting]) -> None:
    hints = get_type_hints(tree, include_extras=True)
    for item in dataclasses.fields(tree):
        if dataclasses.is_dataclass(hints[item.name]):
            _collect(hints[item.name], f"{item.name}.", rows)
            continue
        kind, *marks = get_args(hints[item.name])
        flag = next(mark for mark in marks if isinstance(mark, Flag))
        point = next((mark for mark in marks if isinstance(mark, PlugIns)), None)
        flag = flag if point is None else _naming(flag, plugins.names(point.folder))
        repeats = get_origin(kind) is tuple or any(get_origin(part) is tuple for part in get_args(kind))
        parts = [get_args(part)[0] if get_origin(part) is Annotated else part for part in get_args(kind)]
        lists = get_origin(kind) is tuple
        each = parts[0] if lists else kind
        plain = each if each in (bool, int, float) else str
        words = () if lists else tuple(part for part in parts if part in (bool, int))
        rows.append(Setting(f"{prefix}{item.name}", flag, plain, repeats, item.default, point, words))


def _naming(flag: Flag, names: list[str]) -> Flag:
    """A flag that says the names that there are: one after another where it explains, as a choice where it is typed."""
    listed = f"{', '.join(names[:-1])} or {names[-1]}"
    metavar = flag.metavar and flag.metavar.replace("{names}", "|".join(names))
    return flag._replace(help=flag.help.replace("{names}", listed), metavar=metavar)
