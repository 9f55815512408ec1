"""Between which nodes of a prompt there may be an edge, whatever is estimated of it."""

from __future__ import annotations

import bisect

import numpy as np
from jaxtyping import Bool, Int

from circuitcli.stages.study import Study


class Reachable:
    """Which nodes may have a direct edge to which.

    A node comes before what it feeds, at the same position or an earlier one, and no dictionary writes to the stream
    between the two: nothing goes by there. (But where special tokens aren't cut something might.)
    """

    def __init__(self, study: Study) -> None:
        parts, leaks = dict(study.parts), bool((~study.counts & (study.counts.cumsum(0) > 0)).any())
        writes = [] if leaks else [part.site for part in parts.values() if part.site.name.startswith("resid")]
        streams = sorted({site.order for site in writes})
        last = (study.model.shape.n_layers, 0)
        # Of each source, the target last: how many streams are written up to it, and how many before what it reads.
        leaves, reads = [], []
        for place, source in enumerate(study.sources):
            part = parts.get(place)
            leaves.append(bisect.bisect_right(streams, source.site.order) if part else 0)
            reads.append(bisect.bisect_left(streams, part.reads.order) if part else 0)
        leaves, reads = [*leaves, len(streams)], [*reads, bisect.bisect_left(streams, last)]
        sizes = [*map(len, study.sources), 1]
        self._of, self._leaves, self._reads = (
            np.repeat(np.asarray(column), sizes) for column in (np.arange(len(sizes)), leaves, reads)
        )
        places = [source.pos.cpu().numpy() for source in study.sources]
        self._pos = np.concatenate([*places, [len(study.prompt) - 1]])

    def __call__(self, source: Int[np.ndarray, " u"], target: Int[np.ndarray, " r"]) -> Bool[np.ndarray, "r u"]:
        """Whether each source may feed each target."""
        u, d = source[None, :], target[:, None]
        after = (self._of[u] < self._of[d]) & (self._pos[u] <= self._pos[d])
        return np.asarray(after & (self._leaves[u] >= self._reads[d]))
