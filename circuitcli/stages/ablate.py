"""ablate: take features away, layer by layer, and keep what changed.

Each layer's features are the pinned ones, or follow from the effects of the layer before. They are cut into shards of
whole features, and only shards that don't exist yet are computed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitcli.core.branches import Branches, Follow, led_to
from circuitcli.core.contexts import Firings, choose_contexts
from circuitcli.core.sites import FeatureId, Site, resolve_pins
from circuitcli.core.words import amount
from circuitcli.errors import InputError
from circuitcli.stages import next_tokens
from circuitcli.stages.pieces import Piece, Whole
from circuitcli.stages.spreading import shard_features
from circuitcli.stages.stage import Job, Outcome, Work, stage, unstarted
from circuitcli.store import ablations, tables
from circuitcli.store.ablations import Shard
from circuitcli.store.records import FileEntry, Record

if TYPE_CHECKING:
    from circuitcli.stages.estimate import Estimate
    from circuitcli.stages.inputs import JobInputs
    from circuitcli.stages.start import Start
    from circuitcli.stages.written import Found, Written, WrittenTask

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
    branches: dict[Shard, Branches] = field(default_factory=dict, init=False)  # of shards computed here just now

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
                counts[site] = self._counts(site, new)
            named[layer] = Named(len(features), counts)
        passes = self.inputs.passes
        planned = count(self.job.settings, passes, named, exact=True)
        return estimate(self.job, passes, planned, self.shard_features, self.job.run.free_disk())

    def _known(self, there: set[FeatureId]) -> dict[int, list[FeatureId]]:
        """The features of each layer, as far as they are known: named, or behind a layer whose effects are there."""
        known = dict(self.named)
        before: list[Branches] = []
        for layer in self.layers:
            known[layer] = self.features(layer, before)
            if not there.issuperset(known[layer]):
                break
            before = self._branches(layer, known[layer], self.shards(known[layer]))
        return known

    def features(self, layer: int, before: Sequence[Branches]) -> list[FeatureId]:
        """The features of a layer: those that are named, or those that the layer before leads to."""
        if layer in self.named:
            return self.named[layer]
        return led_to(before, self.job.settings.features.max_features)

    def follow(self, layer: int) -> Follow:
        """Which effects of a layer's features may be followed: to the next layer's, where these aren't named."""
        sites = [site for site in self._after(layer) if site.layer not in self.named]
        firing = {site: self.inputs.statistics[site]["n_active"] > 0 for site in sites}
        return Follow.to(firing, self.job.settings.features.branching)

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
        before: list[Branches] = []
        chosen: list[FeatureId] = []
        contexts = 0
        for layer in self.layers:
            features = self.features(layer, before)
            shards = self.shards(features)
            self.compute(f"Ablating layer {layer}", shards, self.follow(layer))
            before = self._branches(layer, features, shards)
            contexts += sum(int(part.contexts.sum()) for part in before)
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

    @property
    def shard_features(self) -> int:
        """Features of a new shard."""
        return shard_features(self.job, alone=isinstance(self.todo.pieces, Whole))

    def shards(self, features: Sequence[FeatureId]) -> list[Shard]:
        """The shards that hold these features: planned ones, and new ones for the features that no plan has."""
        with self.todo.planning():
            return self._planned(features)

    def _planned(self, features: Sequence[FeatureId]) -> list[Shard]:
        planned, added = ablations.shards(self.todo.plan.shards), dict[str, Any]()
        have = {(shard.site, index) for shard in planned for index in shard.features}
        wanted, size = _by_site(features), self.shard_features
        for site in self.inputs.widths:
            new = [index for index in wanted.get(site, ()) if (site, index) not in have]
            for start in range(0, len(new), size):
                shard = Shard.of(self.todo.plan.fingerprint, site, new[start : start + size])
                planned.append(shard)
                added |= shard.planned(self.kinds)
        if added:
            self.todo.expect(added)
        chosen = {site: set(indices) for site, indices in wanted.items()}
        return [one for one in planned if not chosen.get(one.site, set()).isdisjoint(one.features)]

    def _note_stored(self) -> None:
        """Note the files of every shard that is there, also of features that aren't chosen now: they stay valid."""
        for shard in ablations.shards(self.todo.plan.shards):
            names = shard.names(self.kinds).values()
            if all(self.todo.found(name) for name in names):
                paths = {name: self.job.run.path(name) for name in names}
                self.todo.files.update({n: self.job.run.entry(p, tables.rows(p)) for n, p in paths.items()})

    def compute(self, what: str, shards: Sequence[Shard], follow: Follow) -> None:
        """Have the shards that don't exist yet computed; each is written as it comes."""
        noted: dict[Shard, dict[str, FileEntry]] = {}
        missing = [shard for shard in shards if not self.have(shard)]
        ahead = _Ahead(set(missing))
        pieces = [self._piece(shard, follow, noted, ahead) for shard in missing]
        self.branches = {}
        self.todo.make(what, "contexts", pieces, self.inputs.places, of=[shard.digest for shard in shards])
        self._in_order(shards, noted)

    def _in_order(self, shards: Sequence[Shard], noted: Mapping[Shard, Mapping[str, FileEntry]]) -> None:
        """Note the files of shards in their order, whoever made them, and whenever."""
        files = self.todo.files
        for shard in shards:
            for name in shard.names(self.kinds).values():
                entry = noted.get(shard, {}).get(name) or files.get(name)
                if entry is not None:
                    files.pop(name, None)
                    files[name] = entry

    def _piece(self, shard: Shard, follow: Follow, noted: dict[Shard, dict[str, FileEntry]], ahead: _Ahead) -> Piece:
        """A shard; what is written of it is noted, and where it leads kept."""

        def tasks() -> list[WrittenTask]:
            made = [self.task(shard.site, self.contexts(shard.site, shard.features), follow)]
            ahead.left.discard(shard)
            return made

        def write(results: Sequence[Written | Found]) -> None:
            [found] = results
            made = found.written
            noted[shard], self.branches[shard] = ablations.write(self.job.run, shard, made.files), made.branches
            if ahead.turn():
                self._look_ahead(shard.site.layer)

        return Piece(
            name=shard.digest,
            units=sum(self._counts(shard.site, shard.features)),
            there=lambda: self.there(shard),
            tasks=tasks,
            write=write,
            like=shard.site,
        )

    def _look_ahead(self, layer: int) -> None:
        """Read where features of the layer behind one fire, beside writing the last shards of that one."""
        for site in self._after(layer) if self.job.executor.elsewhere else ():
            self.inputs.firings_of(site)

    def _after(self, layer: int) -> list[Site]:
        """The sites of the layer behind one; none behind the last."""
        later = [one for one in self.layers if one > layer]
        return [site for site in self.inputs.widths if site.layer in later[:1]]

    def have(self, shard: Shard) -> bool:
        """Whether nothing is to be done for a shard: its files are noted."""
        return all(name in self.todo.files for name in shard.names(self.kinds).values())

    def there(self, shard: Shard) -> bool:
        """Whether all tables of a shard are there."""
        return all(self.job.run.path(name).is_file() for name in shard.names(self.kinds).values())

    def task(self, site: Site, contexts: dict[int, Firings], follow: Follow) -> WrittenTask:
        from circuitcli.stages.written import WrittenTask

        self.todo.planned_batch(self.todo.plan.batch_size or self.inputs.batch_size)
        plan = self.todo.plan
        made = self.inputs.task(site, contexts, batch_size=plan.batch_size, threads=plan.threads)
        return WrittenTask(made, follow, behind=self.job.behind and not self.job.executor.elsewhere)

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
            for index, found in self.inputs.firings_of(site).of(features).items()
        }

    def _counts(self, site: Site, features: Sequence[int]) -> list[int]:
        """At how many contexts each feature is ablated."""
        whole, cap = self.job.settings.ablate.positions == "all", self.job.settings.features.seq_cap
        return self.inputs.firings_of(site).counts(features, cap=cap, whole=whole)

    def _branches(self, layer: int, features: Sequence[FeatureId], shards: Sequence[Shard]) -> list[Branches]:
        """Where the ablations of some features of a layer lead, shard by shard."""
        follow, wanted = self.follow(layer), _by_site(features)
        found = (self.branches.get(one) or ablations.branches(self.job.run, one, follow) for one in shards)
        return [part.only(np.asarray(wanted[one.site])) for one, part in zip(shards, found, strict=True)]


@dataclass(eq=False)
class _Ahead:
    """When a layer's inputs can be read: once, after all tasks of the one before were made, which read their own.

    Attributes:
        left: Shards whose tasks aren't made.
    """

    left: set[Shard]
    _taken: threading.Lock = field(default_factory=threading.Lock)

    def turn(self) -> bool:
        """Whether it is time, said to whoever asks first."""
        return not self.left and self._taken.acquire(blocking=False)


def _by_site(features: Iterable[FeatureId]) -> dict[Site, list[int]]:
    found: dict[Site, list[int]] = {}
    for feature in features:
        found.setdefault(feature.site, []).append(feature.index)
    return found
