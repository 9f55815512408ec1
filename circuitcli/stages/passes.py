"""Clean passes over the sequences that count, in blocks, each kept for all ablations in it while there is room."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int

from circuitcli.core import ablation
from circuitcli.core.active import Active
from circuitcli.core.contexts import Firings
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.model import Model
from circuitcli.core.sampling import Sample
from circuitcli.core.sites import Site
from circuitcli.runtime.device import Runtime
from circuitcli.saes import SaeEntry
from circuitcli.stages.assembly import Baseline
from circuitcli.stages.batching import batch_size, blocks, clean_at_once, row_bytes

# Sequences that a CPU runs clean together, once for all ablations in them, and their positions, padding too: a pass
# holds attention scores of all heads.
CLEAN_SEQUENCES, CLEAN_POSITIONS = 32, 4096
# On a CPU clean passes are kept up to so many bytes; what goes beyond is run again for each shard.
CLEAN_BYTES = 2**30


class Passes(ABC):
    """A model, SAEs and sequences, whatever they come from, each loaded when it is first needed."""

    def __init__(self, entries: Sequence[SaeEntry]) -> None:
        self.entries = entries
        self.widths = {entry.at: entry.facts.d_sae for entry in entries}
        self.written = {entry.at: entry.written for entry in entries}
        self._clean: dict[tuple[int, bool], ablation.Clean] = {}
        self._saes: dict[Site, Dictionary] = {}

    @property
    @abstractmethod
    def runtime(self) -> Runtime:
        """The device."""

    @property
    @abstractmethod
    def model(self) -> Model:
        """The model."""

    @abstractmethod
    def load(self, entry: SaeEntry) -> Dictionary:
        """An SAE, on the device but for its decoder."""

    @property
    @abstractmethod
    def sample(self) -> Sample:
        """The sequences that count."""

    @abstractmethod
    def firings(self, site: Site) -> Firings:
        """All that fires at a site in the sequences that count, in order of sequence and position."""

    @property
    @abstractmethod
    def next_tokens(self) -> Int[np.ndarray, "n t k"] | None:
        """The ids of the likeliest next tokens, in a run on prompts; 0 where there is no token."""

    @property
    def baseline(self) -> Baseline:
        """The model, SAEs and sequences, as ablations take them."""
        writes = {site: written[0] for site, written in self.written.items()}
        return Baseline(self.runtime, self.model, writes, self.saes, self.block_of, self.clean)

    def saes(self, sites: Sequence[Site]) -> dict[Site, Dictionary]:
        """The SAEs at these sites. Those that were loaded for others go: only two layers' have to fit into memory."""
        self._saes = {site: sae for site, sae in self._saes.items() if site in sites}
        for entry in self.entries:
            if entry.at in sites and entry.at not in self._saes:
                self._saes[entry.at] = self.load(entry)
        return self._saes

    @cached_property
    def blocks(self) -> list[np.ndarray]:
        """The sequences that are run clean together: of like length, so that little is padded; the longest first."""
        lengths, shape = self.sample.lengths, self.model.shape
        at_once = clean_at_once(shape, self.runtime.device, int(lengths.max()), CLEAN_SEQUENCES, CLEAN_POSITIONS)
        return blocks(lengths, *at_once)

    def block_of(self, seq: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """The block in which each sequence is."""
        block = np.empty(len(self.sample.lengths), np.int64)
        for i, sequences in enumerate(self.blocks):
            block[sequences] = i
        return np.asarray(block[seq])

    def row_bytes(self, horizon: int | None) -> int:
        """What one ablation holds."""
        return row_bytes(self.model, int(self.sample.tokens.shape[1]), horizon)

    def batch_size(self, horizon: int | None) -> int:
        """Ablations at once."""
        return batch_size(self.model, self.runtime, int(self.sample.tokens.shape[1]), horizon)

    def clean(self, block: int, logits: bool) -> ablation.Clean:
        """A block of sequences, unedited: run once for all features of all sites, while there is room to keep it."""
        if (block, logits) in self._clean:
            return self._clean[block, logits]
        sequences = self.blocks[block]
        tokens, lengths = (
            torch.as_tensor(part[sequences]).long() for part in (self.sample.tokens, self.sample.lengths)
        )
        found = ablation.read_clean(
            self.model,
            sorted({site for entry in self.entries for site in (entry.at, entry.written[0])}, key=lambda s: s.order),
            tokens.to(self.runtime.device),
            lengths,
            _Acts(self, sequences, int(lengths.max())),
            logits=logits,
            sequences=torch.as_tensor(sequences),
            special=torch.as_tensor(self.sample.special[sequences]),
            follow=self._follow(sequences, int(lengths.max())),
        )
        room = self.runtime.room(CLEAN_BYTES)
        if found.run.nbytes + sum(kept.run.nbytes for kept in self._clean.values()) <= room:
            self._clean[block, logits] = found
        return found

    def _follow(self, sequences: np.ndarray, width: int) -> torch.Tensor | None:
        """In prompts the likeliest next tokens at each position; the effects of each ablation on them are kept."""
        if self.next_tokens is None:
            return None
        return torch.as_tensor(self.next_tokens[sequences, :width], device=self.runtime.device).long()


class _Acts(Mapping[Site, Active]):
    """What fires in a block of sequences, by site: put together when it is asked for."""

    def __init__(self, passes: Passes, sequences: np.ndarray, width: int) -> None:
        self._passes, self._sequences, self._width = passes, sequences, width
        self._found: dict[Site, Active] = {}

    def __getitem__(self, site: Site) -> Active:
        if site not in self._found:
            self._found[site] = self._active(site)
        return self._found[site]

    def __iter__(self) -> Iterator[Site]:
        return iter(self._passes.widths)

    def __len__(self) -> int:
        return len(self._passes.widths)

    def _active(self, site: Site) -> Active:
        whole = self._passes.firings(site)
        whole = whole.where(np.flatnonzero(np.isin(whole.seq, self._sequences)))
        place = np.searchsorted(self._sequences, whole.seq) * self._width + whole.pos
        columns = torch.as_tensor(place).long(), torch.as_tensor(whole.feature).long(), torch.as_tensor(whole.value)
        return Active(*columns, self._passes.widths[site]).to(self._passes.runtime.device)
