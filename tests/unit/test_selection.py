"""Which features of the first layer are ablated: a random few."""

from collections import Counter

from circuitcli.core.selection import thin
from circuitcli.core.sites import FeatureId, Site

A, B = Site(1, "attn_out"), Site(1, "resid_post")


def features(site: Site, *indices: int) -> list[FeatureId]:
    return [FeatureId(site, index) for index in indices]


def test_thinning_keeps_a_share_and_at_least_one() -> None:
    firing = features(A, *range(40)) + features(B, *range(60))
    assert len(thin(firing, 0.25, seed=0)) == 25
    assert len(thin(firing, 0.001, seed=0)) == 1
    assert thin(firing, 1.0, seed=0) == firing
    assert thin([], 0.5, seed=0) == []


def test_thinning_follows_the_seed_and_not_the_order() -> None:
    firing = features(A, *range(100))
    assert thin(reversed(firing), 0.1, seed=0) == thin(firing, 0.1, seed=0)
    assert thin(firing, 0.1, seed=1) != thin(firing, 0.1, seed=0)


def test_thinning_is_fair() -> None:
    firing = features(A, *range(10)) + features(B, *range(10))
    counts = Counter(f for seed in range(400) for f in thin(firing, 0.1, seed=seed))
    assert sum(counts.values()) == 800
    assert min(counts[f] for f in firing) > 15  # 40 are expected of each
    assert max(counts.values()) < 75
