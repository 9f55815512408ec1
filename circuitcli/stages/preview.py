"""What a whole run would take, before anything of it is there: the model and SAEs are loaded, a little is computed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from circuitcli.core import flops
from circuitcli.core.contexts import Firings
from circuitcli.core.sampling import Sample
from circuitcli.core.sites import Site, last_block, resolve_pins
from circuitcli.errors import InputError
from circuitcli.saes import SaeEntry
from circuitcli.stages import start as starting
from circuitcli.stages.cache_acts import firings_in
from circuitcli.stages.doctor import Unrecorded
from circuitcli.stages.estimate import Estimate, Named, count, estimate, most_contexts
from circuitcli.stages.inputs import Inputs
from circuitcli.stages.sequences import Say, hushed, read_sample
from circuitcli.stages.stage import Job


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
            f"cache-acts: {self.sequences:,} sequences of together {self.tokens:,} tokens, about "
            f"{self.cache_seconds:.0f} s.",
            self.ablate.words,
        )


@dataclass
class _Unread(Inputs):
    """A run before its activations are cached: what fires is computed, in the first block of sequences."""

    chosen: list[SaeEntry] = field(default_factory=list)
    say: Say = hushed
    seconds: dict[Site, float] = field(default_factory=dict)  # that caching a token of a site took, the model with it

    @cached_property
    def entries(self) -> list[SaeEntry]:
        return self.chosen

    @cached_property
    def sample(self) -> Sample:
        return self.whole.first(self.job.settings.texts.num_sequences)

    @cached_property
    def whole(self) -> Sample:
        """All sequences, those for contexts alone among them."""
        return read_sample(self.job, self.entries, self.say)

    @cached_property
    def next_tokens(self) -> np.ndarray | None:
        return None  # the few that are followed take nothing

    def firings(self, site: Site) -> Firings:
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


def preview(job: Job, entries: Sequence[SaeEntry], say: Say = hushed) -> Preview | None:
    """What cache-acts and ablate would take with these SAEs; None where nothing fires in the first sequences.

    `say` is told what is to be known of the text.
    """
    inputs = _Unread(job, chosen=list(entries), say=say)
    settings, widths = job.settings, inputs.widths
    first = min(widths, key=lambda site: site.order)
    named: dict[int, Named] = {}
    pins = resolve_pins(settings.features.pinned, widths)
    for layer in {pin.site.layer for pin in pins} | {first.layer}:
        there = [pin.site for pin in pins if pin.site.layer == layer]
        share = settings.features.thinning
        least = starting.at_least(settings)
        features = there or [s for s in widths if s.layer == layer for _ in range(max(least, round(share * widths[s])))]
        counts = {site: [most_contexts(inputs)] * features.count(site) for site in set(features)}
        named[layer] = Named(len(features), counts)
    ablations = estimate(inputs, count(inputs, named, exact=False))
    if ablations is None:
        return None
    inputs.firings(first)  # and with it what they took
    lengths = inputs.whole.lengths
    tokens = int(lengths.sum())
    return Preview(len(lengths), tokens, tokens * _token_seconds(inputs, first), ablations)


def _token_seconds(inputs: _Unread, site: Site) -> float:
    """Of one token at all sites, from what it took at one."""
    model, shape = inputs.model, inputs.model.shape
    block = flops.block(model.sizes, shape, inputs.sample.tokens.shape[1] / 2)

    def operations(sites: Sequence[Site]) -> float:
        encoders = sum(flops.encode(shape.width(s.name), inputs.widths[s]) for s in sites)
        return (last_block(sites) + 1) * block + encoders

    return inputs.seconds[site] * operations(list(inputs.widths)) / operations([site])


def of_settings(job: Job) -> Preview:
    """What a run with these settings would take, whether its SAEs are recorded yet or not; nothing is written.

    Raises:
        InputError: Nothing fires in the first sequences.
    """
    unrecorded = Unrecorded(job.run, job.settings, job.report, job.force)
    found = preview(unrecorded, unrecorded.choice[1], job.report.say)
    if found is None:
        raise InputError(
            "Nothing fires at the first site in the first sequences.",
            hint="Give other text or SAEs, or see what `circuit doctor` says of them.",
        )
    return found
