"""Rankings as they travel: the first in order, a bit for each of the others."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitcli.core.evidence.lineup import Packed, Ranking, Row, keep
from circuitcli.core.sites import Site
from circuitcli.stages.lines import Line, Sent

SITES = {Site(0, "resid_post"): 13, Site(1, "mlp_out"): 40, Site(2, "resid_post"): 1}


def made(seed: int, count: int) -> Ranking:
    """Some components of these sites in random order."""
    random = np.random.default_rng(seed)
    everything = [(place, index) for place, width in enumerate(SITES.values()) for index in range(width)]
    chosen = np.array(everything)[random.permutation(len(everything))[:count]].reshape(-1, 2)
    return Ranking(chosen[:, 0], chosen[:, 1], random.normal(size=count), SITES)


@given(st.integers(0, 9), st.integers(0, 54), st.integers(0, 54))
def test_the_first_stay_in_order_and_the_others_are_the_same(seed: int, count: int, first: int) -> None:
    ranking = made(seed, count)
    back = Packed.of(ranking, first).ranking()
    there, again = (list(zip(one.site.tolist(), one.index.tolist(), strict=True)) for one in (ranking, back))
    assert again[:first] == there[:first]
    assert sorted(again) == sorted(there)
    assert back.sites == SITES


@pytest.mark.parametrize(("kind", "size"), [("features", 12), ("neurons", 0), ("features", 40)])
def test_what_a_line_keeps_is_the_same_where_it_was_sent(kind: str, size: int) -> None:
    """Of every row: circuits and what is left of them, without or alone a node, also of all there is, nothing."""
    ranking = made(3, 40)
    rows = (
        *(Row("kept", part, n) for part in ("circuit", "complement") for n in (1, 7, 12, 40)),
        Row("kept", "without", 7, 3), Row("kept", "alone", 7, 6), Row("removed", "nothing", 0),
        *(Row("kept", part, size, node) for part in ("without", "alone") for node in range(size)),
    )  # fmt: skip
    line = Line("atp", kind, ranking, rows, 2, rows[:2])
    sent = Sent.of(line)
    assert len(sent.packed.index) == max(12, size), "no more than the largest whose order counts"
    back = sent.line()
    assert (back.curve, back.kind, back.rows, back.draw, back.found) == ("atp", kind, rows, 2, rows[:2])
    for site in SITES:
        assert keep(rows, back.ranks[site]).equal(keep(rows, line.ranks[site]))
