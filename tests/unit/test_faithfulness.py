"""Numbers of a validation from the metric of each example: by hand, beside SciPy, and by laws."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from circuitcli.core.evidence import faithfulness
from circuitcli.core.evidence.faithfulness import FRACTIONS, Scale, areas, measured
from circuitcli.core.evidence.measured import Incomplete, Measured

EVERYTHING, NOTHING = np.asarray([2.0, 4.0, 9.0]), np.asarray([0.0, 1.0, 5.0])


def random_examples(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """m of nothing, of a set, and of everything, on n examples."""
    draw = np.random.default_rng(seed)
    nothing, share = draw.normal(-4, 1, n), draw.uniform(0.3, 0.9, n)
    everything = nothing + draw.gamma(4, 0.5, n)
    return nothing, nothing + share * (everything - nothing), everything


def test_faithfulness_is_a_ratio_of_means_by_hand():
    """Sparse feature circuits' formula: (mean m(C) − mean m(∅)) / (mean m(M) − mean m(∅)); of M∖C completeness."""
    scale = Scale.of(NOTHING, EVERYTHING, seed=0)
    kept, rest = np.asarray([[1.0, 4.0, 6.0]]), np.asarray([[0.5, 1.0, 5.4]])
    # means: m(C) 11/3, m(∅) 2, m(M) 5, m(M∖C) 2.3; the mean of ratios would be (1/2 + 1 + 1/4) / 3 = 7/12
    assert measured(scale.faithfulness(kept)).value == pytest.approx((11 / 3 - 2) / 3)
    assert measured(scale.faithfulness(rest)).value == pytest.approx(0.1)
    assert measured(scale.faithfulness(kept)).low is None, "three examples have no interval"


def test_shares_of_nodes_by_hand():
    scale = Scale.of(NOTHING, EVERYTHING, seed=0)
    kept, without = np.asarray([1.0, 4.0, 7.0]), np.asarray([[1.0, 1.0, 7.0], [1.0, 4.0, 7.0], [2.0, 4.0, 9.0]])
    np.testing.assert_allclose(scale.marginal(kept, without)[0], [3 / 9, 0, -3 / 9])


@pytest.mark.parametrize("n", [5, 30, 200])
def test_intervals_are_those_of_scipy(n: int):
    """The percentile bootstrap over examples that are drawn jointly, of f and of the difference of two."""
    nothing, kept, everything = random_examples(n)
    other = kept - np.random.default_rng(1).normal(0.3, 0.3, n)
    scale = Scale.of(nothing, everything, seed=3)

    def f(c: Any, o: Any, e: Any, axis: int = -1) -> Any:
        return (c.mean(axis) - o.mean(axis)) / (e.mean(axis) - o.mean(axis))

    def difference(a: Any, b: Any, o: Any, e: Any, axis: int = -1) -> Any:
        return f(a, o, e, axis) - f(b, o, e, axis)

    ours = scale.faithfulness(kept[None]), scale.faithfulness(kept[None]) - scale.faithfulness(other[None])
    for found, statistic, data in (
        (ours[0], f, (kept, nothing, everything)),
        (ours[1], difference, (kept, other, nothing, everything)),
    ):
        options = {"paired": True, "vectorized": True, "method": "percentile", "n_resamples": 20_000}
        expected = stats.bootstrap(data, statistic, **options, rng=np.random.default_rng(5)).confidence_interval
        told = measured(found)
        assert told.value == pytest.approx(statistic(*data))
        assert told.low is not None
        assert told.high is not None
        width = expected.high - expected.low
        assert (told.low, told.high) == pytest.approx((expected.low, expected.high), abs=0.12 * width)


