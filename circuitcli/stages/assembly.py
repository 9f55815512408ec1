"""Ablations at one site as values, and how they are made: in what order, from which clean passes, in which batches.

Whoever makes ablations makes them here: a shard of a run, the trial by which a run is estimated, and bench.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitcli.core import ablation, selection
from circuitcli.core.contexts import Firings
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.directions import Directions
from circuitcli.core.model import Model
from circuitcli.core.next_token import TokenSums
from circuitcli.core.sites import Site
from circuitcli.runtime.device import Runtime
from circuitcli.store import tables

Say = Callable[[str], None]


def unsaid(line: str) -> None:
    """Says nothing."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """What ablations start from: a model, its SAEs, and sequences, unedited.

    Attributes:
        runtime: Where they are.
        writes: By site that is chosen the first one that its dictionary writes.
        saes: The SAEs of some of these, and maybe of others.
        block_of: The block of each sequence: those of one are run clean together.
        clean: The clean pass of a block, on request with what the next token needs.
    """

    runtime: Runtime
    model: Model
    writes: Mapping[Site, Site]
    saes: Callable[[Sequence[Site]], Mapping[Site, Dictionary]]
    block_of: Callable[[Int[np.ndarray, " n"]], Int[np.ndarray, " n"]]
    clean: Callable[[int, bool], ablation.Clean]

    def downstream(self, site: Site) -> list[Site]:
        """The sites that are read where one is edited."""
        return selection.downstream(site, list(self.writes), self.model.shape, self.writes[site])


@dataclass(frozen=True, eq=False)
class Ablations:
    """Features of one site, each at its contexts, and what they become there.

    Attributes:
        site: Of the features.
        contexts: A row for each ablation; position −1 is an edit of the whole sequence.
        replacement: What each activation becomes.
        slot: To which of the sums of token effects each is added.
        horizon: How many positions behind the edited one are read; None: all of them.
        batch_size: How many are made at once.
        threads: Of torch, which decide the last bits as the batch size does.
    """

    site: Site
    contexts: Firings
    replacement: Float[np.ndarray, " n"]
    slot: Int[np.ndarray, " n"]
    horizon: int | None
    batch_size: int
    threads: int

    def __len__(self) -> int:
        return len(self.contexts)

    def where(self, rows: np.ndarray) -> Ablations:
        """Those that the mask, or the order of indices, picks."""
        return replace(
            self, contexts=self.contexts.where(rows), replacement=self.replacement[rows], slot=self.slot[rows]
        )

    def made(
        self, baseline: Baseline, sums: TokenSums | None = None, *, say: Say = unsaid
    ) -> Iterator[tuple[Firings, ablation.Ablated]]:
        """Batch by batch the contexts, and what was read. What a batch gives stays on the device.

        Args:
            baseline: What they start from.
            sums: Where the effects on tokens are added; without, the next token isn't looked at.
            say: Told of batches that had to be smaller.

        Raises:
            ResourceError: A single ablation doesn't fit into memory.
        """
        runtime = baseline.runtime.with_plan(batch_size=self.batch_size, threads=self.threads)
        block = baseline.block_of(self.contexts.seq)
        order = self._order(block)
        ordered, block = self.where(order), block[order]
        rows = ordered._rows()
        directions = cache(lambda: Directions(self._saes(baseline)[self.site], rows.feature, runtime.device))
        for number in np.unique(block):
            here = slice(*np.searchsorted(block, [number, number + 1]).tolist())
            clean = baseline.clean(int(number), sums is not None)
            ablate = partial(self._ablate, baseline, rows[here], clean, sums, directions)
            for part, result in runtime.batches(here.stop - here.start, self.batch_size, ablate, say=say):
                yield ordered.contexts.where(np.arange(here.start, here.stop)[part]), result
            del clean, ablate  # before the next block is run, which may need its room

    def _order(self, block: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
        """Block by block; in one, rows of a sequence together, or, where rows are chains, those of like length."""
        columns = (self.contexts.feature, self.contexts.pos, self.contexts.seq)
        if self.horizon != 0:
            columns = (self.contexts.feature, self.contexts.seq, self.contexts.pos)
        return np.lexsort((*columns, block))

    def _rows(self) -> ablation.Rows:
        columns = (self.contexts.feature, self.contexts.seq, self.contexts.pos, self.slot)
        feature, seq, pos, slot = (torch.as_tensor(column).long() for column in columns)
        return ablation.Rows(feature, seq, pos, torch.as_tensor(self.replacement), slot)

    def _saes(self, baseline: Baseline) -> Mapping[Site, Dictionary]:
        return baseline.saes([self.site, *baseline.downstream(self.site)])

    def _ablate(
        self,
        baseline: Baseline,
        rows: ablation.Rows,
        clean: ablation.Clean,
        sums: TokenSums | None,
        directions: Callable[[], Directions],
        part: slice,
    ) -> tuple[slice, ablation.Ablated]:
        return part, ablation.ablate(
            baseline.model,
            self._saes(baseline),
            self.site,
            rows[part],
            clean,
            baseline.downstream(self.site),
            horizon=self.horizon,
            sums=sums,
            directions=directions(),
        )


def effect_columns(site: Site, here: Firings, result: ablation.Ablated) -> Iterator[tables.Columns]:
    """What a batch of ablations at a site changed, as the table of effects has it; a part for each downstream site."""
    row, pos = result.row.numpy(), result.pos.numpy()
    for down, changes in result.changes.items():
        reading = as_numpy(changes.row)
        if len(reading):
            of = row[reading]
            yield {
                "up_layer": site.layer,
                "up_site": site.name,
                "up_feature": here.feature[of],
                "seq": here.seq[of],
                "pos": here.pos[of],
                "down_layer": down.layer,
                "down_site": down.name,
                "down_feature": as_numpy(changes.feature).astype(np.int32),
                "down_pos": pos[reading].astype(np.int32),
                "clean": as_numpy(changes.clean),
                "ablated": as_numpy(changes.ablated),
            }


def as_numpy(tensor: Tensor) -> np.ndarray:
    """A tensor's values on the host."""
    return np.asarray(tensor.cpu().numpy())
