"""A profile with every setting in it, commented out, each with its help and default."""

from __future__ import annotations

import textwrap
from typing import Any

from circuitcli.settings.table import table

_HEAD = """\
# A profile for `circuit`. Take the # off a setting to change it; the values that are shown are the defaults.
# The demo and gpt2 have values of their own for some: see `circuit profile show --model NAME`.
# defaults < model's own < the run's settings.toml < this profile < flags
"""


def template() -> str:
    """The TOML text: help lines start with `# `, settings with `#` alone; a table without settings changes nothing."""
    lines = _HEAD.splitlines()
    head = ""
    for row in table():
        part, _, name = row.key.rpartition(".")
        if part != head:
            head = part
            lines += ["", f"[{part}]"]
        flag = f" ({row.flag.name})" if row.flag.name else ""
        lines += ["", *textwrap.wrap(f"{row.flag.help}{flag}", 118, initial_indent="# ", subsequent_indent="# ")]
        lines.append(f"#{name} = {toml_value(row.default)}")
    return "\n".join(lines) + "\n"


def toml_value(value: Any) -> str:
    """A value as TOML on one line; what can't be printed as escapes."""
    import tomli_w

    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    text = tomli_w.dumps({"x": value})[4:-1]
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
