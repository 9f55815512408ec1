"""Whether a dictionary fits the model that it is used on.

Measured at counted positions (≥ 1 of each sequence, no padding), in float32, whatever the model runs in:

    L0         mean number of features above 0
    FVU        Σ|y − ŷ|² / Σ|y − ȳ|²                       fraction of variance unexplained, ȳ the mean position
    CE         mean −log p(next token), nats: clean, spliced (ŷ in place of y), zero (0 in place of y; of a centred
               SAE, or one with an offset, too it is the model's whole activation that becomes 0)
    recovered  (CE zero − CE spliced) / (CE zero − CE clean), null where the divisor is below MEASURABLE nats
    KL         mean KL(clean ‖ spliced), and KL(clean ‖ zero), nats
    dead       share of features that never fired on the sample

y is what a dictionary reconstructs: of an SAE what it reads, x, and of a transcoder what is where it writes. Of a
cross-layer transcoder each dictionary is judged where it writes first, and ŷ is what all that write there say together;
L0 and dead are its own. A change is then made to all of them.

The rule compares the dictionary as stated with the same one read with one thing changed (`variants.CHANGES`), paired,
on the same tokens. A change fits *better* where all of these hold:

1.  FVU is at most BETTER times the stated one, at least GAIN below it, and below POOR, or it explains nothing itself.
2.  In QUANTILE of RESAMPLES bootstrap samples of sequences it is lower too (of fewer than FEW sequences their pieces
    are drawn), so that no accident of the sample makes a right SAE doubtful.
3.  The next token agrees: KL(clean ‖ spliced) is at most BETTER times the stated one; at another site that is
    KL spliced / KL zero of either. KL and not CE, because it is an expectation over all tokens: on 256 positions it
    tells what CE doesn't. Where KL zero is below MEASURABLE (an untrained model) FVU must do alone.
4.  L0 isn't implausible (above d_in / DENSE), unless the stated one is more so: what is dense reconstructs for nothing.

FVU alone would be misled both ways. Centring and LayerNorm give the decoder an exact mean or scale for nothing, which
is worth 1% of FVU on the demo; SAEs trained end to end have FVU above 1 and lose little of what the model says; the
last hook_z SAE of GPT-2 small has FVU 1.7. KL alone is misled where a site says little.

`wrong` is what is certain: a change halves (FAR) FVU and KL, FVU by FAR_GAIN at least; of a transcoder it takes a
quarter of both (FAR_ELSEWHERE), since a right one leaves .1 to .4 of an MLP's variance unexplained, to which a mistake
adds; or the reconstruction is worse than none twice over, FVU ≥ 1 and KL spliced ≥ KL zero (FVU ≥ HOPELESS where KL
can't be measured). `doubtful`: a change fits better, or the numbers are weak: FVU ≥ WEAK_FVU and KL spliced ≥ WEAK_KL ·
KL zero, or FVU ≥ 1 and half of that (FVU ≥ 1 alone where KL can't be measured); or one that is dead or dense, or too
little text. Else it `fits`.

A mistake that costs less than a twentieth of FVU isn't told. On the demo every one costs 9% or more, but for leaving
out LayerNorm at one site, where it is worth 5%.

That a skip connection is left out is told by fitting one (`core.left_out`). That helps a right transcoder too: on one
without it by a third of FVU in the demo's first layer. So it counts only where it halves FVU and KL, or where FVU is
WEAK_FVU or more; and it is named only where nothing else is as clearly better, since it mends a bit of every mistake.

Where norms subtract the mean over d_model, no next token says whether a transcoder writes it. So of that FVU decides
alone, by halves, as an exact mean is worth something to a right one too.

A change is tried on few sequences first, and goes on to the others only while it is `undecided`: the lower ends of the
bootstrap intervals of both ratios (1 − QUANTILE) still allow what the rule's first and third line ask for, and L0 isn't
beyond twice what the fourth allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from circuitcli.core.reconstruction import Scores
from circuitcli.core.variants import DENSE
from circuitcli.core.words import amount

BETTER, GAIN, POOR = 0.95, 0.01, 0.95
FAR, FAR_ELSEWHERE, FAR_GAIN = 0.5, 0.75, 0.1
QUANTILE, RESAMPLES, FEW = 0.995, 1000, 8
MEASURABLE = 0.01
HOPELESS, WEAK_FVU, WEAK_KL = 2.0, 0.5, 0.5
MIN_POSITIONS = 8

Verdict = Literal["fits", "doubtful", "wrong"]


@dataclass(frozen=True)
class Numbers:
    """What the module's docstring defines; None where it wasn't measured, or can't be."""

    l0: float
    fvu: float | None
    dead: float
    ce_clean: float | None = None
    ce_spliced: float | None = None
    ce_zero: float | None = None
    recovered: float | None = None
    kl_spliced: float | None = None
    kl_zero: float | None = None


