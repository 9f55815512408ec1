"""Which features are ablated, layer by layer: from a few (pinned, random or strongest) along their largest effects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from circuitcli.core.seeding import PURPOSE_THINNING, generator
from circuitcli.core.shape import ModelShape
from circuitcli.core.sites import FeatureId, Site, is_upstream


def thin(firing: Iterable[FeatureId], share: float, seed: int) -> list[FeatureId]:
    """A random `share` of the features that fire, at least one; each is drawn by its own key."""
    features = sorted(firing, key=lambda f: f.order)
    if not features:
        return []
    keep = max(1, round(share * len(features)))
    lot = {feature: generator(seed, feature, PURPOSE_THINNING).random() for feature in features}
    return sorted(sorted(features, key=lambda f: (lot[f], f.order))[:keep], key=lambda f: f.order)


def strongest(score: Mapping[FeatureId, float], keep: int) -> list[FeatureId]:
    """The `keep` features with the largest scores, in the model's order, to which ties go as well."""
    return sorted(sorted(score, key=lambda f: (-score[f], f.order))[:keep], key=lambda f: f.order)


def by_place(score: Mapping[FeatureId, float]) -> dict[FeatureId, float]:
    """Scores that can be compared between sites: −1, −2, … of the features of each site, the largest first."""
    found: dict[FeatureId, float] = {}
    place: dict[Site, int] = {}
    for feature in sorted(score, key=lambda f: (-score[f], f.order)):
        place[feature.site] = place.get(feature.site, 0) + 1
        found[feature] = float(-place[feature.site])
    return found


def downstream(site: Site, sites: Sequence[Site], shape: ModelShape, writes: Site | None = None) -> list[Site]:
    """Every chosen site that features of one can change, up to and including the next chosen layer, in order.

    Args:
        site: Where the features read.
        sites: All that are chosen.
        shape: The model's.
        writes: The first site that they write, and which is then read as edited; None: where they read.
    """
    later = [s.layer for s in sites if s.layer > site.layer]
    last, first = min(later, default=site.layer), writes or site
    found = [s for s in sites if s.layer <= last and is_upstream(first, s, parallel=shape.parallel)]
    found += [first] if first != site and first in sites else []
    return sorted(found, key=lambda s: s.order)
