"""The ablations of one shard: rows in batches through the engine, gathered into the tables of the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import torch
from torch import Tensor

from circuitcli import plugins
from circuitcli.core import ablation, selection
from circuitcli.core.contexts import Firings
from circuitcli.core.effects import extreme_tokens
from circuitcli.core.model import Model
from circuitcli.core.sae import Sae
from circuitcli.core.sites import Site
from circuitcli.interventions import Intervention
from circuitcli.stages.fetch_saes import entries_of, load_sae
from circuitcli.stages.stage import Job, Work
from circuitcli.store import acts, tables
from circuitcli.store.ablations import Shard

# Tokens kept of each feature's logit effects, at either end.
LOGIT_TOKENS = 256
# Sequences that are run clean together, once for all ablations in them.
CLEAN_SEQUENCES = 32


@dataclass
class Inputs:
    """What ablations read, each loaded when it is first needed."""

    job: Job
    _clean: dict[int, ablation.Clean] = field(default_factory=dict)
    _saes: dict[Site, Sae] = field(default_factory=dict)

    @cached_property
    def widths(self) -> dict[Site, int]:
        return {entry.at: entry.d_sae for entry in entries_of(self.job.run)}

    def saes(self, sites: Sequence[Site]) -> dict[Site, Sae]:
        """The SAEs at these sites. Those that were loaded for others go: only two layers' have to fit into memory."""
        self._saes = {site: sae for site, sae in self._saes.items() if site in sites}
        for entry in entries_of(self.job.run):
            if entry.at in sites and entry.at not in self._saes:
                self._saes[entry.at] = load_sae(self.job, entry, self.model)
        return self._saes

    @cached_property
    def model(self) -> Model:
        model = self.job.load_model()
        if not model.resumes_at_places:
            self.job.report.say(
                f"{self.job.settings.model} can't be resumed at single positions: whole sequences are computed again, "
                "which is slower."
            )
        return model

    @cached_property
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """The sequences that count, and their lengths."""
        tokens, lengths = acts.read_tokens(self.job.run.verified("cache-acts", acts.TOKENS))
        count = self.job.settings.texts.num_sequences
        return tokens[:count], lengths[:count]

    def clean(self, block: int, *, logits: bool) -> ablation.Clean:
        """A block of sequences, unedited: run once for all features of all sites, while there is room to keep it."""
        if block not in self._clean:
            device = self.job.runtime.device
            span = slice(block * CLEAN_SEQUENCES, (block + 1) * CLEAN_SEQUENCES)
            tokens, lengths = (torch.as_tensor(part[span], device=device).long() for part in self.sample)
            found = ablation.read_clean(self.model, list(self.widths), tokens, lengths, logits=logits, start=span.start)
            if found.run.nbytes > self.job.runtime.room():
                self._clean.clear()
            self._clean[block] = found
        return self._clean[block]

    @cached_property
    def statistics(self) -> dict[Site, dict[str, np.ndarray]]:
        """The features' statistics, by site."""
        table = tables.read(self.job.run.verified("cache-acts", acts.FEATURES))
        by_site = {}
        for site in self.widths:
            mask = (table["layer"] == site.layer) & (table["site"] == site.name)
            by_site[site] = {name: column[mask] for name, column in table.items()}
        return by_site


