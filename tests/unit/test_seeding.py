"""Random draws are keyed by (seed, feature, purpose): no draw depends on which others are made."""

import numpy as np
import pytest

from circuitcli.core.effects import mean_effects
from circuitcli.core.seeding import PURPOSE_BOOTSTRAP, PURPOSE_CONTEXTS, PURPOSE_THINNING, generator
from circuitcli.core.selection import thin
from circuitcli.core.sites import FeatureId, Site

FEATURE = FeatureId(Site(2, "z"), 7)
OTHERS = [
    (1, FEATURE, PURPOSE_CONTEXTS),
    (0, FeatureId(Site(2, "z"), 8), PURPOSE_CONTEXTS),
    (0, FeatureId(Site(2, "attn_out"), 7), PURPOSE_CONTEXTS),
    (0, FeatureId(Site(3, "z"), 7), PURPOSE_CONTEXTS),
    (0, FEATURE, PURPOSE_THINNING),
    (0, FEATURE, PURPOSE_BOOTSTRAP),
]


def draw(seed: int, feature: FeatureId, purpose: int) -> list[float]:
    return generator(seed, feature, purpose).random(4).tolist()


@pytest.mark.parametrize("other", OTHERS)
def test_every_part_of_the_key_matters(other: tuple[int, FeatureId, int]) -> None:
    assert draw(*other) != draw(0, FEATURE, PURPOSE_CONTEXTS)


def test_a_draw_stays_the_same_from_version_to_version() -> None:
    """The key is spelled out here once more, so that a change of it, which would change every run, is noticed."""
    expected = np.random.default_rng([5, 2, 1, 7, 1]).random(4).tolist()
    assert draw(5, FEATURE, PURPOSE_CONTEXTS) == expected
    for name, number in (("resid_mid", 3), ("mlp_out", 4), ("resid_post", 5), ("mlp_in", 6)):
        expected = np.random.default_rng([5, 2, number, 7, 1]).random(4).tolist()
        assert draw(5, FeatureId(Site(2, name), 7), PURPOSE_CONTEXTS) == expected


def test_leaving_a_feature_out_changes_the_thinning_of_no_other() -> None:
    features = [FeatureId(Site(0, "z"), i) for i in range(200)]
    chosen = thin(features, 0.1, seed=3)
    for left_out in (*(f for f in features[::9] if f not in chosen), chosen[0]):
        rest = [f for f in features if f != left_out]
        kept = set(thin(rest, 20 / len(rest), seed=3))  # twenty again
        assert len(kept) == 20
        assert len(set(chosen) - kept) == (left_out == chosen[0])


def test_one_feature_more_changes_no_interval_of_another() -> None:
    rng = np.random.default_rng(0)
    effect = rng.normal(size=60)
    context, sequences = np.tile(np.arange(30), 2), np.arange(30) // 2
    target = np.repeat([0, 1], 30)
    both = mean_effects(context, target, effect, sequences, 2, seed=0, feature=FEATURE)
    alone = mean_effects(context[:30], target[:30], effect[:30], sequences, 1, seed=0, feature=FEATURE)
    assert alone.ci_low[0] == pytest.approx(both.ci_low[0], rel=1e-12)
    other = mean_effects(context, target, effect, sequences, 2, seed=1, feature=FEATURE)
    assert other.ci_low[0] != pytest.approx(both.ci_low[0], rel=1e-6)