def test_a_paired_difference_is_narrower_than_two_intervals():
    """Examples differ much, the two sets on each of them little: that one is above the other is still told."""
    nothing, kept, everything = random_examples(40)
    scale = Scale.of(nothing, everything, seed=0)
    less = kept - np.random.default_rng(2).uniform(0.02, 0.08, 40)
    one, other = (measured(scale.faithfulness(m[None])) for m in (kept, less))
    above = measured(scale.faithfulness(kept[None]) - scale.faithfulness(less[None]))
    assert one.low is not None
    assert other.high is not None
    assert above.low is not None
    assert one.low < other.high
    assert above.low > 0


def test_draws_are_means_and_are_resampled():
    nothing, kept, everything = random_examples(30)
    scale = Scale.of(nothing, everything, seed=0)
    same = scale.faithfulness(np.stack([kept] * 4))
    np.testing.assert_allclose(same, scale.faithfulness(kept[None]), rtol=1e-9)
    shifts = np.asarray([-1.0, -0.5, 0.5, 1.0])[:, None]
    apart = measured(scale.faithfulness(kept + shifts))
    assert apart.value == pytest.approx(same[0])
    one = measured(same)
    assert apart.high - apart.low > 1.5 * (one.high - one.low)  # type: ignore[operator]


def test_what_is_not_defined_is_none_and_what_is_doubtful_is_said():
    nothing, kept, everything = random_examples(30)
    flat = Scale.of(nothing, nothing.copy(), seed=0)
    assert measured(flat.faithfulness(kept[None])).value is None
    noise = np.random.default_rng(0).normal(0, 1, 30)
    assert Scale.of(nothing, nothing + noise - noise.mean() + 0.01, seed=0).doubtful
    assert not Scale.of(nothing, everything, seed=0).doubtful


values = st.lists(st.integers(-1000, 1000).map(lambda i: i / 100), min_size=7, max_size=7).map(np.asarray)


@settings(max_examples=60, deadline=None)
@given(values, values, values, st.sampled_from([-3.0, 0.25, 7.0]), st.sampled_from([-2.0, 0.0, 11.0]))
def test_laws(nothing: np.ndarray, kept: np.ndarray, everything: np.ndarray, a: float, b: float):
    """f(∅) = 0, f(M) = 1, f(C) + what f(M) has above it = 1; and m → a·m + b changes no share and no p."""
    scale, other = Scale.of(nothing, everything, seed=0), Scale.of(a * nothing + b, a * everything + b, seed=0)
    defined = np.isfinite(scale.whole)
    if abs(everything.sum() - nothing.sum()) < 1e-3:
        return
    np.testing.assert_allclose(scale.faithfulness(nothing[None])[defined], 0, atol=1e-9)
    np.testing.assert_allclose(scale.faithfulness(everything[None])[defined], 1, rtol=1e-9)
    f, moved = scale.faithfulness(kept[None]), other.faithfulness(a * kept[None] + b)
    assert moved[0] == pytest.approx(f[0], rel=1e-6, abs=1e-6)
    back = scale.marginal(everything, kept[None])[:, 0]
    np.testing.assert_allclose((f + back)[defined], 1, rtol=1e-6, atol=1e-6)
    p = faithfulness.sign_flip((kept - nothing)[None], seed=0)
    np.testing.assert_allclose(faithfulness.sign_flip(a * (kept - nothing)[None], seed=0), p)


