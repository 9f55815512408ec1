"""Plug points: a folder whose `__init__` holds one Protocol, and whose other files each hold one plug-in.

A file `name.py` (underscores become hyphens in the name that people type) holds its plug-in as `plugin`. A folder below
is a plug point of its own.
"""

from __future__ import annotations

import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

from circuitcli.errors import UsageError, nearest

# What a plug-in of a folder is called, where that isn't the folder's name without its s.
_WORDS = {"renderers": "format", "texts": "text source", "core.activations": "architecture", "saes.layouts": "layout"}


def names(folder: str) -> list[str]:
    """The names of the plug-ins in a folder of this package, without importing any of them."""
    path = getattr(sys.modules.get(f"circuitcli.{folder}"), "__path__", None) or _place(folder)
    return list(_files(tuple(path)))


@cache
def _files(path: tuple[str, ...]) -> tuple[str, ...]:
    """Looked for once in each set of folders: settings ask for every name of a plug-in."""
    files = (m.name for m in pkgutil.iter_modules(path) if not m.ispkg and not m.name.startswith("_"))
    return tuple(sorted(name.replace("_", "-") for name in files))


def _place(folder: str) -> Sequence[str]:
    """Where a folder of this package is, without importing it: what its protocol needs may take time."""
    found = importlib.util.find_spec(f"circuitcli.{folder}")
    assert found is not None
    return found.submodule_search_locations or ()


def check(folder: str, name: str) -> None:
    """Refuse a name that no plug-in has.

    Raises:
        UsageError: The hint names the nearest, and lists the known ones.
    """
    known = names(folder)
    if name not in known:
        word = _WORDS.get(folder, folder.removesuffix("s"))
        shown = name if len(name) <= 80 else f"{name[:79]}…"
        raise UsageError(f"Unknown {word} `{shown}`.", hint=nearest(name, known, what=f"{word}s"))


def load(folder: str, name: str) -> Any:
    """The plug-in of that name; see `check` for names that there aren't."""
    check(folder, name)
    return importlib.import_module(f"circuitcli.{folder}.{name.replace('-', '_')}").plugin
