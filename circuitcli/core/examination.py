"""Dictionaries on trial: as stated and with every change of `core.variants`, on a sample that the model reads once.

1.  The model reads the sample, unedited.
2.  The dictionary as stated encodes it all; how many features fire decides which changes make sense.
3.  It and every change are tried on the first sequences. `full`: the next token is measured for every change; else
    only for those whose FVU leaves them undecided.
4.  The stated one and the changes that are still undecided (see `core.fit`) go on to the other sequences.
5.  The rule of `core.fit` judges.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.fit import BETTER, Alternative, Fit, compare, judge, undecided
from circuitcli.core.model import Model, NormWeights
from circuitcli.core.reading import Variant
from circuitcli.core.reconstruction import Scores, Splicer, Text
from circuitcli.core.sites import Site
from circuitcli.core.surroundings import Surroundings
from circuitcli.core.variants import variants
from circuitcli.errors import InputError

# Changes are tried on so many counted positions first, and on the rest of the sequence in which these end.
FIRST = 256


def _silent(count: int) -> None:
    pass


def sequences(counted: Int[np.ndarray, " n"], positions: int) -> int:
    """How many of the first sequences it takes for so many counted positions; all, if they have fewer."""
    return min(int(np.searchsorted(np.cumsum(counted), positions)) + 1, len(counted))


class Examiner:
    """A sample of text read by the model with and without BOS, on which dictionaries are tried."""

    def __init__(
        self,
        model: Model,
        text: Text,
        bos: int | None,
        saes: Sequence[Dictionary],
        done: Callable[[int], None] = _silent,
        normalized: Collection[Site] = (),
    ) -> None:
        """Run the model.

        Args:
            model: The model.
            text: The sample.
            bos: The model's BOS token, if it has one.
            saes: All that will be tried, and all that write where these do.
            done: Is told how many more sequences were read.
            normalized: Where those read that read a norm's output without its weights.
        """
        self._model = model
        self._saes = saes
        self._normalized = normalized
        self._offsets = {s.reads: model.z_offset(s.reads.layer).to(s.b_enc.device) for s in saes}
        self._norms: dict[int, NormWeights | None] = {}
        self._l0: dict[Site, float] = {}
        self._bos = None if bos is None else text.bos
        self._norms_subtract_mean = True  # until the stream is there; only sites matter now
        stated = [self._stated(sae) for sae in saes]
        own = _sites(stated)
        tried = [change for variant in stated for change in variants(variant, self._around)]
        first = sequences(text.counted.sum(1).cpu().numpy(), FIRST)
        self.sequences, self.first = len(text), first
        self._splicer = Splicer(model, text, _ordered({*own, *_sites(tried)}), first=first)
        self._splicer.run(done)
        self._norms_subtract_mean = _subtracts_mean(model, self._splicer)
        self._flipped = (
            None if bos is None else Splicer(model, text.flipped(bos, model.shape.n_ctx), _ordered(own), first=first)
        )

    def trials(self, saes: Sequence[Dictionary]) -> list[Trial]:
        """Each dictionary, read as stated, and the changes that make sense for it."""
        encoded = self._splicer.score([self._stated(sae) for sae in saes], splice=False)
        self._l0 |= {scores.variant.reads: float(scores.active.mean()) for scores in encoded}
        return [Trial(self, e.variant, self._changes(e.variant)) for e in encoded]

    def examine(self, sae: Dictionary, *, full: bool) -> Fit:
        """How one dictionary fits."""
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
        """Some changes, and the dictionary as stated beside them."""
        here = [variant for variant in changes if not variant.flips_bos]
        before, *found = self._splicer.score([stated, *here], few=few, splice=splice, done=done)
        flipped = [variant for variant in changes if variant.flips_bos]
        if flipped:
            assert self._flipped is not None
            found += self._flipped.score(flipped, few=few, splice=splice, done=done)
        return before, {scores.variant: compare(before, scores) for scores in found}

    def _stated(self, sae: Dictionary) -> Variant:
        """As its files state it, with those of other layers that write where it writes first."""
        others = [one for one in self._saes if one is not sae and any(d.site == sae.writes for d in one.further)]
        return Variant("stated", "as stated", sae, tuple(others))

    def _changes(self, stated: Variant) -> tuple[Variant, ...]:
        return () if stated.missing else tuple(variants(stated, self._around))

    def _around(self, sae: Dictionary) -> Surroundings:
        reads = sae.reads
        return Surroundings(
            shape=self._model.shape,
            norms_subtract_mean=self._norms_subtract_mean,
            z_offset=self._offsets[reads],
            bos=self._bos,
            l0=self._l0.get(reads, 0.0),
            norm=self._norm,
            normalized=sae.elsewhere and reads in self._normalized,
        )

    def _norm(self, layer: int) -> NormWeights | None:
        if layer not in self._norms:
            try:
                self._norms[layer] = self._model.norm_weights(layer)
            except InputError:  # its MLPs read the stream as it is: no reading of it lacks a norm's weights
                self._norms[layer] = None
        return self._norms[layer]


def _sites(tried: Sequence[Variant]) -> set[Site]:
    return {site for variant in tried for site in (variant.reads, variant.writes)}


def _ordered(sites: Collection[Site]) -> list[Site]:
    return sorted(sites, key=lambda site: site.order)


@dataclass(frozen=True, eq=False)
class Trial:
    """One dictionary and its variants, on the sample of an examiner."""

    examiner: Examiner
    stated: Variant
    changes: tuple[Variant, ...]

    @property
    def total(self) -> int:
        """What there is to do, in sequences of one variant; those that a change is spared count as done."""
        return self.examiner.sequences * (1 + len(self.changes))

    def examine(self, *, full: bool, done: Callable[[int], None] = _silent) -> Fit:
        """How the dictionary fits; see the module's docstring."""
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
