"""Random generators keyed by (seed, feature): adding or leaving out a feature changes no other feature's draw."""

from __future__ import annotations

import numpy as np

from circuitcli.core.sites import FeatureId

# A site's number in a key, by when it came to be known: what was drawn once is drawn again, whatever is added.
_SITES = ("resid_pre", "z", "attn_out", "resid_mid", "mlp_out", "resid_post", "mlp_in")


def generator(seed: int, feature: FeatureId, purpose: int, *key: int) -> np.random.Generator:
    """A generator of its own for one feature and one purpose, and for whatever else the key says, such as a context."""
    site = feature.site
    return np.random.default_rng([seed, site.layer, _SITES.index(site.name), feature.index, purpose, *key])


PURPOSE_THINNING, PURPOSE_CONTEXTS, PURPOSE_BOOTSTRAP, PURPOSE_DONOR, PURPOSE_INTERVENTION, PURPOSE_CALIBRATION = range(
    6
)
PURPOSE_HALVES, PURPOSE_REPEAT, PURPOSE_DRAWS = 6, 7, 8
