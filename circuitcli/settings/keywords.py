"""Settings as keyword arguments of Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuitcli.errors import UsageError
from circuitcli.settings.resolve import Layers
from circuitcli.settings.table import APART, table

_NAMES = "Give them as a profile has them: {'model': 'demo', 'texts': {'max_tokens': 50}}, or as keyword arguments."


def keywords(named: Mapping[str, Any]) -> Layers:
    """The partial tree that names and values make, as a profile would have it.

    A name is a key or a table of a profile (`model`, `texts={"max_tokens": 50}`), a key with its table
    (`{"texts.max_tokens": 50}`), or a key without it where no other table has one of that name (`max_tokens=50`). Late
    settings (see `Flag`), and those of commands that run-all doesn't do, don't count there: what a name stood for it
    goes on standing for. Names that aren't known are left as they are, and refused by `resolve`.

    Raises:
        UsageError: It is no mapping of names to values, or a key without its table could be of several.
    """
    if not isinstance(named, Mapping):
        raise UsageError(f"Settings are named: {named!r:.40} names none.", hint=_NAMES)
    tree: Layers = {}
    for name, value in named.items():
        strange = [one for one in (name, *(value if isinstance(value, Mapping) else ())) if not isinstance(one, str)]
        if strange:
            raise UsageError(f"{strange[0]!r:.40} is no name of a setting.", hint=_NAMES)
        rows = [row for row in table() if row.key.rpartition(".")[2] == name]
        rows = [row for row in rows if not row.key.startswith(APART)] or rows
        known = [row.key for row in rows if not row.flag.late] or [row.key for row in rows]
        if len(known) > 1:
            typed = " or ".join(f"`{head}={{'{name}': …}}`" for head in (key.rpartition(".")[0] for key in known))
            raise UsageError(f"`{name}` could be several settings: {', '.join(known)}.", hint=f"Give {typed}.")
        head, _, last = (known[0] if known else name).rpartition(".")
        if head:
            tree[head] = {**tree.get(head, {}), last: value}
        elif isinstance(value, Mapping):
            tree[name] = {**tree.get(name, {}), **value}
        else:
            tree[name] = value
    return tree