@dataclass(frozen=True)
class Alternative:
    """One change to how an SAE is read.

    Attributes:
        name, words, site: Of the variant.
        fitted, unheard: Whether a part of it was fitted to the sample, and whether KL has no say; see the rule's end.
        positions: Tokens that both variants counted: of few sequences where these showed that it isn't better.
        numbers: On these.
        fvu_ratio: FVU over the stated one's.
        fvu_ratio_low, fvu_ratio_high: Its 1 − QUANTILE and QUANTILE over bootstrap samples.
        kl_ratio: KL spliced over the stated one's, see the rule's third line.
        kl_ratio_low: Its 1 − QUANTILE.
        better: Whether it fits better by all of the rule.
        far: Whether it does so by far.
    """

    name: str
    words: str
    site: str
    positions: int
    numbers: Numbers
    fvu_ratio: float | None
    fvu_ratio_low: float | None
    fvu_ratio_high: float | None
    kl_ratio: float | None
    kl_ratio_low: float | None
    better: bool
    far: bool
    fitted: bool = False
    unheard: bool = False


@dataclass(frozen=True)
class Fit:
    """How one dictionary fits.

    Attributes:
        site: Where it reads.
        positions, numbers: On how many it was measured, and what came out.
        verdict, why, change: By the module's rule, in words, and the name of the change that fits better.
        alternatives: The changes that were tried.
        kind: What such a dictionary is called.
        writes: Where it was judged.
        others: Where those read that write there too, and were counted in: of a cross-layer transcoder.
    """

    site: str
    positions: int
    numbers: Numbers
    verdict: Verdict
    why: str
    change: str | None
    alternatives: tuple[Alternative, ...]
    kind: str
    writes: str
    others: tuple[str, ...]


def numbers(scores: Scores, keep: Int[np.ndarray, " m"] | None = None) -> Numbers:
    """The numbers over some of the positions, or all."""
    kept = np.arange(len(scores.seq)) if keep is None else keep
    spread = float(scores.spread[kept].sum())
    found = Numbers(
        l0=float(scores.active[kept].mean()),
        fvu=float(scores.error[kept].sum()) / spread if spread > 0 else None,
        dead=scores.dead,
    )
    if scores.spliced is None or scores.zero is None or scores.clean is None:
        return found
    nats = (scores.clean, scores.spliced.nats, scores.zero.nats)
    clean, spliced, zero = (float(np.nanmean(n[kept])) if np.isfinite(n[kept]).any() else None for n in nats)
    recovered = None
    if clean is not None and spliced is not None and zero is not None and zero - clean >= MEASURABLE:
        recovered = (zero - spliced) / (zero - clean)
    return replace(
        found,
        ce_clean=clean,
        ce_spliced=spliced,
        ce_zero=zero,
        recovered=recovered,
        kl_spliced=float(scores.spliced.kl[kept].mean()),
        kl_zero=float(scores.zero.kl[kept].mean()),
    )


