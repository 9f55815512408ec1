"""How ablations are computed on a model: at the edited places alone, or over whole sequences; what the latter costs."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from typing import Literal

from packaging.requirements import Requirement

from circuitcli.core.model import Model

Engine = Literal["places", "whole"]
# Those whose insides the fast engine leans on, within ranges that were tested.
_LEANT_ON = ("torch", "transformers", "transformer_lens")


def engine(model: Model) -> Engine:
    """`places` computes again only the positions that are edited or read, `whole` their whole sequences."""
    return "whole" if model.whole_because else "places"


def slowness(name: str, model: Model, positions: float) -> str:
    """One line on the slow engine: why, in which versions, what it costs, and what helps.

    Args:
        name: The model's.
        model: One whose engine is `whole`.
        positions: Of a sequence, on average: so many are computed again for each that changes.
    """
    versions = ", ".join(f"{library} {importlib.metadata.version(library)}" for library in _LEANT_ON)
    return (
        f"Whole sequences are computed again, up to ×{max(positions, 1):.0f} slower and just as exact: {name} can't be "
        f"resumed at single positions, {model.whole_because} ({versions}). {_cure()}"
    )


def _cure() -> str:
    wrong = [f"'{need}'" for need in _untested()]
    if wrong:
        return f"Install versions that were tested: pip install {' '.join(wrong)}."
    return "These versions were tested, so it is this family: docs/models-and-text.md lists those that are fast."


def _untested() -> Iterator[str]:
    """The ranges of those libraries that are installed in another version."""
    for line in importlib.metadata.requires("circuitcli") or ():
        need = Requirement(line)
        if need.name in _LEANT_ON and not need.specifier.contains(importlib.metadata.version(need.name), True):
            yield f"{need.name}{need.specifier}"
