"""The names that TransformerLens knows models by. It imports transformer_lens, which takes seconds."""

from __future__ import annotations

from transformer_lens.supported_models import MODEL_ALIASES


def official_name(name: str) -> str:
    """What TransformerLens calls a model by that name, or the name itself."""
    return next((known for known, aliases in MODEL_ALIASES.items() if name in aliases), name)
