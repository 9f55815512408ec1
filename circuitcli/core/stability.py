"""How alike the circuits of repeated discoveries are: what comes up in how many of them, and what two have in common.

survival     of a node or an edge: the share of repeats in which it comes up
Jaccard      of two repeats: |A ∩ B| / |A ∪ B|, of their nodes, or of their edges
rank         of a feature in a repeat: 1 for the strongest
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import TypeVar

import numpy as np

from circuitcli.core.attributed import Measure
from circuitcli.core.circuit import Circuit, Node
from circuitcli.core.metadata import Metadata
from circuitcli.core.seeding import PURPOSE_BOOTSTRAP

RESAMPLES = 1000
BOUNDS = (2.5, 97.5)
Ends = tuple[str, str]
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, eq=False)
class Discovery:
    """What one discovery came to.

    Attributes:
        nodes: By id what each does (see `strength_in_words`), NaN where that isn't known; targets of prompts, which are
            what was asked and not what was found, aren't among them.
        edges: Their effects.
        features: The ids of the nodes that are features.
    """

    nodes: Mapping[str, float]
    edges: Mapping[Ends, float]
    features: AbstractSet[str]

    @cached_property
    def ranks(self) -> dict[str, int]:
        """The rank of each feature whose strength is known: 1 of the largest |strength|; ties by their ids."""
        known = [name for name in self.features if np.isfinite(self.nodes[name])]
        return {name: i for i, name in enumerate(sorted(known, key=lambda name: (-abs(self.nodes[name]), name)), 1)}


@dataclass(frozen=True)
class Tally:
    """One node or edge over some repeats: in how many it comes up, and the mean and spread of what it does there.

    `std` is over those repeats (n, not n − 1); both are NaN where it comes up in none, or isn't known.
    """

    survived: int
    mean: float
    std: float


def discovery(circuit: Circuit) -> Discovery:
    """What the discovery that this circuit is of came to."""
    nodes = [node for node in circuit.nodes if node.kind != "target"]
    out: dict[str, float] = {}
    for edge in circuit.edges:
        out[edge.source] = out.get(edge.source, 0.0) + abs(edge.effect_mean)
    measured = any(node.kl_mean is not None for node in nodes)
    return Discovery(
        nodes={node.id: _strength(node, measured=measured, out=out) for node in nodes},
        edges={(edge.source, edge.target): edge.effect_mean for edge in circuit.edges},
        features={node.id for node in nodes if node.kind == "feature"},
    )


def _strength(node: Node, *, measured: bool, out: Mapping[str, float]) -> float:
    if node.attribution is not None:
        return np.nan if node.attribution.effect is None else node.attribution.effect
    if measured:
        return np.nan if node.kl_mean is None else node.kl_mean
    return out.get(node.id, np.nan)


def strength_in_words(metadata: Metadata, nodes: Sequence[Node]) -> str:
    """By what features are ranked."""
    if metadata.attribution is not None:
        return f"|effect| on {metadata.attribution.metric}"
    known = any(node.kl_mean is not None for node in nodes)
    return "mean KL of the next token" if known else "the sum of the |effects| that are drawn"


def tally(repeats: Sequence[Mapping[Key, float]]) -> dict[Key, Tally]:
    """Each node, or edge, that comes up in any of some repeats, in the order in which they first do."""
    found: dict[Key, list[float]] = {}
    for repeat in repeats:
        for key, value in repeat.items():
            found.setdefault(key, []).append(value)
    return {key: _tally(values) for key, values in found.items()}


def _tally(values: Sequence[float]) -> Tally:
    known = np.asarray([value for value in values if np.isfinite(value)])
    mean, std = (float(known.mean()), float(known.std())) if len(known) else (np.nan, np.nan)
    return Tally(len(values), mean, std)


def jaccard(a: AbstractSet[Key], b: AbstractSet[Key]) -> float:
    """|A ∩ B| / |A ∪ B|; 1 of two that are empty."""
    union = len(a | b)
    return len(a & b) / union if union else 1.0


def mean_jaccard(repeats: Sequence[AbstractSet[Key]], seed: int) -> Measure:
    """The mean Jaccard index of all pairs of repeats, with its 95% bootstrap interval.

    It is repeats that are resampled, and not pairs: the pairs of one repeat share it and say the same thing again. With
    c_i the number of times that repeat i was drawn, a resample has the mean Σ_{i<j} c_i c_j J_ij / Σ_{i<j} c_i c_j: a
    repeat beside itself is no pair, and a resample of one repeat alone has none and is left out. Two repeats, which
    have one pair, give no interval, fewer no mean. Few repeats give a rough interval: of three it can only lie between
    the smallest and the largest J.
    """
    n = len(repeats)
    if n < 2:
        return Measure(None)
    alike = np.zeros((n, n))
    for i, j in combinations(range(n), 2):
        alike[i, j] = jaccard(repeats[i], repeats[j])
    above = np.triu(np.ones((n, n)), 1)
    value = float(alike.sum() / above.sum())
    if n == 2:
        return Measure(value)
    drawn = (
        np.random.default_rng([seed, PURPOSE_BOOTSTRAP])
        .multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
        .astype(np.float64)
    )
    pairs = np.einsum("ri,ij,rj->r", drawn, above, drawn)
    means = np.einsum("ri,ij,rj->r", drawn, alike, drawn)[pairs > 0] / pairs[pairs > 0]
    low, high = (float(bound) for bound in np.percentile(means, BOUNDS))
    return Measure(value, low, high)
