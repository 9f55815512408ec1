"""Donors: what a feature is elsewhere in the sample, where an intervention puts that in its place.

For each context one counted position is drawn, each with the same chance, from those outside it: the context's own
position is left out, and of an edit of a whole sequence the whole sequence. The draw is keyed by (seed, feature,
sequence, position), so that no other context, feature or shard has a say in it.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from circuitcli.core.contexts import Firings, by_feature
from circuitcli.core.seeding import PURPOSE_DONOR, generator
from circuitcli.core.sites import FeatureId, Site
from circuitcli.errors import InputError


def donors(
    site: Site, contexts: Firings, whole: Firings, counted: Bool[np.ndarray, "s t"], seed: int
) -> Float[np.ndarray, " n"]:
    """The value of each context's feature at the position that was drawn for it; 0 where it is inactive there.

    Args:
        site: Where the features are.
        contexts: Features and their contexts; position −1 is an edit of the whole sequence.
        whole: All that fires at the site in the sample.
        counted: Which positions of the sample count.
        seed: Of the draws.

    Raises:
        InputError: No position lies outside a context.
    """
    width = counted.shape[1]
    places = np.flatnonzero(counted)
    start = contexts.seq.astype(np.int64) * width + np.maximum(contexts.pos, 0)
    first = np.searchsorted(places, start)
    behind = np.searchsorted(places, start + np.where(contexts.pos < 0, width, 1))
    drawn = np.empty(len(contexts), np.int64)
    for i, own in enumerate(behind - first):
        if own >= len(places):
            raise InputError(
                f"All positions of the text lie in sequence {contexts.seq[i]}: no other activation can come from it.",
                hint="Give more text, or another --intervention.",
            )
        feature = FeatureId(site, int(contexts.feature[i]))
        key = int(contexts.seq[i]), int(contexts.pos[i]) + 1
        other = int(generator(seed, feature, PURPOSE_DONOR, *key).integers(len(places) - own))
        drawn[i] = places[other if other < first[i] else other + own]
    return _values(drawn, contexts, whole, width)


def _values(place: np.ndarray, contexts: Firings, whole: Firings, width: int) -> Float[np.ndarray, " n"]:
    """What each context's feature is at a place, sequence · width + position."""
    found = np.zeros(len(contexts), np.float32)
    for feature, firing in by_feature(whole, np.unique(contexts.feature).tolist()).items():
        here = np.flatnonzero(contexts.feature == feature)
        at = firing.seq.astype(np.int64) * width + firing.pos
        if len(at):
            nearest = np.searchsorted(at, place[here]).clip(max=len(at) - 1)
            found[here] = np.where(at[nearest] == place[here], firing.value[nearest], 0)
    return found
