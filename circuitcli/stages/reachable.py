"""Between which nodes of a prompt there may be an edge, whatever is estimated of it."""

from __future__ import annotations

import bisect

import numpy as np
from jaxtyping import Bool, Int

from circuitcli.core.attribution.edges import written
from circuitcli.core.attribution.parts import Features, Source, Tokens
from circuitcli.stages.study import Study


class Reachable:
    """Which nodes may have a direct edge to which.

    A node comes before what it feeds, at the same position or an earlier one, and no dictionary writes to the stream
    between the two: nothing goes by there. (But where special tokens aren't cut something might.)
    """

    def __init__(self, study: Study) -> None:
        leaks = bool((~study.counts & (study.counts.cumsum(0) > 0)).any())
        streams = sorted(site.order for site in written(study.sources) if site.name.startswith("resid") and not leaks)
        last = (study.model.shape.n_layers, 0)
        # Of each source, the target last: how many streams are written up to it, and how many before what it reads.
        leaves = [
            0 if isinstance(one, Tokens) else bisect.bisect_right(streams, list(one.rows)[-1].order)
            for one in study.sources
        ]
        reads = [bisect.bisect_left(streams, _reads(study, one)) for one in study.sources]
        leaves, reads = [*leaves, len(streams)], [*reads, bisect.bisect_left(streams, last)]
        begins = [(one.site.order, not isinstance(one, Tokens)) for one in study.sources]  # those of a site together
        of = [*map(sorted(set(begins)).index, begins), len(begins)]
        sizes = [*map(len, study.sources), 1]
        self._of, self._leaves, self._reads = (np.repeat(np.asarray(column), sizes) for column in (of, leaves, reads))
        places = [source.pos.cpu().numpy() for source in study.sources]
        self._pos = np.concatenate([*places, [len(study.prompt) - 1]])

    def __call__(self, source: Int[np.ndarray, " u"], target: Int[np.ndarray, " r"]) -> Bool[np.ndarray, "r u"]:
        """Whether each source may feed each target."""
        u, d = source[None, :], target[:, None]
        after = (self._of[u] < self._of[d]) & (self._pos[u] <= self._pos[d])
        return np.asarray(after & (self._leaves[u] >= self._reads[d]))


def _reads(study: Study, source: Source) -> tuple[int, int]:
    """The first site that a node is a function of: an error is one of all that its dictionaries read."""
    if isinstance(source, Features):
        return source.reads.order
    writers = [one.reads for one in study.sources if isinstance(one, Features) and source.site in one.rows]
    return min((site.order for site in writers), default=source.site.order)
