"""Which features are followed: a random few of the first layer, then along the largest effects."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from circuitcli.core.selection import branch, thin
from circuitcli.core.sites import FeatureId, Site

A, B = Site(1, "attn_out"), Site(1, "resid_post")
SOURCES = [FeatureId(Site(0, "z"), i) for i in range(3)]
EFFECTS = st.dictionaries(
    st.tuples(st.sampled_from(SOURCES), st.sampled_from([A, B]), st.integers(0, 5)),
    st.sampled_from([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0]),
)


def features(site: Site, *indices: int) -> list[FeatureId]:
    return [FeatureId(site, index) for index in indices]


def follow(table: dict[tuple[FeatureId, Site, int], float], **options: int) -> list[FeatureId]:
    effects = [(source, FeatureId(site, index), mean) for (source, site, index), mean in table.items()]
    return branch(effects, 1, **options)


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


def test_branching_takes_the_largest_of_each_source_at_each_site() -> None:
    table = {
        (SOURCES[0], A, 0): 0.1,
        (SOURCES[0], A, 1): -0.9,  # size counts, not sign
        (SOURCES[0], A, 2): 0.5,
        (SOURCES[0], B, 7): 0.01,  # the only one at its site
        (SOURCES[1], A, 3): 0.2,  # small, but the largest of its source
    }
    assert follow(table, branching=1, max_features=9) == features(A, 1, 3) + features(B, 7)
    assert follow(table, branching=2, max_features=9) == features(A, 1, 2, 3) + features(B, 7)


def test_the_union_is_cut_to_the_largest_from_any_source() -> None:
    table = {(SOURCES[0], A, 0): 0.1, (SOURCES[1], A, 0): -2.0, (SOURCES[0], B, 1): 1.0, (SOURCES[2], B, 2): 0.3}
    assert follow(table, branching=5, max_features=2) == features(A, 0) + features(B, 1)


def test_other_layers_and_effects_of_nothing_do_not_count() -> None:
    far, here = FeatureId(Site(2, "z"), 0), FeatureId(A, 4)
    effects = [(SOURCES[0], far, 9.0), (SOURCES[0], here, 0.0), (SOURCES[1], FeatureId(Site(0, "resid_post"), 1), 5.0)]
    assert branch(effects, 1, branching=3, max_features=3) == []


@given(EFFECTS, st.integers(1, 3), st.integers(1, 4))
def test_branching_against_plain_loops(
    table: dict[tuple[FeatureId, Site, int], float], branching: int, max_features: int
) -> None:
    followed: dict[tuple[Site, int], float] = {}
    for source in SOURCES:
        for site in (A, B):
            mine = {i: abs(mean) for (s, at, i), mean in table.items() if (s, at) == (source, site) and mean}
            for index in sorted(mine, key=lambda index: (-mine[index], index))[:branching]:
                followed[site, index] = max(mine[index], followed.get((site, index), 0))
    names = sorted(followed, key=lambda target: (-followed[target], target[0].order, target[1]))[:max_features]
    expected = [FeatureId(*name) for name in sorted(names, key=lambda name: (name[0].order, name[1]))]
    assert follow(table, branching=branching, max_features=max_features) == expected
    backwards = dict(reversed(table.items()))
    assert follow(backwards, branching=branching, max_features=max_features) == expected
