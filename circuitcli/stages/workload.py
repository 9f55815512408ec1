"""How many ablations are made at once, by what one takes."""

from __future__ import annotations

from circuitcli.core.model import Model
from circuitcli.runtime.device import Runtime


def batch_size(model: Model, runtime: Runtime, width: int, horizon: int | None) -> int:
    """Rows at once, by a generous estimate of what one holds: streams, keys and values, scores.

    Args:
        model: The model.
        runtime: Its memory, and the batch size if one is set.
        width: Positions of a sequence.
        horizon: How many positions behind an edited one are read; None: all.
    """
    alone = horizon == 0 and model.resumes_at_places
    places = 1 if alone else width if horizon is None or not model.resumes_at_places else min(width, horizon + 1)
    streams = places * (30 * model.shape.d_model + 8 * width)
    keys = (4 if alone else 8) * (width + places) * model.shape.d_z
    return runtime.rows_at_once(4 * (streams + keys), places)