class ShardWork:
    """The ablations of one shard: rows sorted by sequence, computed in batches, gathered into tables."""

    def __init__(self, inputs: Inputs, todo: Work, shard: Shard, contexts: dict[int, Firings]) -> None:
        self.inputs, self.todo, self.shard = inputs, todo, shard
        self.settings = inputs.job.settings
        self.firings = Firings.concat(list(contexts.values()))
        order = np.lexsort((self.firings.feature, self.firings.pos, self.firings.seq))
        self.firings = self.firings.where(order)
        self.counts = {index: len(found) for index, found in contexts.items()}
        self.downstream = selection.downstream(shard.site, list(inputs.widths), inputs.model.shape)
        self.logits = self.settings.ablate.logits
        size = (len(shard.features), inputs.model.shape.d_vocab if self.logits else 0)
        device = inputs.job.runtime.device
        # mps has no float64
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.sums = [torch.zeros(size, dtype=wide, device=device) for _ in range(2)]

    def compute(self, done: Callable[[int], None]) -> dict[str, list[tables.Columns]]:
        """The shard's tables, in parts."""
        inputs = self.inputs
        runtime = self.todo.planned_batch(inputs.job.runtime.rows_at_once(self._row_bytes()))
        rows = self._rows().to(runtime.device)
        parts: dict[str, list[tables.Columns]] = {"effects": [], "contexts": []}
        blocks = self.firings.seq // CLEAN_SEQUENCES
        for block in np.unique(blocks):
            here = slice(*np.searchsorted(blocks, [block, block + 1]).tolist())
            clean = inputs.clean(int(block), logits=self.logits)
            ablate = partial(self._ablate, rows[here], clean)
            count = here.stop - here.start
            for part, result in runtime.batches(count, self.todo.plan.batch_size, ablate, say=inputs.job.report.say):
                firings = self.firings.where(np.arange(here.start, here.stop)[part])
                parts["effects"] += self._effects(firings, result)
                parts["contexts"].append(self._context_rows(firings, result))
                self._add_logits(firings, result)
                done(len(firings))
        if self.logits:
            parts["logits"] = list(self._logit_rows())
        return parts

    def _ablate(self, rows: ablation.Rows, clean: ablation.Clean, part: slice) -> tuple[slice, ablation.Ablated]:
        saes = self.inputs.saes([self.shard.site, *self.downstream])
        return part, ablation.ablate(self.inputs.model, saes, self.shard.site, rows[part], clean, self.downstream)

    def _rows(self) -> ablation.Rows:
        plugin: Intervention = plugins.load("interventions", self.settings.ablate.intervention)
        means = self.inputs.statistics[self.shard.site]["mean_activation"]
        replacement = [plugin.replacement(float(means[feature])) for feature in self.firings.feature]
        return ablation.Rows(
            feature=torch.as_tensor(self.firings.feature).long(),
            seq=torch.as_tensor(self.firings.seq).long(),
            pos=torch.as_tensor(self.firings.pos).long(),
            replacement=torch.tensor(replacement, dtype=torch.float32),
        )

    def _row_bytes(self) -> int:
        """A generous estimate of what one row holds at once: streams, scores, encodings and logits."""
        shape, width = self.inputs.model.shape, int(self.inputs.sample[0].shape[1])
        local = self.settings.ablate.positions == "top" and self.inputs.model.resumes_at_places
        positions = 1 if local else width
        streams = positions * (30 * shape.d_model + 8 * width) + 4 * width * shape.d_z
        encodings = 6 * sum(self.inputs.widths[site] for site in self.downstream)
        edited = positions * self.inputs.widths[self.shard.site]
        return 4 * (streams + encodings + edited + 8 * shape.d_vocab)

    def _effects(self, here: Firings, result: ablation.Ablated) -> Iterator[tables.Columns]:
        site, read_pos = self.shard.site, result.read_pos.cpu().numpy()
        for down, changes in result.changes.items():
            row = changes.row.cpu().numpy()
            if len(row):
                yield {
                    "up_layer": site.layer,
                    "up_site": site.name,
                    "up_feature": here.feature[row],
                    "seq": here.seq[row],
                    "pos": here.pos[row],
                    "down_layer": down.layer,
                    "down_site": down.name,
                    "down_feature": _numpy(changes.feature).astype(np.int32),
                    "down_pos": read_pos[row].astype(np.int32),
                    "clean": _numpy(changes.clean),
                    "ablated": _numpy(changes.ablated),
                }

    def _context_rows(self, here: Firings, result: ablation.Ablated) -> tables.Columns:
        kl = np.full(len(here), np.nan, np.float32) if result.kl is None else _numpy(result.kl)
        site = {"layer": self.shard.site.layer, "site": self.shard.site.name}
        return site | {"feature": here.feature, "seq": here.seq, "pos": here.pos, "activation": here.value, "kl": kl}

    def _add_logits(self, here: Firings, result: ablation.Ablated) -> None:
        if result.logprob_effect is None or result.prob_effect is None:
            return
        place = torch.as_tensor(np.searchsorted(self.shard.features, here.feature), device=self.sums[0].device)
        of = torch.nn.functional.one_hot(place, len(self.shard.features)).T.float()
        for total, effect in zip(self.sums, (result.logprob_effect, result.prob_effect), strict=True):
            total += of @ effect  # one product instead of a row at a time; sums over batches stay wide

    def _logit_rows(self) -> Iterator[tables.Columns]:
        for index, logprob, prob in zip(self.shard.features, *self.sums, strict=True):
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


def _numpy(tensor: Tensor) -> np.ndarray:
    return np.asarray(tensor.cpu().numpy())
