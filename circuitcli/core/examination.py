"""SAEs on trial: each as stated and with every change of `core.variants`, on a sample that the model reads once.

1.  The model reads the sample, unedited.
2.  The SAE as stated encodes it all; how many features fire decides which changes make sense.
3.  It and every change are tried on the first sequences. `full`: the next token is measured for every change; else
    only for those whose FVU leaves them undecided.
4.  The stated SAE and the changes that are still undecided (see `core.fit`) go on to the other sequences.
5.  The rule of `core.fit` judges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.fit import BETTER, Alternative, Fit, compare, judge, undecided
from circuitcli.core.model import Model
from circuitcli.core.reconstruction import Scores, Splicer, Text
from circuitcli.core.variants import Surroundings, Variant, variants

# Changes are tried on so many counted positions first, and on the rest of the sequence in which these end.
FIRST = 256


def _silent(count: int) -> None:
    pass


def sequences(counted: Int[np.ndarray, " n"], positions: int) -> int:
    """How many of the first sequences it takes for so many counted positions; all, if they have fewer."""
    return min(int(np.searchsorted(np.cumsum(counted), positions)) + 1, len(counted))


class Examiner:
    """A sample of text read by the model with and without BOS, on which SAEs are tried."""

    def __init__(
        self,
        model: Model,
        text: Text,
        bos: int | None,
        saes: Sequence[Dictionary],
        done: Callable[[int], None] = _silent,
    ) -> None:
        """Run the model; `bos` is its BOS token, if it has one; `done` is told how many more sequences were read."""
        self._model = model
        self._offsets = {s.reads: model.z_offset(s.reads.layer).to(s.w_enc.device) for s in saes}
        self._bos = None if bos is None else text.bos
        self._norms_subtract_mean = True  # until the stream is there; only sites matter now
        sites = {site for sae in saes for site in (sae.reads, *(r.sae.reads for r in self._variants(sae, 0.0)))}
        first = sequences(text.counted.sum(1).cpu().numpy(), FIRST)
        self.sequences, self.first = len(text), first
        self._splicer = Splicer(model, text, sorted(sites, key=lambda s: s.order), first=first)
        self._splicer.run(done)
        self._norms_subtract_mean = _subtracts_mean(model, self._splicer)
        own = sorted({sae.reads for sae in saes}, key=lambda s: s.order)
        self._flipped = None if bos is None else Splicer(model, text.flipped(bos, model.shape.n_ctx), own, first=first)

    def trials(self, saes: Sequence[Dictionary]) -> list[Trial]:
        """Each SAE, read as stated, and the changes that make sense for it."""
        stated = [Variant("stated", "as stated", sae) for sae in saes]
        encoded = self._splicer.score(stated, splice=False)
        return [Trial(self, e.variant, tuple(self._variants(e.variant.sae, float(e.active.mean())))) for e in encoded]

    def examine(self, sae: Dictionary, *, full: bool) -> Fit:
        """How one SAE fits."""
        return self.trials([sae])[0].examine(full=full)

    def tried(
        self,
        stated: Variant,
        changes: Sequence[Variant],
        *,
        few: bool,
        splice: bool,
        done: Callable[[int], None] = _silent,
    ) -> tuple[Scores, dict[Variant, Alternative]]:
        """Some changes, and the SAE as stated beside them."""
        here = [variant for variant in changes if not variant.flips_bos]
        before, *found = self._splicer.score([stated, *here], few=few, splice=splice, done=done)
        flipped = [variant for variant in changes if variant.flips_bos]
        if flipped:
            assert self._flipped is not None
            found += self._flipped.score(flipped, few=few, splice=splice, done=done)
        return before, {scores.variant: compare(before, scores) for scores in found}

    def _variants(self, sae: Dictionary, l0: float) -> list[Variant]:
        around = Surroundings(self._model.shape, self._norms_subtract_mean, self._offsets[sae.reads], self._bos, l0)
        return variants(sae, around)


@dataclass(frozen=True, eq=False)
class Trial:
    """One SAE and its variants, on the sample of an examiner."""

    examiner: Examiner
    stated: Variant
    changes: tuple[Variant, ...]

    @property
    def total(self) -> int:
        """What there is to do, in sequences of one variant; those that a change is spared count as done."""
        return self.examiner.sequences * (1 + len(self.changes))

    def examine(self, *, full: bool, done: Callable[[int], None] = _silent) -> Fit:
        """How the SAE fits; see the module's docstring."""
        told = 0

        def tell(count: int) -> None:
            nonlocal told
            count = min(count, self.total - told)
            told += count
            done(count)

        examiner, rest = self.examiner, self.examiner.sequences - self.examiner.first
        before, found = examiner.tried(self.stated, self.changes, few=True, splice=full, done=tell)
        going_on = [variant for variant in self.changes if self._goes_on(before, found[variant])]
        tell((rest if full else examiner.sequences) * (len(self.changes) - len(going_on)))
        whole, more = examiner.tried(self.stated, going_on, few=False, splice=True, done=tell)
        tell(self.total - told)
        found |= more
        return judge(whole, tuple(found[variant] for variant in self.changes))

    def _goes_on(self, before: Scores, tried: Alternative) -> bool:
        if self.examiner.first < self.examiner.sequences:
            return undecided(before, tried)
        return tried.fvu_ratio is not None and tried.fvu_ratio <= BETTER  # there is no more text: it has to be now


def _subtracts_mean(model: Model, splicer: Splicer) -> bool:
    """Whether the model's norms subtract the mean over d_model: a constant added to the stream changes no logit."""
    final = splicer.final
    clean, moved = model.logits(final), model.logits(final + final.std())
    return bool((moved - clean).abs().mean() < 0.1 * clean.std())
