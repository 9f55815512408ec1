"""What a whole run would take, before anything of it is there: the model and SAEs are loaded, a little is computed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from circuitcli.core import flops
from circuitcli.core.contexts import Firings
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.model import Model
from circuitcli.core.sampling import Sample
from circuitcli.core.sites import Site, last_block, resolve_pins
from circuitcli.core.words import amount
from circuitcli.errors import InputError
from circuitcli.runtime.device import Runtime
from circuitcli.saes import SaeEntry
from circuitcli.stages import start as starting
from circuitcli.stages.estimate import Estimate, Named, count, estimate, most_contexts
from circuitcli.stages.firings import firings_in
from circuitcli.stages.inputs import note_slowness
from circuitcli.stages.passes import Passes
from circuitcli.stages.sequences import Say, hushed, read_sample
from circuitcli.stages.spreading import shard_features
from circuitcli.stages.stage import Job
from circuitcli.stages.subject import Subject, chosen


@dataclass(frozen=True)
class Preview:
    """What caching activations and ablating would take."""

    sequences: int
    tokens: int
    cache_seconds: float
    ablate: Estimate

    @property
    def words(self) -> Sequence[str]:
        """A line for each stage."""
        return (
            f"cache-acts: {amount(self.sequences, 'sequence')} of together {amount(self.tokens, 'token')}, about "
            f"{self.cache_seconds:.0f} s.",
            self.ablate.words,
        )


class Uncached(Passes):
    """Sequences whose activations aren't kept yet: what fires is computed, in the first block of them."""

    def __init__(self, subject: Subject, say: Say) -> None:
        """Nothing is read yet; `say` is told what is to be known of the text."""
        super().__init__(subject.entries)
        self._subject, self._say = subject, say
        self._firings: dict[Site, Firings] = {}
        self.seconds: dict[Site, float] = {}  # that caching a token of a site took, the model with it

    @property
    def runtime(self) -> Runtime:
        """The subject's."""
        return self._subject.tools.runtime

    @cached_property
    def model(self) -> Model:
        """The subject's."""
        note_slowness(self._subject.tools, self._subject.model, self.sample)
        return self._subject.model

    def load(self, entry: SaeEntry) -> Dictionary:
        """One of the subject's."""
        return self._subject.sae(entry, decoder=False)

    @cached_property
    def sample(self) -> Sample:
        """The sequences that count."""
        return self.whole.first(self._subject.tools.settings.texts.num_sequences)

    @cached_property
    def whole(self) -> Sample:
        """All sequences, those for contexts alone among them."""
        return read_sample(self._subject, self._say)

    @property
    def next_tokens(self) -> None:
        """None: the few that are followed take nothing."""
        return None

    def firings(self, site: Site) -> Firings:
        """What fires in the first block of sequences."""
        if site not in self._firings:
            sequences = self.blocks[0]
            lengths = self.sample.lengths[sequences]
            width = int(lengths.max())
            sae = self.saes([site])[site]
            started = time.perf_counter()
            cut = torch.as_tensor(self.sample.tokens[sequences, :width], device=self.model.device).long()
            counted = self.sample.counted[sequences, :width]
            self._firings[site] = firings_in(sae, self.model.run(cut, [site]).sites[site], sequences, counted)
            self.seconds[site] = (time.perf_counter() - started) / int(lengths.sum())
        return self._firings[site]


def preview(subject: Subject, free_disk: int, say: Say = hushed) -> Preview | None:
    """What cache-acts and ablate would take; None where nothing fires in the first sequences.

    `say` is told what is to be known of the text.
    """
    passes = Uncached(subject, say)
    settings, widths = subject.tools.settings, passes.widths
    first = min(widths, key=lambda site: site.order)
    named: dict[int, Named] = {}
    pins = resolve_pins(settings.features.pinned, widths)
    for layer in {pin.site.layer for pin in pins} | {first.layer}:
        there = [pin.site for pin in pins if pin.site.layer == layer]
        share = settings.features.thinning
        least = starting.at_least(settings)
        features = there or [s for s in widths if s.layer == layer for _ in range(max(least, round(share * widths[s])))]
        counts = {site: [most_contexts(settings, passes)] * features.count(site) for site in set(features)}
        named[layer] = Named(len(features), counts)
    planned = count(settings, passes, named, exact=False)
    ablations = estimate(subject.tools, passes, planned, shard_features(subject.tools, alone=True), free_disk)
    if ablations is None:
        return None
    passes.firings(first)  # and with it what they took
    lengths = passes.whole.lengths
    tokens = int(lengths.sum())
    return Preview(len(lengths), tokens, tokens * _token_seconds(passes, first), ablations)


def _token_seconds(passes: Uncached, site: Site) -> float:
    """Of one token at all sites, from what it took at one."""
    model, shape = passes.model, passes.model.shape
    block = flops.block(model.sizes, shape, passes.sample.tokens.shape[1] / 2)

    def operations(sites: Sequence[Site]) -> float:
        encoders = sum(flops.encode(shape.width(s.name), passes.widths[s]) for s in sites)
        return (last_block(sites) + 1) * block + encoders

    return passes.seconds[site] * operations(list(passes.widths)) / operations([site])


def of_settings(job: Job) -> Preview:
    """What a run with these settings would take, whether its SAEs are recorded yet or not; nothing is written.

    Raises:
        InputError: Nothing fires in the first sequences.
    """
    found = preview(chosen(job, job.run, force=job.force), job.run.free_disk(), job.report.say)
    if found is None:
        raise InputError(
            "Nothing fires at the first site in the first sequences.",
            hint="Give other text or SAEs, or see what `circuit doctor` says of them.",
        )
    return found
