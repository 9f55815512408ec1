"""The names that people have for models, and the repository on the hub that each one means."""

from __future__ import annotations

# What most people come for, known without importing TransformerLens, which takes seconds.
_GPT2 = {name: f"openai-community/{name}" for name in ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")}
_KNOWN = {**_GPT2, "gpt2-small": "openai-community/gpt2"}


def repository(name: str) -> str:
    """The repository of a model: of a name with an owner that itself, else what TransformerLens calls by that name."""
    if name in _KNOWN or "/" in name:
        return _KNOWN.get(name, name)
    from circuitcli.runtime.model import official_name  # only now: it imports TransformerLens

    official = official_name(name)
    return _KNOWN.get(official, official)
