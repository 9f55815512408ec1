"""The ablations of one shard: rows in batches through the engine, gathered into the tables of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from circuitcli import interventions
from circuitcli.core import ablation, selection
from circuitcli.core.contexts import Firings
from circuitcli.core.donors import donors
from circuitcli.core.effects import extreme_tokens
from circuitcli.core.next_token import TokenSums
from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.stages.inputs import Inputs
from circuitcli.stages.stage import Work
from circuitcli.store import tables
from circuitcli.store.ablations import Shard

# Tokens kept of each feature's logit effects, at either end.
LOGIT_TOKENS = 256


class ShardWork:
    """The ablations of one shard: rows sorted by sequence, computed in batches, gathered into tables."""

    def __init__(self, inputs: Inputs, todo: Work, shard: Shard, contexts: dict[int, Firings]) -> None:
        self.inputs, self.todo, self.shard = inputs, todo, shard
        self.settings = inputs.job.settings
        self.horizon = inputs.horizon
        firings = Firings.concat(list(contexts.values()))
        self.firings = firings.where(self._order(firings))
        self.counts = {index: len(found) for index, found in contexts.items()}
        self.downstream = selection.downstream(shard.site, list(inputs.widths), inputs.model.shape)
        self.logits = self.settings.ablate.logits
        slots, d_vocab = (len(shard.features), inputs.model.shape.d_vocab) if self.logits else (0, 0)
        self.sums = TokenSums(slots, d_vocab, inputs.job.runtime.device)

    def _order(self, firings: Firings) -> np.ndarray:
        """Block by block; in one, rows of a sequence together, or, where rows are chains, those of like length."""
        columns = (firings.feature, firings.pos, firings.seq)
        if self.horizon != 0:
            columns = (firings.feature, firings.seq, firings.pos)
        return np.lexsort((*columns, self.inputs.block_of(firings.seq)))

    def compute(self, done: Callable[[int], None]) -> dict[str, list[tables.Columns]]:
        """The shard's tables, in parts. What batches give stays on the device until all are done.

        Raises:
            InputError: Logits aren't finite.
        """
        inputs, shard = self.inputs, self.shard
        runtime = self.todo.planned_batch(inputs.batch_size)
        rows = self._rows()
        results: list[tuple[Firings, ablation.Ablated]] = []
        blocks = inputs.block_of(self.firings.seq)
        for block in np.unique(blocks):
            here = slice(*np.searchsorted(blocks, [block, block + 1]).tolist())
            clean = inputs.clean(int(block), logits=self.logits)
            ablate = partial(self._ablate, rows[here], clean)
            count = here.stop - here.start
            for part, result in runtime.batches(count, self.todo.plan.batch_size, ablate, say=inputs.job.report.say):
                results.append((self.firings.where(np.arange(here.start, here.stop)[part]), result))
                done(part.stop - part.start)
        parts: dict[str, list[tables.Columns]] = {
            "effects": [
                columns for firings, result in results for columns in effect_columns(shard.site, firings, result)
            ],
            "contexts": [self._context_rows(firings, result) for firings, result in results],
        }
        if self.logits:
            parts["logits"] = list(self._logit_rows())
        if self.inputs.next_tokens is not None and self.logits:
            parts["next"] = [columns for firings, result in results for columns in self._next_rows(firings, result)]
        return parts

    def _ablate(self, rows: ablation.Rows, clean: ablation.Clean, part: slice) -> tuple[slice, ablation.Ablated]:
        saes = self.inputs.saes([self.shard.site, *self.downstream])
        site, sums = self.shard.site, self.sums if self.logits else None
        return part, ablation.ablate(
            self.inputs.model, saes, site, rows[part], clean, self.downstream, horizon=self.horizon, sums=sums
        )

    def _rows(self) -> ablation.Rows:
        return ablation.Rows(
            feature=torch.as_tensor(self.firings.feature).long(),
            seq=torch.as_tensor(self.firings.seq).long(),
            pos=torch.as_tensor(self.firings.pos).long(),
            replacement=replacements(self.inputs, self.shard.site, self.firings),
            slot=torch.as_tensor(np.searchsorted(self.shard.features, self.firings.feature)).long(),
        )

    def _context_rows(self, here: Firings, result: ablation.Ablated) -> tables.Columns:
        """A row for each ablation; its KL is the sum over all positions at which it was read."""
        kl = np.full(len(here), np.nan, np.float32)
        if result.kl is not None:
            kl = np.bincount(result.row.numpy(), _numpy(result.kl), minlength=len(here)).astype(np.float32)
            self._require_finite(kl, here)
        site = {"layer": self.shard.site.layer, "site": self.shard.site.name}
        return site | {"feature": here.feature, "seq": here.seq, "pos": here.pos, "activation": here.value, "kl": kl}

    def _next_rows(self, here: Firings, result: ablation.Ablated) -> Iterator[tables.Columns]:
        """What each ablation did to the likeliest next tokens at each position where it was read."""
        if result.followed is None:
            return
        ids, logprob, prob = (_numpy(column) for column in result.followed)
        count, k = ids.shape
        row, read = (np.repeat(column[result.told].numpy(), k) for column in (result.row, result.pos))
        yield {
            "layer": self.shard.site.layer,
            "site": self.shard.site.name,
            "feature": here.feature[row],
            "seq": here.seq[row],
            "pos": here.pos[row],
            "down_pos": read.astype(np.int32),
            "rank": np.tile(np.arange(1, k + 1, dtype=np.int32), count),
            "token_id": ids.reshape(-1).astype(np.int32),
            "effect": logprob.reshape(-1),
            "prob_effect": prob.reshape(-1),
        }

    def _require_finite(self, kl: np.ndarray, here: Firings) -> None:
        beyond = np.flatnonzero(~np.isfinite(kl))
        if len(beyond):
            at = f"{self.shard.site}.{here.feature[beyond[0]]} in sequence {here.seq[beyond[0]]}"
            raise InputError(
                f"The model's logits are no longer numbers where {at} is ablated.",
                hint="Cache and ablate in --dtype float32: float16 ends at 65,504.",
            )

    def _logit_rows(self) -> Iterator[tables.Columns]:
        for index, logprob, prob in zip(self.shard.features, self.sums.logprob, self.sums.prob, strict=True):
            mean, prob_mean = (_numpy(total) / max(self.counts[index], 1) for total in (logprob, prob))
            kept = extreme_tokens(mean, LOGIT_TOKENS)
            yield {
                "layer": self.shard.site.layer,
                "site": self.shard.site.name,
                "feature": np.full(len(kept), index, np.int32),
                "token_id": kept.astype(np.int32),
                "effect_mean": mean[kept].astype(np.float32),
                "prob_effect_mean": prob_mean[kept].astype(np.float32),
            }


def replacements(inputs: Inputs, site: Site, contexts: Firings) -> Tensor:
    """What the run's intervention puts in place of each activation. Donors are drawn for one that asks for them.

    Raises:
        InputError: There is none, and the intervention needs one.
    """
    settings, seed = inputs.job.settings.ablate, inputs.job.settings.seed
    statistics = {name: column[contexts.feature] for name, column in inputs.statistics[site].items()}
    at = interventions.Contexts(
        site, contexts.feature, contexts.seq, contexts.pos, contexts.value, statistics, seed,
        draw=lambda: donors(site, contexts, inputs.firings(site), inputs.sample.counted, seed),
    )  # fmt: skip
    found = interventions.make(settings.intervention, settings).replacements(at)
    return torch.as_tensor(np.array(found, np.float32))


def effect_columns(site: Site, here: Firings, result: ablation.Ablated) -> Iterator[tables.Columns]:
    """What a batch of ablations at a site changed, as the table of effects has it; a part for each downstream site."""
    row, pos = result.row.numpy(), result.pos.numpy()
    for down, changes in result.changes.items():
        reading = _numpy(changes.row)
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
                "down_feature": _numpy(changes.feature).astype(np.int32),
                "down_pos": pos[reading].astype(np.int32),
                "clean": _numpy(changes.clean),
                "ablated": _numpy(changes.ablated),
            }


def _numpy(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.cpu().numpy())
