"""How much of what a model does some features do: numbers from the metric m of each example.

Of examples e, with m_e(C) where C alone is kept, m_e(∅) where nothing is and m_e(M) of the whole model:

    f(C)      (mean m(C) − mean m(∅)) / (mean m(M) − mean m(∅))        a ratio of means, not a mean of ratios
    complete  f(M∖C)                                                   how much is left without C
    share v   (mean m(C) − mean m(C∖v)) / (mean m(M) − mean m(∅))      what v adds to the others of C
    CPR       ∫ f dp,  CMD  ∫ |1 − f| dp                               by the trapezoid rule over shares p of components

f and completeness are those of sparse feature circuits (Marks et al. 2024). CPR and CMD are those of MIB (Mueller et
al. 2025), which scores heads and MLPs: over features of dictionaries they are analogues, and no leaderboard's numbers.
f isn't bounded: it is above 1 where what lies outside C works against the metric, below 0 where C does.

Every interval is the 95% percentile interval of a bootstrap (Efron 1979) over examples, which are drawn jointly for all
that is compared: the difference of two f's is paired. Where a set was drawn at random several times, the draws are
resampled as well.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.core.attributed import Measure
from circuitcli.core.calibration import FEWEST, measure
from circuitcli.core.seeding import PURPOSE_BOOTSTRAP

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Float, Int

    Each = Float[np.ndarray, " e"]
    Resampled = Float[np.ndarray, " r"]  # the value itself, then what it is in each resample

RESAMPLES = 1000
LEAST_RESAMPLES = 200  # of very many examples, whose intervals are narrow
_DRAWN = 20_000_000  # examples drawn in all resamples, where that isn't fewer
SIGNIFICANT = 0.05  # of q
SIGNS = 9_999  # patterns of signs; all 2^n of them where these are no more
_CONSTANT = 1e-12  # a difference below this share of what it is taken of is 0 but for rounding
_VALUES = 2**22  # numbers held at once by a test
# MIB's shares of all components.
FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class Scale:
    """From nothing to everything on some examples: what makes a share of m's.

    Attributes:
        nothing: m_e(∅).
        everything: m_e(M).
        times: How often each example was drawn: first once each, then as a bootstrap draws.
        seed: Of all resampling.
    """

    nothing: Each
    everything: Each
    times: Float[np.ndarray, "r e"]
    seed: int

    @classmethod
    def of(cls, nothing: Each, everything: Each, seed: int) -> Scale:
        """The scale of at least one example. The draws are the same for the same number of examples."""
        n = len(nothing)
        count = min(RESAMPLES, max(LEAST_RESAMPLES, _DRAWN // n)) if n >= FEWEST else 0
        drawn = np.random.default_rng([seed, PURPOSE_BOOTSTRAP]).multinomial(n, np.full(n, 1 / n), size=count)
        return cls(nothing, everything, np.concatenate([np.ones((1, n)), drawn]), seed)

    @property
    def whole(self) -> Resampled:
        """Σ m(M) − m(∅); NaN where that is 0 but for rounding."""
        span = self.times @ (self.everything - self.nothing)
        size = self.times @ (abs(self.everything) + abs(self.nothing))
        return np.where(abs(span) > _CONSTANT * size, span, np.nan)

    @property
    def doubtful(self) -> bool:
        """Whether the interval of mean m(M) − mean m(∅) holds 0: shares mean little then."""
        span = measured(self.times @ (self.everything - self.nothing))
        return span.low is not None and span.high is not None and span.low <= 0 <= span.high

    def faithfulness(self, m: Float[np.ndarray, "d e"]) -> Resampled:
        """Of a set of features, from m of each draw of it (one, where nothing is drawn) on each example."""
        return np.asarray(self._sum(m, self.nothing) / self.whole)

    def marginal(self, m: Each, without: Float[np.ndarray, "k e"]) -> Float[np.ndarray, "r k"]:
        """The share of each of k nodes: what the set that has m loses without it."""
        lost = self.times @ (m - without).T
        return np.asarray(lost / self.whole[:, None])

    def _sum(self, m: Float[np.ndarray, "d e"], less: Each) -> Resampled:
        draws, resamples = len(m), len(self.times)
        if draws == 1:
            return np.asarray(self.times @ (m[0] - less))
        drawn = np.random.default_rng([self.seed, PURPOSE_BOOTSTRAP, draws])
        often = drawn.multinomial(draws, np.full(draws, 1 / draws), size=resamples) / draws
        often[0] = 1 / draws
        return np.asarray((self.times * (often @ m - less)).sum(1))


def measured(values: Resampled) -> Measure:
    """A number with its 95% interval; None where it isn't defined, as where m(M) = m(∅)."""
    return measure(float(values[0]), values[1:])


def areas(f: Float[np.ndarray, "10 r"]) -> tuple[Resampled, Resampled]:
    """CPR and CMD, or their analogues, of f at `FRACTIONS` of all components: f ≡ 1 gives .999 and 0.

    MIB ranks by signed scores for CPR, by absolute ones for CMD: see `ranked`.
    """
    return np.trapezoid(f, FRACTIONS, axis=0), np.trapezoid(abs(1 - f), FRACTIONS, axis=0)


def sizes(scored: int) -> list[int]:
    """How many components each of `FRACTIONS` is of so many that have a score, as MIB counts: int(p · scored)."""
    return [int(share * scored) for share in FRACTIONS]


def ranked(scores: Float[np.ndarray, " k"], *, signed: bool) -> Int[np.ndarray, " k"]:
    """Components from the highest score to the lowest, or by size; those that tie in their own order.

    A score says how much a component adds to m: of an effect, replaced − clean, it is the negative.
    """
    return np.argsort(-(scores if signed else abs(scores)), kind="stable")


def sign_flip(differences: Float[np.ndarray, "k e"], seed: int) -> Float[np.ndarray, " k"]:
    """Two-sided p-values of each row's mean being 0, were the sign of each of its examples a coin's.

    Where there are at most 2^13 patterns of signs all are tried, else 9,999 random ones, the same for all rows.
    """
    from scipy import stats

    k, n = differences.shape
    if n == 1:  # which SciPy refuses: both patterns are as far from 0
        return np.ones(k)
    found = [np.empty(0)]
    for start in range(0, k, 1000):
        part = differences[start : start + 1000]
        # The signs are what is permuted, of a sample of ones: one pattern serves all rows.
        tested = stats.permutation_test(
            (np.ones(n),),
            lambda signs, axis, part=part: signs @ part.T / n,
            permutation_type="samples",
            vectorized=True,
            n_resamples=SIGNS,
            batch=max(1, _VALUES // max(n, len(part))),
            rng=np.random.default_rng([seed, PURPOSE_BOOTSTRAP, 0]),
        )
        found.append(np.atleast_1d(tested.pvalue))
    return np.concatenate(found)


def false_discovery(p: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """q: the smallest share of false discoveries at which each is one (Benjamini & Hochberg 1995)."""
    from scipy import stats

    return np.asarray(stats.false_discovery_control(p)) if len(p) else p
