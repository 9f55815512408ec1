"""Random draws keyed by (seed, feature): adding or leaving out a feature changes no other feature's draw."""

from __future__ import annotations

import numpy as np

from circuitcli.core.sites import SITES, FeatureId


def generator(seed: int, feature: FeatureId, purpose: int) -> np.random.Generator:
    """A generator of its own for one feature and one purpose."""
    site = feature.site
    return np.random.default_rng([seed, site.layer, SITES.index(site.name), feature.index, purpose])


PURPOSE_THINNING, PURPOSE_CONTEXTS, PURPOSE_BOOTSTRAP = range(3)
