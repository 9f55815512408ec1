"""What a run of ablations will take, before it starts: from how many there are, and from a few made here and now.

    seconds    clean passes, and ablations by what one takes at the first site, times the operations of one at its own
    memory     what this process holds after the trial, and what comes on top: SAEs of the widest two layers, clean
               passes that are kept, a full batch, the effects of a shard and its sums over tokens
    disk       rows and bytes of what the trial would have written

Layers behind the first are counted at most: which features are ablated there follows from the effects.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from circuitcli.core import flops
from circuitcli.core.contexts import Firings
from circuitcli.core.next_token import TokenSums
from circuitcli.core.sites import Site, last_block
from circuitcli.core.transfer import filling
from circuitcli.core.words import amount, duration, quantity
from circuitcli.errors import ResourceError
from circuitcli.runtime.device import free_memory, held_memory, synchronize
from circuitcli.settings import Settings
from circuitcli.stages import spreading
from circuitcli.stages.assembly import Ablations, effect_columns
from circuitcli.stages.batching import recomputed
from circuitcli.stages.passes import CLEAN_BYTES, Passes
from circuitcli.stages.task import LOGIT_TOKENS
from circuitcli.stages.tools import Tools
from circuitcli.store import tables
from circuitcli.store.behind import THREADS

# Most ablations of the trial; how many positions are computed again in one that fills a GPU; and how many ablations are
# made there before any is timed.
_TRIAL, _FULL, _WARM = 64, 4096, 8
# Bytes on disk of a row of contexts, and of one of the stored tokens.
_CONTEXT_BYTES, _TOKEN_BYTES = 24, 12
# Of a row of effects until its shard is written: as it was found, as columns, and as a table.
_EFFECT_BYTES = 100
# What torch takes beside its tensors, and what batches hold for a moment: encodings and logits, some times over. Of a
# batch of few rows on a GPU it is less.
_OVERHEAD, _MOMENT = 2**29, 4
_HOST = torch.device("cpu")
_HINT = (
    "Lower --max-features, --branching or --seq-cap (time, disk) or --batch-size, --seq-cap, --max-tokens or the "
    "number of sites (memory), or add --no-logits; --allow-over-memory goes on all the same."
)


@dataclass(frozen=True)
class Counts:
    """How many ablations there are at each site, and of how many features; `exact` if not at most."""

    features: Mapping[Site, int]
    contexts: Mapping[Site, int]
    exact: bool


@dataclass(frozen=True)
class Named:
    """The features of a layer, where they are known: how many, and the contexts of those that aren't done."""

    total: int
    contexts: Mapping[Site, Sequence[int]]


def count(settings: Settings, passes: Passes, named: Mapping[int, Named], *, exact: bool) -> Counts:
    """All ablations: of layers whose features are named as they are, of the others as many as may follow.

    Each feature of the layer before leads to `branching` at each site, together to `max_features` at most.

    Args:
        settings: Of the run.
        passes: Over its sequences.
        named: Layers whose features are known; the first is one.
        exact: Whether the contexts of named features are counted, and not bounded.
    """
    most = most_contexts(settings, passes)
    features, contexts, before = {}, {}, 0
    for layer in sorted({site.layer for site in passes.widths}):
        sites = [site for site in passes.widths if site.layer == layer]
        if layer in named:
            for site, counts in named[layer].contexts.items():
                features[site], contexts[site] = len(counts), sum(counts)
            before = named[layer].total
            continue
        exact = False
        each = min(before * settings.features.branching, settings.features.max_features)
        before = min(each * len(sites), settings.features.max_features)
        left = before
        for site in sites:
            features[site] = min(each, left, passes.widths[site])
            contexts[site] = features[site] * most
            left -= features[site]
    return Counts(features, contexts, exact)


def most_contexts(settings: Settings, passes: Passes) -> int:
    """How often a feature is ablated at most: `seq_cap` times, or as often as the text has places for it."""
    sample, whole = passes.sample, settings.ablate.positions == "all"
    return min(settings.features.seq_cap, len(sample.lengths) if whole else int(sample.counted.sum()))


