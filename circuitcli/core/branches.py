"""Where ablations lead: of each ablated feature the mean effects that may be followed to the next layer."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitcli.core.sites import FeatureId, Site

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # as in `contexts`
    from jaxtyping import Bool, Float, Int

Columns = Mapping[str, Any]
# Sums at once, of sources times features of a site: 32 MiB.
_CELLS = 2**22


@dataclass(frozen=True, eq=False)
class Follow:
    """Which effects may be followed.

    Attributes:
        branching: How many of each source at each site: those with the largest |mean|, of equal ones the lower index's.
        firing: Of each site of the next layer the features that fire by themselves, eight in a byte. One that an
            ablation switches on, and that fires nowhere else, has no context at which it could be ablated.
    """

    branching: int
    firing: Mapping[Site, bytes]

    @classmethod
    def to(cls, firing: Mapping[Site, Bool[np.ndarray, " d"]], branching: int) -> Follow:
        """Those to features that fire."""
        return cls(branching, {site: np.packbits(mask).tobytes() for site, mask in firing.items()})


@dataclass(frozen=True, eq=False)
class Branches:
    """What of the ablations of some features decides which are ablated next.

    Attributes:
        features: The ablated ones, ascending.
        contexts: At how many contexts each was ablated.
        source: Of each effect that may be followed, the place of its source in `features`.
        site: And of its target's site in `sites`.
        target: Its index there.
        mean: And Σ (ablated − clean) ÷ contexts: the mean change, contexts without one counting 0.
        sites: Of the next layer.
    """

    features: Int[np.ndarray, " n"]
    contexts: Int[np.ndarray, " n"]
    source: Int[np.ndarray, " m"]
    site: Int[np.ndarray, " m"]
    target: Int[np.ndarray, " m"]
    mean: Float[np.ndarray, " m"]
    sites: tuple[Site, ...]

    @classmethod
    def of(
        cls, features: Sequence[int], contexts: Iterable[Columns], effects: Iterable[Columns], follow: Follow
    ) -> Branches:
        """Those of ablations, whose tables come in parts.

        Args:
            features: The ablated ones, ascending, all of one site.
            contexts: A row for each ablation: its `feature`.
            effects: A row for each change: `up_feature`, `down_layer`, `down_site`, `down_feature`, `clean` and
                `ablated`. Sums are in the order of rows.
            follow: Which may be followed.
        """
        ablated, parts = np.asarray(features, np.int64), list(effects)
        count = np.zeros(len(ablated), np.int64)
        for part in contexts:
            count += np.bincount(np.searchsorted(ablated, part["feature"]), minlength=len(ablated))
        found = [
            (place, *_largest(ablated, count, [_at(part, site) for part in parts], packed, follow.branching))
            for place, (site, packed) in enumerate(follow.firing.items())
        ]
        at = [np.full(len(source), place) for place, source, _, _ in found]
        columns = ([one[i] for one in found] for i in (1, 2, 3))
        source, target, mean = (np.concatenate([np.zeros(0), *column]) for column in columns)
        site = np.concatenate([np.zeros(0), *at]).astype(np.int64)
        return cls(ablated, count, source.astype(np.int64), site, target.astype(np.int64), mean, tuple(follow.firing))

    @classmethod
    def concat(cls, parts: Sequence[Branches]) -> Branches:
        """Those of some features, then of others at the same site."""
        names = ("features", "contexts", "site", "target", "mean")
        whole = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        starts = np.cumsum([0, *(len(part.features) for part in parts[:-1])])
        whole["source"] = np.concatenate([part.source + start for part, start in zip(parts, starts, strict=True)])
        order = np.lexsort((whole["source"], whole["site"]))
        whole |= {name: whole[name][order] for name in ("source", "site", "target", "mean")}
        return cls(sites=parts[0].sites, **whole)

    def only(self, wanted: Int[np.ndarray, " k"]) -> Branches:
        """Those of some features."""
        mine = np.isin(self.features, wanted)
        rows, place = np.flatnonzero(mine[self.source]), np.cumsum(mine) - 1
        columns = {name: getattr(self, name)[rows] for name in ("site", "target", "mean")}
        return Branches(self.features[mine], self.contexts[mine], place[self.source[rows]], **columns, sites=self.sites)


def led_to(parts: Sequence[Branches], max_features: int) -> list[FeatureId]:
    """The features that effects lead to, in the model's order: the targets of all, of which those with the largest
    |mean| from any source are kept, of equal ones the earlier.

    Args:
        parts: Of features of one layer.
        max_features: How many are kept.
    """
    sites = sorted({site for part in parts for site in part.sites}, key=lambda site: site.order)
    number = {site: place for place, site in enumerate(sites)}
    places = [np.asarray([number[site] for site in part.sites], np.int64)[part.site] for part in parts]
    site, target, mean = (
        np.concatenate([np.zeros(0, np.int64), *columns])
        for columns in (places, [part.target for part in parts], [np.abs(part.mean) for part in parts])
    )
    order = np.lexsort((-mean, target, site))
    site, target, mean = site[order], target[order], mean[order]
    first = (np.diff(site, prepend=-1) != 0) | (np.diff(target, prepend=-1) != 0)
    site, target, mean = site[first], target[first], mean[first]
    kept = np.sort(np.argsort(-mean, kind="stable")[:max_features])
    return [FeatureId(sites[s], i) for s, i in zip(site[kept].tolist(), target[kept].tolist(), strict=True)]


def _at(part: Columns, site: Site) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The source, target and change of each row of a part that is at a site."""
    here = (part["down_layer"] == site.layer) & (part["down_site"] == site.name)
    rows = np.flatnonzero(np.broadcast_to(here, len(part["down_feature"])))
    change = part["ablated"][rows].astype(np.float64) - part["clean"][rows]
    return part["up_feature"][rows], part["down_feature"][rows], change


def _largest(
    ablated: np.ndarray, count: np.ndarray, parts: Sequence[tuple[np.ndarray, ...]], packed: bytes, branching: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The place of the source, the target and the mean of the effects at a site that may be followed."""
    fires = np.unpackbits(np.frombuffer(packed, np.uint8)).astype(np.bool_)
    source, target, change = (np.concatenate([np.zeros(0), *(part[i] for part in parts)]) for i in range(3))
    place, target = np.searchsorted(ablated, source), target.astype(np.int64)
    at_once = max(1, _CELLS // len(fires))
    kept, means = [], []
    for start in range(0, len(ablated), at_once):
        some = count[start : start + at_once]
        here = np.flatnonzero((place >= start) & (place < start + at_once))
        cell = (place[here] - start) * len(fires) + target[here]
        total = np.bincount(cell, change[here], len(some) * len(fires)).reshape(len(some), len(fires))
        for row in np.where(fires, total / np.maximum(some, 1)[:, None], 0):
            kept.append(_first(row, branching))
            means.append(row[kept[-1]])
    sources = np.repeat(np.arange(len(ablated)), [len(targets) for targets in kept])
    return sources, np.concatenate([np.zeros(0, np.int64), *kept]), np.concatenate([np.zeros(0), *means])


def _first(means: np.ndarray, branching: int) -> np.ndarray:
    """The features with the largest |mean| that isn't 0."""
    found = np.flatnonzero(means)
    return found[np.lexsort((found, -np.abs(means[found])))[:branching]]
