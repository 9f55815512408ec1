"""What fires, from activations to the rows that are kept."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool

from circuitcli.core.contexts import Firings
from circuitcli.core.dictionary import Dictionary


def firings_in(sae: Dictionary, x: torch.Tensor, rows: np.ndarray, counted: Bool[np.ndarray, "n t"]) -> Firings:
    """The non-zero activations at the positions that count, of the sequences that these rows are."""
    row, pos = torch.as_tensor(counted, device=x.device).nonzero(as_tuple=True)
    active = sae.active(x[row, pos])
    columns = (c.cpu().numpy() for c in (row[active.place], pos[active.place], active.feature))
    seq, position, index = (c.astype(np.int32) for c in columns)
    return Firings(rows[seq].astype(np.int32), position, index, active.value.cpu().numpy())