@dataclass(frozen=True)
class Estimate:
    """What is expected. Counts are upper bounds unless `exact`; `free_*` is what there is.

    `memory_bytes` are the device's, `host_bytes` what tables take beside one that isn't the CPU: of the shard that is
    computed, of those that are written, and of the one in between.

    `seconds` are of this process alone, `worker_seconds` by how many workers there are; `sent_bytes` go to these in
    all; back come the bytes that are stored.
    """

    exact: bool
    features: int
    ablations: int
    rows: int
    disk_bytes: int
    free_disk_bytes: int
    seconds: float
    memory_bytes: int
    free_memory_bytes: int
    host_bytes: int
    free_host_bytes: int
    shards: int
    worker_seconds: Mapping[int, float]
    sent_bytes: int

    @property
    def words(self) -> str:
        """All of it on one line."""
        most = "" if self.exact else "at most "
        return (
            f"ablate: {most}{amount(self.ablations, 'ablation')} of {most}{amount(self.features, 'feature')}, about "
            f"{duration(self.seconds)}; {amount(self.rows, 'row')}, {quantity(self.disk_bytes)} on disk "
            f"({quantity(self.free_disk_bytes)} free); {quantity(self.memory_bytes)} of memory "
            f"({quantity(self.free_memory_bytes)} free)."
        )

    def check(self, *, allow_over_memory: bool) -> None:
        """Refuse what doesn't fit.

        Raises:
            ResourceError: Memory or disk would run out.
        """
        if allow_over_memory:
            return
        needed = None
        if self.memory_bytes > self.free_memory_bytes:
            needed = f"about {quantity(self.memory_bytes)} of memory, and {quantity(self.free_memory_bytes)} are there"
        if self.host_bytes > self.free_host_bytes:
            there = quantity(self.free_host_bytes)
            needed = f"about {quantity(self.host_bytes)} of the host's memory, and {there} are there"
        if self.disk_bytes > self.free_disk_bytes:
            needed = f"about {quantity(self.disk_bytes)} on disk, and {quantity(self.free_disk_bytes)} are free"
        if needed:
            raise ResourceError(f"The ablations would take {needed}.", hint=_HINT)


@dataclass(frozen=True)
class _Trial:
    """What a few ablations at one site took, in one block of sequences."""

    site: Site
    block: int
    row_seconds: float
    clean_seconds: float
    clean_bytes: int
    changes: float  # rows of effects, of one ablation
    change_bytes: float  # of each of them


def estimate(tools: Tools, passes: Passes, planned: Counts, shard: int, free_disk: int) -> Estimate | None:
    """What the planned ablations take; None if there are none, or nothing fires where they would be.

    Args:
        tools: Settings, and where it is computed.
        passes: The model, and what is ablated.
        planned: How much.
        shard: Features of a shard.
        free_disk: Bytes.
    """
    settings, device = tools.settings, passes.runtime.device
    tried = next((site for site, count in planned.contexts.items() if count and len(passes.firings(site))), None)
    if tried is None:
        return None
    trial = _trial(tools, passes, tried, planned.contexts[tried])
    ablations, features = sum(planned.contexts.values()), sum(planned.features.values())
    positions = [len(block) * int(passes.sample.lengths[block].max()) for block in passes.blocks]
    blocks = sum(positions) / positions[trial.block]  # in those of the trial's size
    kept = min(int(blocks * trial.clean_bytes), passes.runtime.room(CLEAN_BYTES))
    again = 1 if blocks * trial.clean_bytes <= kept else len(planned.contexts)
    own = _operations(passes, trial.site, logits=settings.ablate.logits)
    clean = again * blocks * trial.clean_seconds
    ablating = {
        site: trial.row_seconds * count * _operations(passes, site, logits=settings.ablate.logits) / own
        for site, count in planned.contexts.items()
    }
    shards = spreading.shards_of(planned.features, shard)
    rows = round(ablations * trial.changes)
    logits = features * 2 * LOGIT_TOKENS if settings.ablate.logits else 0
    held, contexts = held_memory(device), min(max(planned.contexts.values()), shard * settings.features.seq_cap)
    effects = round(contexts * trial.changes) * _EFFECT_BYTES
    here = held_memory(_HOST)
    return Estimate(
        exact=planned.exact,
        features=features,
        ablations=ablations,
        rows=rows + ablations + logits,
        disk_bytes=round(rows * trial.change_bytes + ablations * _CONTEXT_BYTES + logits * _TOKEN_BYTES),
        free_disk_bytes=free_disk,
        seconds=clean + sum(ablating.values()),
        memory_bytes=held + kept + _more(settings, passes, trial, planned, shard, effects),
        free_memory_bytes=held + free_memory(device),
        host_bytes=here + (THREADS + 2) * effects if device.type != "cpu" else 0,
        free_host_bytes=here + free_memory(_HOST) if device.type != "cpu" else 0,
        shards=sum(shards.values()),
        worker_seconds={n: spreading.seconds_on(n, clean, ablating, shards) for n in spreading.WORKERS},
        sent_bytes=spreading.sent_bytes(ablations, sum(shards.values()), len(passes.widths)),
    )


