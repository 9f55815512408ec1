"""The names that people have for models and releases, and the repository on the hub that a model's name means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from circuitcli.errors import UsageError

# What most people come for, known without importing TransformerLens, which takes seconds.
_GPT2 = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}
_KNOWN = {**_GPT2, "gpt2-small": "openai-community/gpt2"}


def repository(name: str) -> str:
    """The repository of a model: of a name with an owner that itself, else what TransformerLens calls by that name."""
    if name in _KNOWN or "/" in name:
        return _KNOWN.get(name, name)
    from circuitcli.runtime.aliases import official_name  # only now: it imports TransformerLens

    official = official_name(name)
    return _KNOWN.get(official, official)


def check(name: str, what: str, *, holds: Sequence[str], hint: str) -> None:
    """Refuse what can't be meant for a name, before a hub is asked.

    Args:
        name: As it was typed.
        what: It is to be the name of: "model".
        holds: A folder with a file of such a path is one, whatever it is called.
        hint: What names look like.

    Raises:
        UsageError: It is no name.
    """
    if not name.strip():
        raise UsageError(f"The name of the {what} is empty.", hint=hint)
    if not name.isprintable():
        raise UsageError(f"The name of the {what}, {name!a}, has characters that no name has.", hint=hint)
    folder = Path(os.path.expanduser(name))
    if any(next(folder.glob(path), None) for path in holds):
        return
    if name[0] == "-" or not any(character.isalnum() for character in name):
        raise UsageError(f"`{name}` is no name of a {what}, and no folder of one.", hint=hint)
    if name != name.strip() or (" " in name and name[0] not in "./~"):
        raise UsageError(f"`{name}` is no name of a {what}: it has spaces.", hint=hint)
