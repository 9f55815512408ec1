"""ablate: take features away, layer by layer, and keep what changed.

Each layer's features are the pinned ones, or follow from the effects of the layer before. They are cut into shards of
whole features, and only shards that don't exist yet are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.core import selection
from circuitcli.core.contexts import Firings, choose_contexts
from circuitcli.core.sites import FeatureId, Site, resolve_pins
from circuitcli.core.words import amount
from circuitcli.errors import InputError
from circuitcli.stages import next_tokens
from circuitcli.stages.pieces import Piece
from circuitcli.stages.stage import Job, Outcome, Work, stage, unstarted
from circuitcli.store import ablations, tables
from circuitcli.store.ablations import SHARD_FEATURES, Shard
from circuitcli.store.records import FileEntry, Record

if TYPE_CHECKING:
    from circuitcli.stages.estimate import Estimate
    from circuitcli.stages.inputs import JobInputs
    from circuitcli.stages.start import Start
    from circuitcli.stages.written import WrittenTask

NAME = "ablate"


def run(job: Job) -> Outcome:
    """Ablate the chosen features at their contexts.

    Raises:
        ResourceError: They would take more memory or disk than there is.
    """
    before = job.run.record(NAME)
    return stage(job, NAME, {}, lambda todo: Ablating(job, todo, before).work())


def preview(job: Job) -> Estimate | None:
    """What `run` would take; None where there is nothing to do. Nothing is written."""
    todo = unstarted(job, NAME, {})
    return None if todo is None else Ablating(job, todo).estimate()


@dataclass
class Ablating:
    """The work of the stage, which processes that share a run do otherwise in part; see `sharing`."""

    job: Job
    todo: Work
    before: Record | None = None  # of the stage, when it was done last

    @cached_property
    def inputs(self) -> JobInputs:
        """What is read, loaded when it is needed."""
        from circuitcli.stages.inputs import JobInputs

        return JobInputs(self.job)

    @cached_property
    def kinds(self) -> tuple[str, ...]:
        """The tables of a shard."""
        return next_tokens.kinds(self.job.settings)

    @cached_property
    def layers(self) -> list[int]:
        """The layers of the run, first to last."""
        return sorted({site.layer for site in self.inputs.widths})

    @cached_property
    def pins(self) -> list[FeatureId]:
        """The pinned features."""
        return resolve_pins(self.job.settings.features.pinned, self.inputs.widths)

    @cached_property
    def named(self) -> dict[int, list[FeatureId]]:
        """The features of the layers where they don't follow from effects: the pinned, and the first layer's."""
        self._require_firing(self.pins)
        self._require_replacements(self.start.features[:1])
        by_layer: dict[int, list[FeatureId]] = {}
        for pin in self.pins:
            by_layer.setdefault(pin.site.layer, []).append(pin)
        by_layer[self.layers[0]] = self.start.features
        return by_layer

    @cached_property
    def start(self) -> Start:
        """The features of the first layer."""
        return self.choose_start()

    def choose_start(self) -> Start:
        """The pinned ones, else those that `features.start` chooses."""
        from circuitcli.stages import start as starting

        first = self.layers[0]
        pins = [pin for pin in self.pins if pin.site.layer == first]
        return (starting.pinned(pins) if pins else starting.choose(self.inputs, first)).beside(self.pins)

    def estimate(self) -> Estimate | None:
        """What is still to do; None if that is nothing."""
        from circuitcli.stages.estimate import Named, count, estimate

        there = {
            FeatureId(shard.site, index)
            for shard in ablations.shards(self.todo.plan.shards)
            if self.there(shard)
            for index in shard.features
        }
        named = {}
        for layer, features in self._known(there).items():
            counts: dict[Site, list[int]] = {}
            for site in {feature.site for feature in features}:
                new = [f.index for f in features if f.site == site and f not in there]
                counts[site] = [len(found) for found in self.contexts(site, new).values()]
            named[layer] = Named(len(features), counts)
        passes = self.inputs.passes
        planned = count(self.job.settings, passes, named, exact=True)
        return estimate(self.job, passes, planned, self.job.run.free_disk())

    def _known(self, there: set[FeatureId]) -> dict[int, list[FeatureId]]:
        """The features of each layer, as far as they are known: named, or behind a layer whose effects are there."""
        known = dict(self.named)
        effects: list[tuple[FeatureId, FeatureId, float]] = []
        for layer in self.layers:
            known[layer] = self.features(layer, effects)
            if not there.issuperset(known[layer]):
                break
            effects = [effect for result in self._results(known[layer]) for effect in _mean_effects(result)]
        return known

    def features(self, layer: int, effects: Sequence[tuple[FeatureId, FeatureId, float]]) -> list[FeatureId]:
        """The features of a layer: those that are named, or those that the effects of the layer before lead to.

        One that an ablation switches on, and that fires nowhere by itself, has no context at which it could be ablated.
        """
        if layer in self.named:
            return self.named[layer]
        settings = self.job.settings.features
        effects = [effect for effect in effects if self._fires(effect[1])]
        return selection.branch(effects, layer, branching=settings.branching, max_features=settings.max_features)

    def work(self) -> None:
        """All layers, first to last."""
        from circuitcli.runtime.device import peak_memory

        self._note_stored()
        expected = self.estimate()
        self.job.report.say(f"ablate: starts from {self.start.words}.")
        if expected is not None:
            self.job.report.say(expected.words)
            expected.check(allow_over_memory=self.job.settings.runtime.allow_over_memory)
        chosen, contexts = self.every_layer()
        self.todo.facts.update(
            start=self.start.words,
            features=[str(feature) for feature in chosen],
            features_ablated=len(chosen),
            contexts=contexts,
            engine=self._engine(),
            peak_memory_bytes=peak_memory(self.job.runtime.device),
        )

    def every_layer(self) -> tuple[list[FeatureId], int]:
        """Compute what doesn't exist yet of each layer; the features that are ablated, and at how many contexts."""
        effects: list[tuple[FeatureId, FeatureId, float]] = []
        chosen: list[FeatureId] = []
        contexts = 0
        for layer in self.layers:
            features = self.features(layer, effects)
            self.compute(f"Ablating layer {layer}", self.shards(features))
            effects = []
            for result in self._results(features):
                contexts += len(result.contexts["seq"])
                effects += _mean_effects(result)
            chosen += features
        return chosen, contexts

    def _engine(self) -> str:
        """How the ablations were computed: now, or when all of them were."""
        if "model" not in vars(self.inputs.passes) and self.before is not None and "engine" in self.before.facts:
            return str(self.before.facts["engine"])
        from circuitcli.runtime.engine import engine

        return engine(self.inputs.passes.model)

    def _require_firing(self, pins: Sequence[FeatureId]) -> None:
        tokens = int(self.inputs.passes.sample.counted.sum())
        for pin in pins:
            if not self._fires(pin):
                raise InputError(
                    f"The pinned feature {pin} fires nowhere in the sample, at 0 of {amount(tokens, 'position')}.",
                    hint="Pin another feature, or give text in which it fires: more --num-sequences, or --text.",
                )

    def _require_replacements(self, features: Sequence[FeatureId]) -> None:
        """Try the intervention: a text that it can't work with is refused before anything is written."""
        for feature in features:
            self.inputs.replacements(feature.site, self.contexts(feature.site, [feature.index])[feature.index])

    def _fires(self, feature: FeatureId) -> bool:
        return bool(self.inputs.statistics[feature.site]["n_active"][feature.index])

    def shards(self, features: Sequence[FeatureId]) -> list[Shard]:
        """The shards that hold these features: planned ones, and new ones for the features that no plan has."""
        with self.todo.planning():
            return self._planned(features)

    def _planned(self, features: Sequence[FeatureId]) -> list[Shard]:
        planned = ablations.shards(self.todo.plan.shards)
        have = {FeatureId(shard.site, index) for shard in planned for index in shard.features}
        for site in self.inputs.widths:
            new = [f.index for f in features if f.site == site and f not in have]
            for start in range(0, len(new), SHARD_FEATURES):
                shard = Shard.of(self.todo.plan.fingerprint, site, new[start : start + SHARD_FEATURES])
                planned.append(shard)
                self.todo.expect(shard.planned(self.kinds))
        wanted = set(features)
        return [s for s in planned if wanted & {FeatureId(s.site, index) for index in s.features}]

    def _note_stored(self) -> None:
        """Note the files of every shard that is there, also of features that aren't chosen now: they stay valid."""
        for shard in ablations.shards(self.todo.plan.shards):
            names = shard.names(self.kinds).values()
            if all(self.todo.found(name) for name in names):
                paths = {name: self.job.run.path(name) for name in names}
                self.todo.files.update({n: self.job.run.entry(p, tables.rows(p)) for n, p in paths.items()})

    def compute(self, what: str, shards: Sequence[Shard]) -> None:
        """Have the shards that don't exist yet computed; each is written as it comes."""
        written: dict[Shard, dict[str, FileEntry]] = {}
        missing = [shard for shard in shards if not self.have(shard)]
        pieces = [self._piece(shard, written) for shard in missing]
        self.todo.make(what, "contexts", pieces, self.inputs.places, of=[shard.digest for shard in shards])
        for shard in missing:  # in whatever order they came
            self.todo.files.update(written.get(shard, {}))

    def _piece(self, shard: Shard, written: dict[Shard, dict[str, FileEntry]]) -> Piece:
        """A shard; what is written of it is noted."""
        contexts = self.contexts(shard.site, shard.features)

        def write(results: Sequence[dict[str, tables.Encoded]]) -> None:
            [made] = results
            written[shard] = ablations.write(self.job.run, shard, made)

        return Piece(
            name=shard.digest,
            units=sum(map(len, contexts.values())),
            there=lambda: self.there(shard),
            tasks=lambda: [self.task(shard.site, contexts)],
            write=write,
        )

    def have(self, shard: Shard) -> bool:
        """Whether nothing is to be done for a shard: its files are noted."""
        return set(shard.names(self.kinds).values()) <= set(self.todo.files)

    def there(self, shard: Shard) -> bool:
        """Whether all tables of a shard are there."""
        return all(self.job.run.path(name).is_file() for name in shard.names(self.kinds).values())

    def task(self, site: Site, contexts: dict[int, Firings]) -> WrittenTask:
        from circuitcli.stages.written import WrittenTask

        self.todo.planned_batch(self.inputs.batch_size)
        plan = self.todo.plan
        return WrittenTask(self.inputs.task(site, contexts, batch_size=plan.batch_size, threads=plan.threads))

    def contexts(self, site: Site, features: Sequence[int]) -> dict[int, Firings]:
        """The contexts at which each feature is ablated."""
        settings = self.job.settings
        return {
            index: choose_contexts(
                found,
                FeatureId(site, index),
                cap=settings.features.seq_cap,
                seed=settings.seed,
                whole=settings.ablate.positions == "all",
            )
            for index, found in self.inputs.firings_of(site, features).items()
        }

    def _results(self, features: Sequence[FeatureId]) -> Iterator[ablations.FeatureAblations]:
        for shard in self.shards(features):
            wanted = [feature.index for feature in features if feature.site == shard.site]
            yield from ablations.of_features(self.job.run, shard, wanted, self.kinds)


def _mean_effects(result: ablations.FeatureAblations) -> Iterator[tuple[FeatureId, FeatureId, float]]:
    """The mean effect of one feature on each that it changed; contexts without a change count 0."""
    effects, n = result.effects, len(result.contexts["seq"])
    change = effects["ablated"].astype(np.float64) - effects["clean"]
    for layer, site in sorted(set(zip(effects["down_layer"].tolist(), effects["down_site"].tolist(), strict=True))):
        here = (effects["down_layer"] == layer) & (effects["down_site"] == site)
        targets, place = np.unique(effects["down_feature"][here], return_inverse=True)
        for target, total in zip(targets, np.bincount(place, weights=change[here]), strict=True):
            yield result.feature, FeatureId(Site(layer, site), int(target)), float(total) / n
