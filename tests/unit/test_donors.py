"""Donors of resample: each outside its context, all counted positions alike, and nobody else's draw has a say."""

from collections import Counter

import numpy as np
import pytest

from circuitcli.core.contexts import Firings
from circuitcli.core.donors import donors
from circuitcli.core.sites import Site
from circuitcli.errors import InputError

SITE = Site(1, "resid_post")
# Three sequences of 5, 3 and 4 positions; position 0 doesn't count, nor does a special token in the last.
COUNTED = np.array([[0, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 1, 0, 1, 0]], bool)
PLACES = [(int(s), int(p)) for s, p in np.argwhere(COUNTED)]
# Feature 7 says 10·sequence + position wherever it counts, feature 9 fires at one position alone.
WHOLE = Firings(
    np.array([s for s, _ in PLACES] + [2], np.int32),
    np.array([p for _, p in PLACES] + [3], np.int32),
    np.array([7] * len(PLACES) + [9], np.int32),
    np.array([10 * s + p for s, p in PLACES] + [0.5], np.float32),
)


def contexts(*rows: tuple[int, int, int]) -> Firings:
    seq, pos, feature = np.array(rows, np.int32).reshape(-1, 3).T
    return Firings(seq, pos, feature, np.ones(len(rows), np.float32))


def draw(*rows: tuple[int, int, int], seed: int = 0) -> list[float]:
    return donors(SITE, contexts(*rows), WHOLE, COUNTED, seed).tolist()


@pytest.mark.parametrize("place", PLACES)
def test_every_other_counted_position_has_the_same_chance(place: tuple[int, int]) -> None:
    found = Counter(draw((*place, 7), seed=seed)[0] for seed in range(700))
    others = {10 * s + p for s, p in PLACES if (s, p) != place}
    assert set(found) == others
    assert all(60 <= count <= 145 for count in found.values()), found  # 100 each, give or take four deviations


@pytest.mark.parametrize("seq", [0, 1, 2])
def test_of_a_whole_sequence_donors_are_in_the_others(seq: int) -> None:
    found = {draw((seq, -1, 7), seed=seed)[0] for seed in range(200)}
    assert found == {10 * s + p for s, p in PLACES if s != seq}


def test_zeros_are_drawn_as_often_as_they_are() -> None:
    found = [draw((0, 1, 9), seed=seed)[0] for seed in range(700)]
    assert set(found) == {0.0, 0.5}
    assert 60 <= found.count(0.5) <= 145
    assert draw((2, 3, 9)) == [0.0], "it fires nowhere else"


def test_other_contexts_and_their_order_change_nothing() -> None:
    rows = [(*place, 7) for place in PLACES] + [(0, 1, 9), (1, -1, 7)]
    whole = draw(*rows)
    assert draw(*reversed(rows)) == whole[::-1]
    assert [draw(row)[0] for row in rows] == whole
    assert draw(*rows, seed=1) != whole


def test_a_text_without_another_position_is_refused() -> None:
    alone = COUNTED & (np.arange(3)[:, None] == 1)
    assert donors(SITE, contexts((1, 1, 7)), WHOLE, alone, 0).tolist() == [12.0]
    with pytest.raises(InputError, match="All positions of the text lie in sequence 1"):
        donors(SITE, contexts((1, -1, 7)), WHOLE, alone, 0)
