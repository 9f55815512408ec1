"""Rows of tables against plain loops over rows."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from circuitcli.core import rows
from circuitcli.core.sites import SITES, FeatureId, Site, feature_named

features = st.builds(
    lambda layer, site, index: FeatureId(Site(layer, site), index),
    st.sampled_from([0, 1, 32767]),
    st.sampled_from(SITES),
    st.sampled_from([0, 1, 2**31 - 1]),
)
pairs = st.lists(st.tuples(st.integers(-1, 3), st.integers(-(2**31), 2**31 - 1) | st.integers(0, 2)), max_size=30)


def table(named: list[FeatureId], end: str = "") -> dict[str, np.ndarray]:
    return {
        f"{end}layer": np.asarray([f.site.layer for f in named], np.int16),
        f"{end}site": np.asarray([f.site.name for f in named], object),
        f"{end}feature": np.asarray([f.index for f in named], np.int32),
    }


@given(st.lists(features, max_size=40), st.sets(features, max_size=5))
def test_rows_of_features(found: list[FeatureId], wanted: set[FeatureId]):
    for end in ("", "up_"):
        columns = table(found, end)
        expected = {feature: [i for i, f in enumerate(found) if f == feature] for feature in wanted}
        assert {f: at.tolist() for f, at in rows.rows_of(columns, wanted, end).items()} == expected
        assert rows.among(columns, wanted, end).tolist() == [feature in wanted for feature in found]


@given(st.lists(features, max_size=20))
def test_keys_are_in_the_models_order(found: list[FeatureId]):
    ordered = sorted(found, key=lambda f: f.order)
    assert sorted(map(rows.key, found)) == [rows.key(f) for f in ordered] == rows.keys(table(ordered)).tolist()
    assert len({rows.key(f) for f in found}) == len(set(found))


@given(pairs, pairs)
def test_match_is_the_first_equal_row(left: list[tuple[int, int]], right: list[tuple[int, int]]):
    columns = [[np.asarray([row[i] for row in side], np.int32) for i in (0, 1)] for side in (left, right)]
    expected = [right.index(row) if row in right else -1 for row in left]
    assert rows.match(*columns).tolist() == expected


def test_of_what_is_no_feature_there_is_none():
    assert feature_named("4.resid_post.112") == FeatureId(Site(4, "resid_post"), 112)
    for name in ("4:112", "4.nowhere.1", "error", "32768.resid_post.1", "logit 5", "4.resid_post.-1"):
        assert feature_named(name) is None