def compare(stated: Scores, other: Scores) -> Alternative:
    """A change against the SAE as stated, on the tokens that both counted."""
    here = {place: i for i, place in enumerate(zip(stated.seq.tolist(), stated.token.tolist(), strict=True))}
    places = zip(other.seq.tolist(), other.token.tolist(), strict=True)
    both = [(here[place], j) for j, place in enumerate(places) if place in here]
    mine, its = np.asarray(both, dtype=np.int64).reshape(-1, 2).T
    before, after = numbers(stated, mine), numbers(other, its)
    resampled = _Resampled(stated.seq[mine], stated.token[mine])
    ratio = low = high = None
    if before.fvu and after.fvu is not None:
        ratio = after.fvu / before.fvu
        low, high = resampled.interval((other.error[its], other.spread[its]), (stated.error[mine], stated.spread[mine]))
    kl_ratio = kl_low = None
    above, below = _next_token(stated, mine, other, its)
    if above is not None and below is not None:
        kl_ratio = float((above[0].sum() / above[1].sum()) / (below[0].sum() / below[1].sum()))
        kl_low, _ = resampled.interval(above, below)
    heard = None if other.variant.unheard else kl_ratio
    better = _better(before, after, ratio, high, heard, other.variant.stated.d_in)
    variant, fitted = other.variant, other.variant.lacking is not None
    bar = FAR if fitted or variant.unheard or not variant.stated.elsewhere else FAR_ELSEWHERE
    far = better and _far(before, after, ratio, heard, bar)
    if fitted or variant.unheard:
        better = far or (fitted and better and before.fvu is not None and before.fvu >= WEAK_FVU)
    return Alternative(
        variant.name, variant.words, str(variant.reads), len(mine), after, ratio, low, high, kl_ratio, kl_low,
        better=better, far=far, fitted=fitted, unheard=variant.unheard,
    )  # fmt: skip


def undecided(stated: Scores, tried: Alternative) -> bool:
    """Whether a change that was tried on few sequences could turn out better on more, by the end of the docstring."""
    if tried.fvu_ratio_low is None:
        return False
    most = 2 * max(stated.variant.stated.d_in / DENSE, numbers(stated).l0)
    kl = tried.unheard or tried.kl_ratio_low is None or tried.kl_ratio_low <= BETTER
    return tried.fvu_ratio_low <= BETTER and kl and tried.numbers.l0 <= most


_Sums = tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]  # what is added up above and below a line


def _next_token(
    stated: Scores, mine: Int[np.ndarray, " m"], other: Scores, its: Int[np.ndarray, " m"]
) -> tuple[_Sums | None, _Sums | None]:
    """What KL spliced is a share of in either: at another site of KL zero. None where one can't be measured."""
    if stated.spliced is None or stated.zero is None or other.spliced is None or other.zero is None or not len(mine):
        return None, None
    before, after = stated.spliced.kl[mine], other.spliced.kl[its]
    of_before, of_after = stated.zero.kl[mine], other.zero.kl[its]
    if before.mean() == 0 or min(of_before.mean(), of_after.mean()) < MEASURABLE:
        return None, None
    if stated.variant.writes == other.variant.writes:
        of_before = of_after = np.ones_like(before)
    return (after, of_after), (before, of_before)


class _Resampled:
    """Bootstrap samples of sequences (of pieces of them, if they are few)."""

    def __init__(self, seq: Int[np.ndarray, " m"], token: Int[np.ndarray, " m"]) -> None:
        few = len(np.unique(seq)) < FEW
        piece = token // max(1, len(seq) // (2 * FEW)) if few else np.zeros_like(token)
        _, unit = np.unique(np.stack([seq, piece]), axis=1, return_inverse=True)
        self._unit = unit.reshape(-1)
        self._count = int(self._unit.max()) + 1 if len(self._unit) else 0
        self._drawn = np.random.default_rng(0).integers(max(self._count, 1), size=(RESAMPLES, self._count))

    def interval(self, above: _Sums, below: _Sums) -> tuple[float, float]:
        """1 − QUANTILE and QUANTILE of (Σ/Σ above)/(Σ/Σ below)."""
        sums = [np.bincount(self._unit, part, self._count)[self._drawn].sum(1) for part in (*above, *below)]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = np.nan_to_num((sums[0] / sums[1]) / (sums[2] / sums[3]), nan=np.inf)
        low, high = np.quantile(ratios, [1 - QUANTILE, QUANTILE])
        return float(low), float(high)