def _more(settings: Settings, passes: Passes, trial: _Trial, planned: Counts, shard: int, effects: int) -> int:
    """Bytes that come on top of the trial's: SAEs of wider layers, a batch, a shard's effects, and what torch takes."""
    horizon = settings.ablate.reach
    widest = max(_sae_bytes(passes, site) for site in planned.contexts)
    batch = min(passes.batch_size(horizon), max(planned.contexts.values()))
    rows = batch * passes.row_bytes(horizon)
    d_vocab = passes.model.shape.d_vocab if settings.ablate.logits else 0
    sums = shard * 4 * 8 * d_vocab  # two, and their copies
    wide = max(d_vocab, *passes.widths.values())
    moment = min(filling(passes.runtime.device, _OVERHEAD), _OVERHEAD + batch * _MOMENT * 4 * wide)
    return max(0, widest - _sae_bytes(passes, trial.site)) + rows + effects + sums + moment


def _sae_bytes(passes: Passes, site: Site) -> int:
    """Encoders of the sites behind one."""
    shape = passes.model.shape
    return sum(4 * shape.width(s.name) * passes.widths[s] for s in passes.baseline.downstream(site))


def _operations(passes: Passes, site: Site, *, logits: bool) -> float:
    """Floating-point operations of one ablation at a site, the same constant factors left out at all of them."""
    model, shape = passes.model, passes.model.shape
    downstream = passes.baseline.downstream(site)
    last = shape.n_layers - 1 if logits else last_block(downstream)
    encoders = sum(flops.encode(shape.width(down.name), passes.widths[down]) for down in downstream)
    tokens = flops.unembed(shape) if logits else 0.0
    # Never nothing: rows are gathered and written even where no product is made.
    resumed = flops.resumed(passes.written[site][0], last, model.sizes, shape, 1.0)
    return resumed + encoders + tokens + flops.unembed(shape) / 10


def _trial(tools: Tools, passes: Passes, site: Site, count: int) -> _Trial:
    """A few ablations at a site, in the first block of sequences in which it fires, timed once all is warm."""
    settings, runtime, firings = tools.settings, passes.runtime, passes.firings(site)
    logits, horizon = settings.ablate.logits, settings.ablate.reach
    with tools.report.track("Estimating", 0, ""):
        one = torch.as_tensor(passes.sample.tokens[:1], device=runtime.device).long()
        passes.model.run(one, [site], final=logits)  # whatever is slow the first time only
        block = int(passes.block_of(firings.seq).min())
        started = time.perf_counter()
        clean = passes.clean(block, logits)
        synchronize(runtime.device)
        clean_seconds = time.perf_counter() - started
        few = _few(firings, passes.blocks[block], _most(passes, horizon, count), settings.ablate.positions == "all")
        trial = Ablations(
            site=site,
            contexts=few,
            replacement=np.zeros(len(few), np.float32),
            slot=np.zeros(len(few), np.int64),
            horizon=horizon,
            batch_size=min(len(few), passes.batch_size(horizon)),
            threads=runtime.threads,
        )
        baseline = replace(passes.baseline, clean=lambda block, logits: clean)  # kept or not, it is here
        sums = TokenSums(1, passes.model.shape.d_vocab, runtime.device) if logits else None
        reads = [site, *baseline.downstream(site)]
        passes.saes(reads)
        for read in reads:
            clean.acts[read]  # once for all ablations: no part of what one takes
        if runtime.device.type != "cpu":  # where the first of each kernel is slow
            list(trial.where(np.arange(min(_WARM, len(few)))).made(baseline, sums))
        started = time.perf_counter()
        made = trial.made(baseline, sums, say=tools.report.say)
        # As numbers on the host, so that a device has finished.
        parts = [columns for here, result in made for columns in effect_columns(site, here, result)]
        seconds = time.perf_counter() - started
    effects = tables.encoded("ablations/effects", parts)
    return _Trial(
        site=site,
        block=block,
        row_seconds=seconds / len(few),
        clean_seconds=clean_seconds,
        clean_bytes=clean.run.nbytes,
        changes=effects.rows / len(few),
        change_bytes=effects.data.size / max(effects.rows, 1),
    )


def _most(passes: Passes, horizon: int | None, planned: int) -> int:
    """Ablations of the trial: on a GPU as many as fill it, or as are planned if these are fewer."""
    if passes.runtime.device.type == "cpu":
        return _TRIAL
    again = recomputed(passes.model, int(passes.sample.lengths.max()), horizon)
    return max(_TRIAL, min(_FULL // again, planned))


def _few(firings: Firings, sequences: np.ndarray, most: int, whole: bool) -> Firings:
    """So many of a site's firings in these sequences at most, spread over them."""
    here = firings.where(np.flatnonzero(np.isin(firings.seq, sequences)))
    picked = here.where(np.unique(np.linspace(0, len(here) - 1, most).round().astype(np.int64)))
    return Firings(picked.seq, np.full_like(picked.pos, -1), picked.feature, picked.value) if whole else picked
