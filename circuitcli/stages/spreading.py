"""How large shards are, what they take on several workers at once, and what travels to them.

Layers follow each other, as the features of one follow from the effects of the one before; a layer's shards go to
whoever is free. Each worker makes the clean passes for itself.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from circuitcli.core.sites import Site
from circuitcli.store.ablations import SHARD_FEATURES

if TYPE_CHECKING:
    from circuitcli.stages.tools import Tools

WORKERS = (1, 8, 64)
# Bytes that travel: of an ablation, its columns and what it becomes; of a shard, what says what it reads, by site. Back
# come files.
_ABLATION, _CONTENTS = 28, 1600


def shard_features(tools: Tools, *, alone: bool) -> int:
    """Features of a new shard: what fills the GPU of a process that does all of the work, `alone` and by itself."""
    from circuitcli.core.transfer import filling

    alone = alone and not tools.executor.elsewhere
    return filling(tools.runtime.device, SHARD_FEATURES) if alone else SHARD_FEATURES


def shards_of(features: Mapping[Site, int], size: int) -> dict[Site, int]:
    """How many shards features of each site make, so many in each."""
    return {site: -(-count // size) for site, count in features.items() if count}


def seconds_on(workers: int, clean: float, ablating: Mapping[Site, float], shards: Mapping[Site, int]) -> float:
    """Seconds on so many workers, each as fast as this process; starting them isn't in it.

    Args:
        workers: How many.
        clean: Seconds of the clean passes.
        ablating: Seconds of all ablations at a site.
        shards: Of each site, among which they are equal.
    """
    layers: dict[int, list[float]] = defaultdict(list)
    for site, count in shards.items():
        layers[site.layer] += [ablating[site] / count] * count
    return clean + sum(_makespan(workers, times) for times in layers.values())


def _makespan(workers: int, times: list[float]) -> float:
    """When the last of these is done, each given to whoever is free first, the longest first."""
    free = [0.0] * min(workers, len(times))
    for seconds in sorted(times, reverse=True):
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def sent_bytes(ablations: int, shards: int, sites: int) -> int:
    """To workers."""
    return ablations * _ABLATION + shards * sites * _CONTENTS
