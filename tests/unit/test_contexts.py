"""Where features fire: top contexts, statistics, and the contexts chosen for ablation, against plain loops."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitcli.core.contexts import ByFeature, FeatureStatistics, Firings, by_feature, choose_contexts, top_contexts
from circuitcli.core.sites import FeatureId, Site

FEATURE = FeatureId(Site(1, "mlp_out"), 3)
# (seq, pos, feature) → value; few values, so that ties are common
FIRINGS = st.dictionaries(
    st.tuples(st.integers(0, 4), st.integers(1, 5), st.integers(0, 3)), st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0])
)


def firings(table: dict[tuple[int, int, int], float]) -> Firings:
    seq, pos, feature = (np.asarray([key[i] for key in table], np.int32) for i in range(3))
    return Firings(seq, pos, feature, np.asarray(list(table.values()), np.float32))


def one_feature(values: dict[tuple[int, int], float]) -> Firings:
    return firings({(seq, pos, FEATURE.index): value for (seq, pos), value in values.items()})


def places(found: Firings) -> list[tuple[int, int]]:
    return list(zip(found.seq.tolist(), found.pos.tolist(), strict=True))


@given(FIRINGS, st.integers(1, 4))
def test_top_contexts_are_the_strongest_and_ties_go_to_the_earlier(
    table: dict[tuple[int, int, int], float], k: int
) -> None:
    best, rank = top_contexts(firings(table), k)
    ours = list(zip(best.feature.tolist(), rank.tolist(), places(best), best.value.tolist(), strict=True))
    expected = []
    for feature in range(4):
        mine = sorted((-value, (s, p)) for (s, p, f), value in table.items() if f == feature)
        expected += [(feature, i, place, -value) for i, (value, place) in enumerate(mine[:k])]
    assert ours == expected


@given(FIRINGS, st.integers(1, 5))
def test_top_contexts_can_be_found_a_shard_at_a_time(table: dict[tuple[int, int, int], float], k: int) -> None:
    best = Firings.concat([])
    for seq in range(5):
        shard = firings({key: value for key, value in table.items() if key[0] == seq})
        best, _ = top_contexts(Firings.concat([best, shard]), k)
    whole, _ = top_contexts(firings(table), k)
    assert (places(best), best.value.tolist()) == (places(whole), whole.value.tolist())


@given(FIRINGS)
def test_statistics_over_all_counted_positions(table: dict[tuple[int, int, int], float]) -> None:
    statistics = FeatureStatistics(5)
    for seq in range(5):
        statistics.add(firings({key: value for key, value in table.items() if key[0] == seq}), 5)
    for feature in range(5):
        mine = [value for (_, _, f), value in table.items() if f == feature]
        dense = np.asarray(mine + [0.0] * (25 - len(mine)))
        assert statistics.n_active[feature] == np.count_nonzero(dense)
        assert statistics.density[feature] == pytest.approx(np.count_nonzero(dense) / 25)
        assert statistics.mean[feature] == pytest.approx(dense.mean())
        assert statistics.maximum[feature] == dense.max()


def test_candidates_reach_from_half_the_maximum_to_the_maximum() -> None:
    values = {(0, 1): 4.0, (0, 2): 2.0, (1, 1): 1.99, (2, 3): 3.0, (1, 4): 0.1}
    found = choose_contexts(one_feature(values), FEATURE, cap=10, seed=0, whole=False)
    assert places(found) == [(0, 1), (0, 2), (2, 3)]
    assert found.value.tolist() == [4.0, 2.0, 3.0]


def test_more_candidates_than_the_cap_are_drawn_at_random_without_replacement() -> None:
    values = {(seq, pos): 1.0 for seq in range(5) for pos in range(1, 5)}
    values |= {(9, pos): 0.4 for pos in range(1, 20)}  # no candidates
    counts = Counter()
    for seed in range(200):
        found = places(choose_contexts(one_feature(values), FEATURE, cap=5, seed=seed, whole=False))
        assert len(set(found)) == 5
        assert found == sorted(found)
        counts.update(found)
    assert set(counts) == {(seq, pos) for seq in range(5) for pos in range(1, 5)}
    assert max(counts.values()) < 90  # 50 are expected of each; the chance of 90 is below 1e-9


def test_the_choice_depends_on_seed_and_feature_and_not_on_order() -> None:
    values = {(seq, pos): 1.0 for seq in range(6) for pos in range(1, 8)}
    given_order, shuffled = one_feature(values), one_feature(dict(reversed(values.items())))

    def choice(data: Firings, feature: FeatureId = FEATURE, seed: int = 0) -> list[tuple[int, int]]:
        return places(choose_contexts(data, feature, cap=6, seed=seed, whole=False))

    assert choice(given_order) == choice(shuffled)
    assert choice(given_order) != choice(given_order, seed=1)
    assert choice(given_order) != choice(given_order, FeatureId(FEATURE.site, 4))


def test_whole_sequences_are_those_in_which_it_fires_at_all() -> None:
    values = {(3, 1): 0.1, (0, 1): 4.0, (0, 2): 5.0, (1, 4): 0.3, (1, 2): 0.2}
    found = choose_contexts(one_feature(values), FEATURE, cap=10, seed=0, whole=True)
    assert places(found) == [(0, -1), (1, -1), (3, -1)]
    assert found.value.tolist() == pytest.approx([5.0, 0.3, 0.1])
    assert len(choose_contexts(one_feature(values), FEATURE, cap=2, seed=0, whole=True)) == 2


def test_a_dead_feature_has_no_contexts() -> None:
    for whole in (False, True):
        assert len(choose_contexts(one_feature({}), FEATURE, cap=5, seed=0, whole=whole)) == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3), st.integers(0, 3)), unique=True), st.integers(1, 4))
def test_how_many_contexts_there_are_is_known_without_choosing_them(
    places: list[tuple[int, int, int]], cap: int
) -> None:
    feature, seq, pos = (np.asarray(column, np.int32) for column in np.reshape(sorted(places), (-1, 3)).T)
    value = np.asarray([1 + hash(place) % 97 for place in sorted(places)], np.float32)
    order = np.lexsort((feature, pos, seq))
    data = Firings(seq, pos, feature, value)
    firings, wanted = ByFeature(data.where(order)), [0, 2, 3, 9]
    found = firings.of(wanted)
    shuffled = by_feature(data.where(order[::-1]), wanted)
    for index in wanted:
        mine = [(s, p) for f, s, p in sorted(places) if f == index]
        for some in (found[index], shuffled[index]):
            assert list(zip(some.seq.tolist(), some.pos.tolist(), strict=True)) == mine
    for whole in (False, True):
        chosen = [
            choose_contexts(some, FeatureId(FEATURE.site, index), cap=cap, seed=0, whole=whole)
            for index, some in found.items()
        ]
        assert firings.counts(wanted, cap=cap, whole=whole) == list(map(len, chosen))
