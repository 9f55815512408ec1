"""The unit of work of cache-acts: what fires at some sites in some sequences, as a value that any process computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int

from circuitcli.core.contexts import Firings
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from circuitcli.stages.assembly import Say, unsaid
from circuitcli.stages.contents import Chosen
from circuitcli.stages.firings import firings_in
from circuitcli.stages.sources import Sources


@dataclass(frozen=True)
class Group:
    """Dictionaries that are in memory together, by the sites that they read."""

    chosen: Chosen
    sites: tuple[Site, ...]

    def saes(self, sources: Sources) -> list[Dictionary]:
        """They, loaded once; those of another group go. The decoders of cross-layer ones stay in their files."""
        return sources.kept(self, lambda: [self._sae(sources, site) for site in self.sites])

    def _sae(self, sources: Sources, site: Site) -> Dictionary:
        [entry] = (entry for entry in self.chosen.saes if entry.at == site)
        return sources.sae(self.chosen, entry, decoder=len(entry.written) == 1)


def _uncounted(done: int) -> None:
    pass


@dataclass(frozen=True, eq=False)
class EncodeTask:
    """What fires in some sequences.

    Attributes:
        group: The dictionaries.
        seq: The sequences' numbers.
        tokens, lengths, counted: Of each.
        units: Of progress.
        batch_size: How many are run at once.
        threads: Of torch, which decide the last bits as the batch size does.
    """

    group: Group
    seq: Int[np.ndarray, " n"]
    tokens: Int[np.ndarray, "n t"]
    lengths: Int[np.ndarray, " n"]
    counted: Bool[np.ndarray, "n t"]
    units: int
    batch_size: int
    threads: int

    def __len__(self) -> int:
        return self.units

    def compute(
        self, sources: Sources, *, done: Callable[[int], None] = _uncounted, say: Say = unsaid
    ) -> dict[Site, Firings]:
        """By site, in order of sequence and position.

        Raises:
            InputError: Something isn't there.
            ResourceError: A single sequence doesn't fit into memory.
        """
        model = sources.model(self.group.chosen)
        runtime = sources.runtime(self.group.chosen).with_plan(batch_size=self.batch_size, threads=self.threads)
        saes = self.group.saes(sources)

        def encode(part: slice) -> dict[Site, Firings]:
            length = int(self.lengths[part].max())
            tokens = torch.as_tensor(self.tokens[part, :length], device=runtime.device).long()
            read, counted = model.run(tokens, [sae.reads for sae in saes]), self.counted[part, :length]
            return {sae.reads: firings_in(sae, read.sites[sae.reads], self.seq[part], counted) for sae in saes}

        parts = list(runtime.batches(len(self.seq), self.batch_size, encode, say=say))
        done(self.units)
        return {site: Firings.concat([part[site] for part in parts]) for site in self.group.sites}

    def halves(self) -> tuple[EncodeTask, ...]:
        """Of its sequences each half, in batches of half the size."""
        middle = len(self.seq) // 2
        if not middle:
            return ()
        size = max(1, self.batch_size // 2)
        return tuple(
            replace(
                self, seq=self.seq[part], tokens=self.tokens[part], lengths=self.lengths[part],
                counted=self.counted[part], units=units, batch_size=size,
            )
            for part, units in (
                (slice(middle), self.units // 2), (slice(middle, None), self.units - self.units // 2),
            )
        )  # fmt: skip

    def joined(self, results: Sequence[dict[Site, Firings]]) -> dict[Site, Firings]:
        """Those of the first half, then those of the second."""
        return {site: Firings.concat([one[site] for one in results]) for site in self.group.sites}
