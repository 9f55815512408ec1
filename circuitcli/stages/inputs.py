"""What ablations read of a run, each loaded when it is first needed: SAEs, model, sequences and what fires in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from circuitcli.core import ablation
from circuitcli.core.active import Active
from circuitcli.core.contexts import Firings, by_feature
from circuitcli.core.model import Model
from circuitcli.core.sae import Sae
from circuitcli.core.sampling import Sample
from circuitcli.core.sites import Site
from circuitcli.results.dictionaries import entries_of
from circuitcli.results.next_tokens import on_prompts
from circuitcli.runtime.engine import slowness
from circuitcli.saes import SaeEntry
from circuitcli.stages.fetch_saes import load_sae
from circuitcli.stages.stage import Job
from circuitcli.stages.workload import batch_size, blocks, row_bytes
from circuitcli.store import acts, tables

# Sequences that are run clean together, once for all ablations in them, and their positions, padding too: a pass holds
# attention scores of all heads.
CLEAN_SEQUENCES, CLEAN_POSITIONS = 32, 4096
# On a CPU clean passes are kept up to so many bytes; what goes beyond is run again for each shard.
CLEAN_BYTES = 2**30


class _Acts(Mapping[Site, Active]):
    """What fires in a block of sequences, by site: put together when it is asked for."""

    def __init__(self, inputs: Inputs, sequences: np.ndarray, width: int) -> None:
        self._inputs, self._sequences, self._width = inputs, sequences, width
        self._found: dict[Site, Active] = {}

    def __getitem__(self, site: Site) -> Active:
        if site not in self._found:
            self._found[site] = self._active(site)
        return self._found[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self._inputs.widths)

    def __len__(self) -> int:
        return len(self._inputs.widths)

    def _active(self, site: Site) -> Active:
        whole = self._inputs.firings(site)
        whole = whole.where(np.flatnonzero(np.isin(whole.seq, self._sequences)))
        place = np.searchsorted(self._sequences, whole.seq) * self._width + whole.pos
        device = self._inputs.job.runtime.device
        return Active(
            torch.as_tensor(place, device=device).long(),
            torch.as_tensor(whole.feature, device=device).long(),
            torch.as_tensor(whole.value, device=device),
            self._inputs.widths[site],
        )


@dataclass
class Inputs:
    """What ablations read."""

    job: Job
    _clean: dict[int, ablation.Clean] = field(default_factory=dict)
    _saes: dict[Site, Sae] = field(default_factory=dict)
    _firings: dict[Site, Firings] = field(default_factory=dict)

    @cached_property
    def entries(self) -> list[SaeEntry]:
        """The SAEs of the run."""
        return entries_of(self.job.run)

    @cached_property
    def widths(self) -> dict[Site, int]:
        """d_sae at each site."""
        return {entry.at: entry.d_sae for entry in self.entries}

    @cached_property
    def horizon(self) -> int | None:
        """How many positions behind an edited one are read; None: all of them."""
        settings = self.job.settings.ablate
        if settings.positions != "onward":
            return 0 if settings.positions == "top" else None
        return settings.horizon or None

    def saes(self, sites: Sequence[Site]) -> dict[Site, Sae]:
        """The SAEs at these sites. Those that were loaded for others go: only two layers' have to fit into memory."""
        self._saes = {site: sae for site, sae in self._saes.items() if site in sites}
        for entry in self.entries:
            if entry.at in sites and entry.at not in self._saes:
                self._saes[entry.at] = load_sae(self.job, entry, self.model, decoder=False)
        return self._saes

    @cached_property
    def model(self) -> Model:
        model = self.job.model
        if not model.resumes_at_places:
            self.job.report.say(slowness(self.job.settings.model, model, float(self.sample.lengths.mean())))
        return model

    @cached_property
    def sample(self) -> Sample:
        """The sequences that count."""
        whole = acts.read_sample(self.job.run.verified("cache-acts", acts.TOKENS))
        return whole.first(self.job.settings.texts.num_sequences)

    def firings(self, site: Site) -> Firings:
        """All that fires at a site in the sequences that count, in order of sequence and position."""
        if site not in self._firings:
            whole = Firings.concat(list(acts.shards(self.job.run, site)))
            whole = whole.where(whole.seq < len(self.sample.lengths))
            self._firings[site] = whole.where(np.lexsort((whole.feature, whole.pos, whole.seq)))
        return self._firings[site]

    @cached_property
    def blocks(self) -> list[np.ndarray]:
        """The sequences that are run clean together: of like length, so that little is padded; the longest first."""
        return blocks(self.sample.lengths, CLEAN_SEQUENCES, CLEAN_POSITIONS)

    def block_of(self, seq: np.ndarray) -> np.ndarray:
        """The block in which each sequence is."""
        block = np.empty(len(self.sample.lengths), np.int64)
        for i, sequences in enumerate(self.blocks):
            block[sequences] = i
        return np.asarray(block[seq])

    def clean(self, block: int, *, logits: bool) -> ablation.Clean:
        """A block of sequences, unedited: run once for all features of all sites, while there is room to keep it."""
        if block in self._clean:
            return self._clean[block]
        sequences = self.blocks[block]
        tokens, lengths = (
            torch.as_tensor(part[sequences]).long() for part in (self.sample.tokens, self.sample.lengths)
        )
        found = ablation.read_clean(
            self.model,
            list(self.widths),
            tokens.to(self.job.runtime.device),
            lengths,
            _Acts(self, sequences, int(lengths.max())),
            logits=logits,
            sequences=torch.as_tensor(sequences),
            special=torch.as_tensor(self.sample.special[sequences]),
            follow=self._follow(sequences, int(lengths.max())),
        )
        room = self.job.runtime.room(CLEAN_BYTES)
        if found.run.nbytes + sum(kept.run.nbytes for kept in self._clean.values()) <= room:
            self._clean[block] = found
        return found

    def _follow(self, sequences: np.ndarray, width: int) -> torch.Tensor | None:
        """In prompts the likeliest next tokens at each position; the effects of each ablation on them are kept."""
        if self.next_tokens is None:
            return None
        return torch.as_tensor(self.next_tokens[sequences, :width], device=self.job.runtime.device).long()

    @cached_property
    def next_tokens(self) -> np.ndarray | None:
        """The ids of the likeliest next tokens, [n, t, k], in a run on prompts; 0 where there is no token."""
        if not on_prompts(self.job.settings):
            return None
        table = tables.read(self.job.run.verified("cache-acts", acts.NEXT), ["seq", "pos", "rank", "token_id"])
        found = np.zeros((*self.sample.tokens.shape, int(table["rank"].max())), np.int64)
        counted = table["seq"] < len(found)
        seq, pos, rank, token = (table[name][counted] for name in ("seq", "pos", "rank", "token_id"))
        found[seq, pos, rank - 1] = token
        return found

    @cached_property
    def statistics(self) -> dict[Site, dict[str, np.ndarray]]:
        """The features' statistics, by site."""
        table = tables.read(self.job.run.verified("cache-acts", acts.FEATURES))
        by_site = {}
        for site in self.widths:
            mask = (table["layer"] == site.layer) & (table["site"] == site.name)
            by_site[site] = {name: column[mask] for name, column in table.items()}
        return by_site

    def firings_of(self, site: Site, features: Sequence[int]) -> dict[int, Firings]:
        """All firings of some features of a site in the sequences that count, in order of (seq, pos)."""
        return by_feature(self.firings(site), features)

    @property
    def row_bytes(self) -> int:
        """What one ablation holds."""
        return row_bytes(self.model, int(self.sample.tokens.shape[1]), self.horizon)

    @property
    def batch_size(self) -> int:
        """Ablations at once."""
        return batch_size(self.model, self.job.runtime, int(self.sample.tokens.shape[1]), self.horizon)