def test_cpr_and_cmd_by_hand():
    """An additive model of ten components: m is the sum of the scores of what is kept, −3 − 1 of them negative."""
    scores = np.asarray([1.0, -3.0, 4.0, 2.0, 0.5, -1.0, 5.0, 0.0, 1.0, 0.5])
    assert faithfulness.sizes(10) == [0, 0, 0, 0, 0, 0, 1, 2, 5, 10]
    assert faithfulness.sizes(150) == [0, 0, 0, 1, 3, 7, 15, 30, 75, 150]
    signed, absolute = (faithfulness.ranked(scores, signed=signed) for signed in (True, False))
    assert signed.tolist() == [6, 2, 3, 0, 8, 4, 9, 7, 5, 1]
    assert absolute.tolist() == [6, 2, 1, 3, 0, 5, 8, 4, 9, 7]
    f = [np.asarray([[scores[order[:n]].sum() / 10] for n in faithfulness.sizes(10)]) for order in (signed, absolute)]
    assert f[0].ravel().tolist() == [0, 0, 0, 0, 0, 0, 0.5, 0.9, 1.3, 1.0]
    assert f[1].ravel().tolist() == [0, 0, 0, 0, 0, 0, 0.5, 0.9, 0.9, 1.0]
    # CPR, signed: from .05 to .1: .05·.25, to .2: .1·.7, to .5: .3·1.1, to 1: .5·1.15
    assert areas(f[0])[0] == pytest.approx(0.0125 + 0.07 + 0.33 + 0.575)
    # CMD, absolute: |1 − f| is 1 up to .05, .5, .1, .1, 0: .049 + .05·.75 + .1·.3 + .3·.1 + .5·.05
    assert areas(f[1])[1] == pytest.approx(0.049 + 0.0375 + 0.03 + 0.03 + 0.025)


def test_areas_of_constants_and_of_the_diagonal():
    ones, line = np.ones((10, 1)), np.asarray(FRACTIONS)[:, None]
    assert [float(area[0]) for area in areas(ones)] == pytest.approx([0.999, 0.0])
    assert [float(area[0]) for area in areas(0 * ones)] == pytest.approx([0.0, 0.999])
    assert [float(area[0]) for area in areas(line)] == pytest.approx([(1 - 1e-6) / 2, 0.999 - (1 - 1e-6) / 2])


def test_p_values_are_exact_where_examples_are_few():
    """All 2^n patterns of signs, one by one."""
    draw = np.random.default_rng(0)
    differences = np.concatenate([draw.normal(0.6, 1, (4, 9)), np.zeros((1, 9)), np.ones((1, 9))])
    found = faithfulness.sign_flip(differences, seed=0)
    for row, p in zip(differences, found, strict=True):
        means = [np.mean(row * signs) for signs in itertools.product((1, -1), repeat=9)]
        expected = np.mean([abs(mean) >= abs(row.mean()) - 1e-12 for mean in means])
        assert p == pytest.approx(expected)
    assert found[-2:].tolist() == [1.0, 2 / 2**9]


def test_p_values_of_many_examples_are_scipys():
    draw = np.random.default_rng(1)
    differences = draw.normal(np.linspace(0, 0.4, 5)[:, None], 1, (5, 60))
    found = faithfulness.sign_flip(differences, seed=0)
    expected = [stats.ttest_1samp(row, 0).pvalue for row in differences]
    np.testing.assert_allclose(found, expected, atol=0.02)
    many = np.concatenate([differences, draw.normal(0, 1, (2500, 60))])
    p = faithfulness.sign_flip(many, seed=0)
    assert p[:5].tolist() == found.tolist(), "a node's p doesn't depend on the others"
    assert np.mean(p[5:] < 0.05) == pytest.approx(0.05, abs=0.02)


def test_false_discoveries_by_hand():
    assert faithfulness.false_discovery(np.asarray([0.5, 0.01, 0.03, 0.02])).tolist() == pytest.approx(
        [0.5, 0.04, 0.04, 0.04]
    )
    assert not len(faithfulness.false_discovery(np.empty(0)))
    assert not len(faithfulness.sign_flip(np.empty((0, 4)), seed=0))
    assert faithfulness.sign_flip(np.array([[0.3], [-2.0]]), seed=0).tolist() == [1, 1]


