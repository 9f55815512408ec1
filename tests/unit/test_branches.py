"""Where ablations lead, against plain loops, and from whatever parts and shards their tables come."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitcli.core import branches
from circuitcli.core.branches import Branches, Follow, led_to
from circuitcli.core.sites import FeatureId, Site

UP, A, B, LATER = Site(0, "resid_post"), Site(1, "attn_out"), Site(1, "resid_post"), Site(2, "resid_post")
FEATURES, WIDTH = [1, 4, 6], 10
# Source, downstream site and feature, and the change; a power of two, so that sums in any order are the same.
ROWS = st.lists(
    st.tuples(
        st.sampled_from(FEATURES), st.sampled_from([A, B, LATER]), st.integers(0, WIDTH - 1),
        st.sampled_from([-2.0, -1.0, 0.5, 1.0]),
    )
)  # fmt: skip
EFFECTS = st.dictionaries(
    st.tuples(st.sampled_from(FEATURES), st.sampled_from([A, B]), st.integers(0, 5)),
    st.sampled_from([-3.0, -1.0, 0.0, 0.5, 1.0, 2.0]),
)
Row = tuple[int, Site, int, float]


def table(rows: list[Row]) -> dict[str, Any]:
    """As a file has them."""
    return {
        "up_feature": np.asarray([row[0] for row in rows], np.int32),
        "down_layer": np.asarray([row[1].layer for row in rows], np.int16),
        "down_site": np.asarray([row[1].name for row in rows], dtype=object),
        "down_feature": np.asarray([row[2] for row in rows], np.int32),
        "clean": np.full(len(rows), 3, np.float32),
        "ablated": np.asarray([3 + row[3] for row in rows], np.float32),
    }


def parts(rows: list[Row]) -> list[dict[str, Any]]:
    """As they are computed: a part for each downstream site."""
    sites = sorted({row[1] for row in rows}, key=lambda site: site.order)
    return [
        table([row for row in rows if row[1] == site]) | {"down_layer": site.layer, "down_site": site.name}
        for site in sites
    ]


def contexts(counts: dict[int, int]) -> dict[str, Any]:
    return {"feature": np.repeat(np.asarray([*counts], np.int32), [*counts.values()])}


@pytest.mark.parametrize("cells", [branches._CELLS, 25])
@given(ROWS, st.integers(1, 3), st.sets(st.integers(0, WIDTH - 1)), st.tuples(*[st.integers(1, 8)] * 3))
def test_against_plain_loops(
    cells: int, rows: list[Row], branching: int, silent: set[int], counts: tuple[int, int, int]
) -> None:
    fires = ~np.isin(np.arange(WIDTH), list(silent))
    follow, ablated = Follow.to({A: fires, B: fires}, branching), dict(zip(FEATURES, counts, strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(branches, "_CELLS", cells)
        found = Branches.of(FEATURES, [contexts(ablated)], [table(rows)], follow)
        same = Branches.of(FEATURES, [contexts(ablated)], parts(rows), follow)
    halves = [
        Branches.of(some, [contexts({i: ablated[i] for i in some})], [table([r for r in rows if r[0] in some])], follow)
        for some in (FEATURES[:2], FEATURES[2:])
    ]
    for other in (same, Branches.concat(halves)):
        for name, column in vars(found).items():
            np.testing.assert_array_equal(getattr(other, name), column, err_msg=name)

    mean: dict[tuple[int, Site, int], float] = {}
    for source, site, target, change in rows:
        if target not in silent and site != LATER:
            mean[source, site, target] = mean.get((source, site, target), 0) + change / ablated[source]
    for wanted in (FEATURES, FEATURES[1:]):
        some = {effect: value for effect, value in mean.items() if effect[0] in wanted and abs(value) > 1e-9}
        mine = found.only(np.asarray(wanted))
        assert (mine.features.tolist(), mine.contexts.sum()) == (wanted, sum(ablated[index] for index in wanted))
        led = {
            (wanted[source], mine.sites[site], target): value
            for source, site, target, value in zip(
                *(column.tolist() for column in (mine.source, mine.site, mine.target, mine.mean)), strict=True
            )
        }
        for effect, value in led.items():
            assert value == pytest.approx(mean[effect], rel=1e-12)
        assert led.keys() == {effect for effect in some if effect in _largest(some, effect, branching)}


def _largest(mean: dict[tuple[int, Site, int], float], of: tuple[int, Site, int], branching: int) -> list[Any]:
    """Those of one source at one site that are followed."""
    beside = [effect for effect in mean if effect[:2] == of[:2]]
    return sorted(beside, key=lambda effect: (-abs(mean[effect]), effect[2]))[:branching]


def test_none_are_followed_where_the_next_layer_is_named() -> None:
    found = Branches.of(FEATURES, [contexts({4: 3})], [table([(4, A, 2, 1.0)])], Follow.to({}, 5))
    assert led_to([found], 9) == []
    assert found.contexts.tolist() == [0, 3, 0]


def features(site: Site, *indices: int) -> list[FeatureId]:
    return [FeatureId(site, index) for index in indices]


def follow(table_: dict[tuple[int, Site, int], float], *, branching: int, max_features: int) -> list[FeatureId]:
    """The features that effects lead to, of one ablation each; from one shard, or one for each source."""
    rows = [(source, site, index, mean) for (source, site, index), mean in table_.items()]
    to = Follow.to(dict.fromkeys((A, B), np.ones(WIDTH, np.bool_)), branching)
    parts = [
        Branches.of([source], [contexts({source: 1})], [table([row for row in rows if row[0] == source])], to)
        for source in FEATURES
    ]
    [whole] = {tuple(led_to(some, max_features)) for some in (parts, parts[::-1], [Branches.concat(parts)])}
    return list(whole)


def test_branching_takes_the_largest_of_each_source_at_each_site() -> None:
    table = {
        (FEATURES[0], A, 0): 0.1,
        (FEATURES[0], A, 1): -0.9,  # size counts, not sign
        (FEATURES[0], A, 2): 0.5,
        (FEATURES[0], B, 7): 0.01,  # the only one at its site
        (FEATURES[1], A, 3): 0.2,  # small, but the largest of its source
    }
    assert follow(table, branching=1, max_features=9) == features(A, 1, 3) + features(B, 7)
    assert follow(table, branching=2, max_features=9) == features(A, 1, 2, 3) + features(B, 7)


def test_the_union_is_cut_to_the_largest_from_any_source() -> None:
    table = {(FEATURES[0], A, 0): 0.1, (FEATURES[1], A, 0): -2.0, (FEATURES[0], B, 1): 1.0, (FEATURES[2], B, 2): 0.3}
    assert follow(table, branching=5, max_features=2) == features(A, 0) + features(B, 1)


def test_other_layers_and_effects_of_nothing_do_not_count() -> None:
    assert follow({(1, LATER, 0): 9.0, (1, A, 4): 0.0, (4, UP, 1): 5.0}, branching=3, max_features=3) == []


@given(EFFECTS, st.integers(1, 3), st.integers(1, 4))
def test_branching_against_plain_loops(
    table: dict[tuple[int, Site, int], float], branching: int, max_features: int
) -> None:
    followed: dict[tuple[Site, int], float] = {}
    for source in FEATURES:
        for site in (A, B):
            mine = {i: abs(mean) for (s, at, i), mean in table.items() if (s, at) == (source, site) and mean}
            for index in sorted(mine, key=lambda index: (-mine[index], index))[:branching]:
                followed[site, index] = max(mine[index], followed.get((site, index), 0))
    names = sorted(followed, key=lambda target: (-followed[target], target[0].order, target[1]))[:max_features]
    expected = [FeatureId(*name) for name in sorted(names, key=lambda name: (name[0].order, name[1]))]
    assert follow(table, branching=branching, max_features=max_features) == expected
    backwards = dict(reversed(table.items()))
    assert follow(backwards, branching=branching, max_features=max_features) == expected


def test_what_never_fires_is_not_followed_whatever_its_effect() -> None:
    fires = np.arange(WIDTH) != 3
    found = Branches.of(
        [1], [contexts({1: 1})], [table([(1, A, 3, float("inf")), (1, A, 4, 1.0)])], Follow.to({A: fires}, 2)
    )
    assert led_to([found], 9) == features(A, 4)