def _better(
    before: Numbers, after: Numbers, ratio: float | None, high: float | None, kl_ratio: float | None, d_in: int
) -> bool:
    if ratio is None or high is None or before.fvu is None or after.fvu is None:
        return False
    clear = ratio <= BETTER and high < 1 and before.fvu - after.fvu >= GAIN and after.fvu < POOR
    sparse = after.l0 <= max(d_in / DENSE, before.l0)
    return clear and sparse and (kl_ratio is None or kl_ratio <= BETTER)


def _far(before: Numbers, after: Numbers, ratio: float | None, kl_ratio: float | None, bar: float) -> bool:
    assert ratio is not None and before.fvu is not None and after.fvu is not None
    return ratio <= bar and before.fvu - after.fvu >= FAR_GAIN and (kl_ratio is None or kl_ratio <= bar)


def judge(stated: Scores, found: tuple[Alternative, ...]) -> Fit:
    """The verdict by the module's rule."""
    measured = numbers(stated)
    best = _best([a for a in found if a.better])
    variant = stated.variant
    verdict, why = _verdict(measured, best, len(stated.seq), variant.stated.d_in)
    if variant.missing:  # what they say there is none of its error
        layers = ", ".join(map(str, variant.missing))
        measured = replace(measured, fvu=None, ce_spliced=None, recovered=None, kl_spliced=None)
        verdict, why = "doubtful", f"those that read in layers {layers} write there too, and aren't chosen"
    name, others = best.name if best else None, tuple(str(one.reads) for one in variant.others)
    return Fit(
        str(variant.reads), len(stated.seq), measured, verdict, why, name, found,
        kind=variant.kind, writes=str(variant.writes), others=others,
    )  # fmt: skip


def _best(better: Sequence[Alternative]) -> Alternative | None:
    """What is named: the one with the least FVU, but one that was fitted only before others that aren't far better."""
    read = [a for a in better if not a.fitted]
    fitted = [a for a in better if a.fitted and (a.far or not read)]
    chosen = read if any(a.far for a in read) or not fitted else fitted
    return min(chosen, key=lambda a: a.numbers.fvu or 0.0, default=None)


def _verdict(now: Numbers, best: Alternative | None, positions: int, d_in: int) -> tuple[Verdict, str]:
    if positions < MIN_POSITIONS or now.fvu is None:
        return (
            "doubtful",
            f"the text has {amount(positions, 'position')}, too few to tell",
        )
    share = None
    if now.kl_spliced is not None and now.kl_zero is not None and now.kl_zero >= MEASURABLE:
        share = now.kl_spliced / now.kl_zero
    said = "" if share is None else f", and splicing it in costs {share:.2f} times what zeroing the site costs"
    if best is not None:
        kind: Verdict = "wrong" if best.far else "doubtful"
        much = "far " if best.far else ""
        return kind, f"it fits {much}better {best.words}: FVU {best.numbers.fvu:.3f}, as stated {now.fvu:.3f}"
    if (now.fvu >= 1 and share is not None and share >= 1) or (share is None and now.fvu >= HOPELESS):
        return "wrong", f"its reconstruction is worse than none: FVU {now.fvu:.3f}{said}"
    bar = WEAK_KL if now.fvu < 1 else WEAK_KL / 2
    if now.fvu >= (1 if share is None else WEAK_FVU) and (share is None or share >= bar):
        return "doubtful", f"its reconstruction is poor: FVU {now.fvu:.3f}{said}"
    if now.dead == 1:
        return "doubtful", "no feature ever fires"
    if now.l0 > 2 * d_in / DENSE:
        return "doubtful", f"{now.l0:.0f} features fire at a position that has {d_in} dimensions"
    return "fits", f"FVU {now.fvu:.3f}"
