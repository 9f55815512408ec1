"""ablate: take features away, layer by layer, and keep what changed.

Each layer's features are the pinned ones, or follow from the effects of the layer before. They are cut into shards of
whole features, and only shards that don't exist yet are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from circuitcli import plugins
from circuitcli.core import ablation, selection
from circuitcli.core.contexts import Firings, choose_contexts
from circuitcli.core.effects import extreme_tokens
from circuitcli.core.model import Model
from circuitcli.core.sae import Sae
from circuitcli.core.sites import FeatureId, Site, resolve_pins
from circuitcli.errors import InputError
from circuitcli.interventions import Intervention
from circuitcli.runtime.device import peak_memory
from circuitcli.stages.fetch_saes import entries_of, load_sae
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.store import ablations, acts, tables
from circuitcli.store.ablations import Shard

NAME = "ablate"
# Features of one shard: what an interruption may lose, and whose logit effects are held at once.
SHARD_FEATURES = 8
# Tokens kept of each feature's logit effects, at either end.
LOGIT_TOKENS = 256


def run(job: Job) -> Outcome:
    """Ablate the chosen features at their contexts."""
    parent = job.parent("cache-acts")
    return stage(job, NAME, {"cache-acts": parent.result}, lambda todo: _Ablations(job, todo).work())


@dataclass
class _Ablations:
    """The work of the stage: what it reads, and what it has loaded so far."""

    job: Job
    todo: Work

    @cached_property
    def widths(self) -> dict[Site, int]:
        return {entry.at: entry.d_sae for entry in entries_of(self.job.run)}

    @cached_property
    def saes(self) -> dict[Site, Sae]:
        return {entry.at: load_sae(self.job, entry) for entry in entries_of(self.job.run)}

    @cached_property
    def model(self) -> Model:
        from circuitcli.runtime import model as models

        return models.load(self.job.settings.model, self.job.runtime)

    @cached_property
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """The sequences that count, and their lengths."""
        tokens, lengths = acts.read_tokens(self.job.run.verified("cache-acts", acts.TOKENS))
        count = self.job.settings.texts.num_sequences
        return tokens[:count], lengths[:count]

    @cached_property
    def statistics(self) -> dict[Site, dict[str, np.ndarray]]:
        """The features' statistics, by site."""
        table = tables.read(self.job.run.verified("cache-acts", acts.FEATURES))
        by_site = {}
        for site in self.widths:
            mask = (table["layer"] == site.layer) & (table["site"] == site.name)
            by_site[site] = {name: column[mask] for name, column in table.items()}
        return by_site

    def work(self) -> None:
        """All layers, first to last."""
        settings = self.job.settings.features
        pins = resolve_pins(settings.pinned, self.widths)
        self._require_firing(pins)
        layers = sorted({site.layer for site in self.widths})
        effects: list[tuple[FeatureId, FeatureId, float]] = []
        chosen: list[FeatureId] = []
        contexts = 0
        for layer in layers:
            features = [pin for pin in pins if pin.site.layer == layer]
            if not features and layer == layers[0]:
                features = selection.thin(self._firing(layer), settings.thinning, self.job.settings.seed)
            elif not features:
                features = selection.branch(
                    effects, layer, branching=settings.branching, max_features=settings.max_features
                )
            shards = self._shards(features)
            self._compute(f"Ablating layer {layer}", shards)
            effects = []
            for result in self._results(shards, features):
                contexts += len(result.contexts["seq"])
                effects += _mean_effects(result)
            chosen += features
        self.todo.facts.update(
            features=[str(feature) for feature in chosen],
            features_ablated=len(chosen),
            contexts=contexts,
            peak_memory_bytes=peak_memory(self.job.runtime.device),
        )

    def _require_firing(self, pins: Sequence[FeatureId]) -> None:
        tokens = int((self.sample[1].astype(np.int64) - 1).sum())
        for pin in pins:
            if self.statistics[pin.site]["n_active"][pin.index] == 0:
                raise InputError(
                    f"The pinned feature {pin} fires at 0 of the {tokens} positions of the sample.",
                    hint="Pin another feature, or give text in which it fires: more --num-sequences, or --text.",
                )

    def _firing(self, layer: int) -> Iterator[FeatureId]:
        for site in self.widths:
            if site.layer == layer:
                yield from (FeatureId(site, int(i)) for i in np.flatnonzero(self.statistics[site]["n_active"]))

    def _shards(self, features: Sequence[FeatureId]) -> list[Shard]:
        """The shards that hold these features: planned ones, and new ones for the features that no plan has."""
        planned = ablations.shards(self.todo.plan.shards)
        have = {FeatureId(shard.site, index) for shard in planned for index in shard.features}
        logits = self.job.settings.ablate.logits
        for site in self.widths:
            new = [f.index for f in features if f.site == site and f not in have]
            for start in range(0, len(new), SHARD_FEATURES):
                shard = Shard.of(self.todo.plan.fingerprint, site, new[start : start + SHARD_FEATURES])
                planned.append(shard)
                self.todo.expect(shard.planned(logits=logits))
        wanted = set(features)
        return [s for s in planned if wanted & {FeatureId(s.site, index) for index in s.features}]

    def _compute(self, what: str, shards: Sequence[Shard]) -> None:
        """Compute the shards that don't exist yet, and note the files of all."""
        logits = self.job.settings.ablate.logits
        missing = []
        for shard in shards:
            paths = {name: self.job.run.path(name) for name in shard.names(logits=logits).values()}
            if all(path.is_file() for path in paths.values()):
                self.todo.files.update({n: self.job.run.entry(p, tables.rows(p)) for n, p in paths.items()})
            else:
                missing.append((shard, self._contexts(shard)))
        total = sum(len(found) for _, contexts in missing for found in contexts.values())
        if not missing:
            return
        with self.job.report.track(what, total, "contexts") as done:
            for shard, contexts in missing:
                parts = _ShardWork(self, shard, contexts).compute(done)
                self.todo.files.update(ablations.write(self.job.run, shard, parts))

    def _contexts(self, shard: Shard) -> dict[int, Firings]:
        """The contexts at which each feature of a shard is ablated."""
        settings = self.job.settings
        firings = acts.firings_of(self.job.run, shard.site, shard.features)
        return {
            index: choose_contexts(
                found.where(found.seq < settings.texts.num_sequences),
                FeatureId(shard.site, index),
                cap=settings.features.seq_cap,
                seed=settings.seed,
                whole=settings.ablate.positions == "all",
            )
            for index, found in firings.items()
        }

    def _results(
        self, shards: Sequence[Shard], features: Sequence[FeatureId]
    ) -> Iterator[ablations.FeatureAblations]:
        for shard in shards:
            wanted = [feature.index for feature in features if feature.site == shard.site]
            yield from ablations.of_features(self.job.run, shard, wanted, logits=self.job.settings.ablate.logits)