def rows(*groups: tuple[str, str, str, int, str, int, int, list[float]]) -> dict[str, np.ndarray]:
    """Columns of validation.parquet, a group a tuple: half, errors, curve, draw, part, n, node, m of each example."""
    found = []
    for half, errors, curve, draw, part, n, node, m in groups:
        first = 0 if half == "discovery" else 2
        found += [(half, first + i, curve, draw, errors, part, n, node, value) for i, value in enumerate(m)]
    names = ("half", "example", "curve", "draw", "errors", "part", "n", "node", "m")
    columns = zip(*found, strict=True)
    return {
        name: np.asarray(column, object if isinstance(column[0], str) else None)
        for name, column in zip(names, columns, strict=True)
    }


TABLE = rows(
    ("discovery", "kept", "", 0, "everything", 9, -1, [1.0, 2.0]),
    ("discovery", "kept", "", 0, "nothing", 0, -1, [0.0, 0.0]),
    ("evaluation", "kept", "", 0, "everything", 9, -1, [1.0, 2.0, 3.0]),
    ("evaluation", "kept", "", 0, "nothing", 0, -1, [0.0, 0.5, 0.0]),
    ("evaluation", "removed", "", 0, "nothing", 0, -1, [-1.0, 0.5, 0.0]),
    ("evaluation", "kept", "neurons", 0, "nothing", 0, -1, [0.25, 0.5, 0.0]),
    ("evaluation", "kept", "circuit", 0, "circuit", 2, -1, [0.5, 1.0, 2.0]),
    ("evaluation", "removed", "circuit", 0, "circuit", 2, -1, [0.1, 0.2, 0.3]),
    ("evaluation", "kept", "circuit", 0, "without", 2, 1, [0.4, 1.0, 2.0]),
    ("evaluation", "kept", "circuit", 0, "without", 2, 0, [0.1, 0.2, 0.3]),
    ("evaluation", "kept", "random", 0, "circuit", 2, -1, [0.0, 0.1, 0.2]),
    ("evaluation", "kept", "random", 1, "circuit", 2, -1, [0.2, 0.3, 0.4]),
)


def test_measured_values_are_found_by_what_they_are_of():
    """Whatever the order of the rows."""
    order = np.random.default_rng(0).permutation(len(TABLE["m"]))
    for table in (TABLE, {name: column[order] for name, column in TABLE.items()}):
        found = Measured.of(table, seed=0)
        assert found.variants == [("evaluation", "kept"), ("evaluation", "removed")]
        assert found.curves == ("circuit", "random")
        assert found.subject == ("circuit", 2)
        draws = found.m("evaluation", "kept", "random", 2)
        assert draws is not None
        assert draws.tolist() == [[0.0, 0.1, 0.2], [0.2, 0.3, 0.4]]
        nodes = found.nodes("evaluation", "kept", "without")
        assert nodes is not None
        assert (*nodes[:2], nodes[2].tolist()) == ("circuit", 2, [0, 1])
        assert nodes[3].tolist() == [[0.1, 0.2, 0.3], [0.4, 1.0, 2.0]]
        assert found.m("discovery", "kept", "circuit", 2) is None
        assert found.nodes("discovery", "kept", "without") is None


def test_each_variant_and_kind_of_component_has_its_own_nothing_and_all_have_the_model():
    found = Measured.of(TABLE, seed=0)
    for errors, curve, nothing in (
        ("kept", "circuit", [0.0, 0.5, 0.0]),
        ("kept", "random", [0.0, 0.5, 0.0]),
        ("removed", "circuit", [-1.0, 0.5, 0.0]),
        ("kept", "neurons", [0.25, 0.5, 0.0]),
    ):
        scale = found.scale("evaluation", errors, curve)
        assert scale is not None
        assert scale.nothing.tolist() == nothing
        assert scale.everything.tolist() == [1.0, 2.0, 3.0]
    assert found.scale("evaluation", "removed", "neurons") is None


def test_a_table_that_lacks_an_example_is_refused():
    for index in (3, 5, len(TABLE["m"]) - 1):
        with pytest.raises(Incomplete, match=r"every (discovery|evaluation) example"):
            Measured.of({name: np.delete(column, index) for name, column in TABLE.items()}, seed=0)
