"""Which features of a local replacement model have their edges in computed: those that matter most to its targets.

    infl = wÂ + wÂ² + …      Â[d, u] = |A[d, u]| / Σ_u |A[d, u]| of the rows that are known, 0 of all others

First the rows of the targets are known; then again and again the most influential features join, as many as one pass
back takes or as there are by then, until there are as many as were asked for. What a feature hands on counts once its
row is known, as in circuit-tracer (Ameisen et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitcli.core.attribution.parts import Features, Source
from circuitcli.core.attribution.replacement import Rows


@dataclass(frozen=True, eq=False)
class Traced:
    """Rows of −A.

    Attributes:
        nodes: The features that have one, ascending.
        into: Their rows.
        into_targets: The rows of the targets.
    """

    nodes: Int[Tensor, " m"]
    into: Float[Tensor, "m n"]
    into_targets: Float[Tensor, "k n"]


def trace(
    rows: Rows, sources: Sequence[Source], weights: Float[Tensor, " k"], most: int, done: Callable[[int], None]
) -> Traced:
    """The rows of the targets, which count as `weights` say, and of at most so many features.

    `done` is told how many features more have theirs.
    """
    into_targets = rows.of_targets()
    features = [
        torch.arange(start, start + len(source), device=weights.device)
        for start, source in zip(rows.starts, sources, strict=False)
        if isinstance(source, Features)
    ]
    left = torch.cat([*features, torch.zeros(0, dtype=torch.long, device=weights.device)])
    count = min(most, len(left))
    into = torch.empty(count, rows.nodes, device=weights.device)
    nodes = torch.empty(count, dtype=torch.long, device=weights.device)
    known = 0
    while known < count:
        some = left
        if count < len(left) + known:
            influence = _influence(into_targets, weights, nodes[:known], into[:known], rows.starts)
            order = influence[left].argsort(descending=True, stable=True)
            some = left[order[: min(max(known, rows.at_once), count - known)]].sort().values
        left = left[~torch.isin(left, some)]
        for part in rows.of_features(some):
            into[known : known + len(part)] = part
            nodes[known : known + len(part)] = some[: len(part)]
            some, known = some[len(part) :], known + len(part)
            done(len(part))
    order = nodes.argsort()
    return Traced(nodes[order], into[order] if bool((order.diff() < 0).any()) else into, into_targets)


def _influence(
    into_targets: Float[Tensor, "k n"],
    weights: Float[Tensor, " k"],
    nodes: Int[Tensor, " m"],
    into: Float[Tensor, "m n"],
    starts: Sequence[int],
) -> Float[Tensor, " n"]:
    """Infl of all nodes. Nodes of one source don't feed each other, so one sweep from the last to the first does."""
    mass = _handed(into_targets, weights)
    for start, stop in zip(reversed(starts[:-1]), reversed(starts[1:]), strict=True):
        own = ((nodes >= start) & (nodes < stop)).nonzero().squeeze(1)
        if len(own):
            mass += _handed(into[own], mass[nodes[own]])
    return mass


def _handed(rows: Float[Tensor, "r n"], mass: Float[Tensor, " r"]) -> Float[Tensor, " n"]:
    """What nodes of such a mass hand on to those that feed them."""
    size = rows.abs()
    fed = size.sum(1)
    return torch.where(fed > 0, mass / fed, 0.0) @ size
