"""The unit of work: the ablations of one shard, as a value that any process computes to the same tables.

A task says all that decides its tables: what is read, by content, which features are ablated at which contexts, what
they become, and in which batches. It knows no run, no settings and no report: planning, writing and showing progress
are the coordinator's, which may be on another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from circuitcli.core.ablation import Ablated
from circuitcli.core.contexts import Firings
from circuitcli.core.next_token import TokenSums
from circuitcli.errors import InputError
from circuitcli.stages.assembly import Ablations, Baseline, Say, as_numpy, effect_columns, unsaid
from circuitcli.stages.contents import Contents
from circuitcli.store import tables

# Tokens kept of each feature's logit effects, at either end.
LOGIT_TOKENS = 256


@runtime_checkable
class Sources(Protocol):
    """Where a process has models, SAEs and files."""

    def baseline(self, contents: Contents) -> Baseline:
        """What has this content, wherever it lies; what was loaded for one task serves the next.

        Raises:
            InputError: Something isn't there.
        """
        ...


def _uncounted(done: int) -> None:
    pass


@dataclass(frozen=True, eq=False)
class ShardTask:
    """The ablations of one shard.

    Attributes:
        contents: What they read.
        features: The shard's, ascending; `ablations.slot` counts these.
        ablations: The ablations.
        logits: Whether the next token is measured too.
    """

    contents: Contents
    features: tuple[int, ...]
    ablations: Ablations
    logits: bool

    def __len__(self) -> int:
        return len(self.ablations)

    def compute(
        self, sources: Sources, *, done: Callable[[int], None] = _uncounted, say: Say = unsaid
    ) -> dict[str, list[tables.Columns]]:
        """The tables of the shard, each in parts, by kind: `effects`, `contexts`, and with the next token `logits`, of
        prompts `next`. What batches give stays on the device until all are done.

        Args:
            sources: Where its contents are.
            done: Told how many more ablations are made.
            say: Told of batches that had to be smaller.

        Raises:
            InputError: Something isn't there, or logits aren't finite.
            ResourceError: A single ablation doesn't fit into memory.
        """
        baseline = sources.baseline(self.contents)
        sums = None
        if self.logits:
            sums = TokenSums(len(self.features), baseline.model.shape.d_vocab, baseline.runtime.device)
        results: list[tuple[Firings, Ablated]] = []
        for here, result in self.ablations.made(baseline, sums, say=say):
            results.append((here, result))
            done(len(here))
        shard = _Tables(self)
        parts: dict[str, list[tables.Columns]] = {
            "effects": [part for here, result in results for part in effect_columns(self.ablations.site, here, result)],
            "contexts": [shard.context_rows(here, result) for here, result in results],
        }
        if sums is not None:
            parts["logits"] = [shard.logit_rows(sums)]
            if self.contents.next_tokens is not None:
                parts["next"] = [part for here, result in results for part in shard.next_rows(here, result)]
        return parts

    def halves(self) -> tuple[ShardTask, ...]:
        """Of its features each half, in batches of half the size; of one feature the same in such batches."""
        size, count = self.ablations.batch_size, len(self.features)
        if size == count == 1:
            return ()
        cuts = ((0, count // 2), (count // 2, count)) if count > 1 else ((0, count),)
        return tuple(self._part(start, end, max(1, size // 2)) for start, end in cuts)

    def _part(self, start: int, end: int, batch_size: int) -> ShardTask:
        """Some of its features, by their places."""
        slot = self.ablations.slot
        part = self.ablations.where(np.flatnonzero((slot >= start) & (slot < end)))
        part = replace(part, slot=part.slot - start, batch_size=batch_size)
        return replace(self, features=self.features[start:end], ablations=part)

    def joined(self, results: Sequence[dict[str, list[tables.Columns]]]) -> dict[str, list[tables.Columns]]:
        """Its tables: those of its halves, one after the other."""
        return {kind: [part for parts in results for part in parts[kind]] for kind in results[0]}


class _Tables:
    """The columns of a task's tables but for effects."""

    def __init__(self, task: ShardTask) -> None:
        self.task, self.site = task, task.ablations.site
        self.at = {"layer": self.site.layer, "site": self.site.name}

    def context_rows(self, here: Firings, result: Ablated) -> tables.Columns:
        """A row for each ablation; its KL is the sum over all positions at which it was read."""
        kl = np.full(len(here), np.nan, np.float32)
        if result.kl is not None:
            kl = np.bincount(result.row.numpy(), as_numpy(result.kl), minlength=len(here)).astype(np.float32)
            self._require_finite(kl, here)
        return self.at | {"feature": here.feature, "seq": here.seq, "pos": here.pos, "activation": here.value, "kl": kl}

    def _require_finite(self, kl: np.ndarray, here: Firings) -> None:
        beyond = np.flatnonzero(~np.isfinite(kl))
        if len(beyond):
            at = f"{self.site}.{here.feature[beyond[0]]} in sequence {here.seq[beyond[0]]}"
            raise InputError(
                f"The model's logits are no longer numbers where {at} is ablated.",
                hint="Cache and ablate in --dtype float32: float16 ends at 65,504.",
            )

    def next_rows(self, here: Firings, result: Ablated) -> Iterator[tables.Columns]:
        """What each ablation did to the likeliest next tokens at each position where it was read."""
        if result.followed is None:
            return
        ids, logprob, prob = (as_numpy(column) for column in result.followed)
        count, k = ids.shape
        row, read = (np.repeat(column[result.told].numpy(), k) for column in (result.row, result.pos))
        yield self.at | {
            "feature": here.feature[row],
            "seq": here.seq[row],
            "pos": here.pos[row],
            "down_pos": read.astype(np.int32),
            "rank": np.tile(np.arange(1, k + 1, dtype=np.int32), count),
            "token_id": ids.reshape(-1).astype(np.int32),
            "effect": logprob.reshape(-1),
            "prob_effect": prob.reshape(-1),
        }

    def logit_rows(self, sums: TokenSums) -> tables.Columns:
        """Each feature's mean effects on the tokens that it changes the most."""
        counts = np.bincount(self.task.ablations.slot, minlength=len(self.task.features))
        found = sums.extremes(torch.as_tensor(counts), LOGIT_TOKENS)
        return self.at | {
            "feature": np.asarray(self.task.features, np.int32)[found.slot],
            "token_id": found.token_id.astype(np.int32),
            "effect_mean": found.logprob.astype(np.float32),
            "prob_effect_mean": found.prob.astype(np.float32),
        }
