"""A clean pass that notes what passes of its prompt shall take as constants."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from circuitcli.core.model import Fixed
from circuitcli.runtime import constants, mlps, norms
from circuitcli.runtime.constants import Constants, refused


@torch.inference_mode(False)  # what is noted serves gradients, wherever it is
@torch.no_grad()
def note(bridge: Any, tokens: Tensor, what: Fixed, clean: Callable[[Tensor], None]) -> Constants:
    """What is held of this prompt.

    Args:
        bridge: The bridged model.
        tokens: The prompt, [1, t].
        what: What to hold.
        clean: Makes a pass through all of the model but its head.

    Raises:
        InputError: The model has a part whose constants aren't known, and which.
    """
    if what.norms:
        norms.through_the_door(bridge)
    if what.activations:
        doors = [mlps.through_the_door(block.mlp, layer) for layer, block in enumerate(bridge.blocks)]

    def noted(row: Tensor) -> Constants:
        notes = Constants(
            patterns={} if what.patterns else None,
            norms={} if what.norms else None,
            rule=set() if what.activations else None,
        )
        with constants.noted_in(notes):
            clean(row)
        return notes

    notes, width = noted(tokens), tokens.shape[1]
    for layer in range(len(bridge.blocks)):
        if notes.patterns is not None and layer not in notes.patterns:
            raise refused(f"The attention of block {layer} tells no pattern.")
        if notes.rule is not None and not notes.rule.issuperset(doors[layer]):
            raise refused(f"RelP has no rule for the MLP of block {layer}.")
    if notes.norms is None:
        return notes
    other = tokens[:, 1:] if width > 1 else tokens.repeat(1, 2)
    return replace(notes, norms=norms.placed(notes.norms, width, lambda: noted(other).norms or {}))
