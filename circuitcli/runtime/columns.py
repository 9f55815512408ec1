"""What a place sees: its row over the sequence's positions, where what is computed again has columns of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from circuitcli.core.model import Places


def columns(rows: Tensor, places: Places, none: float) -> Tensor:
    """Each place's row, over its sequence's clean positions and then over the places of its group.

    What a row has for a position that is computed again goes to the column of that place: the place's own alone, or in
    a chain those of all places up to it.

    Args:
        rows: Of each place over the sequence, [g, c, t] or for several heads [g, h, c, t].
        places: The places.
        none: What a column holds that is not seen.

    Returns:
        [g, c, t + c] or [g, h, c, t + c].
    """
    groups, count = places.pos.shape
    pos = places.pos.view(groups, *[1] * (rows.ndim - 3), count)
    if not places.chained:
        here = pos.unsqueeze(-1).expand(*rows.shape[:-1], 1)
        own = rows.new_full((*rows.shape[:-1], count), none)
        own.diagonal(dim1=-2, dim2=-1).copy_(rows.gather(-1, here).squeeze(-1))
        return torch.cat([rows.scatter(-1, here, none), own], -1)
    again = torch.arange(rows.shape[-1], device=pos.device) >= pos[..., :1].unsqueeze(-1)
    each = torch.arange(count, device=pos.device)
    own = rows.gather(-1, pos.unsqueeze(-2).expand(*rows.shape[:-1], count))
    own = own.masked_fill(each > each.unsqueeze(1), none)
    return torch.cat([rows.masked_fill(again, none), own], -1)