def _mean_effects(result: ablations.FeatureAblations) -> Iterator[tuple[FeatureId, FeatureId, float]]:
    """The mean effect of one feature on each that it changed; contexts without a change count 0."""
    effects, n = result.effects, len(result.contexts["seq"])
    change = effects["ablated"].astype(np.float64) - effects["clean"]
    for layer, site in sorted(set(zip(effects["down_layer"].tolist(), effects["down_site"].tolist(), strict=True))):
        here = (effects["down_layer"] == layer) & (effects["down_site"] == site)
        targets, place = np.unique(effects["down_feature"][here], return_inverse=True)
        for target, total in zip(targets, np.bincount(place, weights=change[here]), strict=True):
            yield result.feature, FeatureId(Site(layer, site), int(target)), float(total) / n


class _ShardWork:
    """The ablations of one shard: rows sorted by sequence, computed in batches, gathered into tables."""

    def __init__(self, stage: _Ablations, shard: Shard, contexts: dict[int, Firings]) -> None:
        self.stage, self.shard = stage, shard
        self.settings = stage.job.settings
        self.firings = Firings.concat(list(contexts.values()))
        order = np.lexsort((self.firings.feature, self.firings.pos, self.firings.seq))
        self.firings = self.firings.where(order)
        self.counts = {index: len(found) for index, found in contexts.items()}
        self.downstream = selection.downstream(shard.site, list(stage.widths), stage.model.shape)
        self.logits = self.settings.ablate.logits
        size = (len(shard.features), stage.model.shape.d_vocab if self.logits else 0)
        device = stage.job.runtime.device
        # mps has no float64
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.sums = [torch.zeros(size, dtype=wide, device=device) for _ in range(2)]

    def compute(self, done: Callable[[int], None]) -> dict[str, list[tables.Columns]]:
        """The shard's tables, in parts."""
        stage, site = self.stage, self.shard.site
        runtime = stage.todo.planned_batch(stage.job.runtime.rows_at_once(self._row_bytes()))
        rows = self._rows().to(runtime.device)
        tokens, lengths = (torch.as_tensor(part, device=runtime.device).long() for part in stage.sample)

        def work(part: slice) -> tuple[slice, ablation.Ablated]:
            return part, ablation.ablate(
                stage.model, stage.saes, site, rows[part], tokens, lengths, self.downstream, logits=self.logits
            )

        parts: dict[str, list[tables.Columns]] = {"effects": [], "contexts": []}
        for part, result in runtime.batches(len(rows), stage.todo.plan.batch_size, work, say=stage.job.report.say):
            here = self.firings.where(np.arange(len(rows))[part])
            parts["effects"] += self._effects(here, result)
            parts["contexts"].append(self._context_rows(here, result))
            self._add_logits(here, result)
            done(len(here))
        if self.logits:
            parts["logits"] = list(self._logit_rows())
        return parts

    def _rows(self) -> ablation.Rows:
        plugin: Intervention = plugins.load("interventions", self.settings.ablate.intervention)
        means = self.stage.statistics[self.shard.site]["mean_activation"]
        replacement = [plugin.replacement(float(means[feature])) for feature in self.firings.feature]
        columns = (torch.as_tensor(c).long() for c in (self.firings.feature, self.firings.seq, self.firings.pos))
        return ablation.Rows(*columns, torch.tensor(replacement, dtype=torch.float32))

    def _row_bytes(self) -> int:
        """A generous estimate of what one row holds at once: streams, scores, encodings and logits."""
        shape, width = self.stage.model.shape, self.stage.sample[0].shape[1]
        streams = width * (30 * shape.d_model + 8 * width)
        encodings = 6 * sum(self.stage.widths[site] for site in self.downstream)
        edited = self.stage.widths[self.shard.site] * (width if self.settings.ablate.positions == "all" else 1)
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
        return site | {
            "feature": here.feature, "seq": here.seq, "pos": here.pos, "activation": here.value, "kl": kl
        }

    def _add_logits(self, here: Firings, result: ablation.Ablated) -> None:
        if result.logprob_effect is None or result.prob_effect is None:
            return
        place = torch.as_tensor(np.searchsorted(self.shard.features, here.feature), device=self.sums[0].device)
        for total, effect in zip(self.sums, (result.logprob_effect, result.prob_effect), strict=True):
            total.index_add_(0, place, effect.to(total.dtype))

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

