"""Shards of ablations on disk: whole features of one site each, three tables a shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from circuitcli.core import rows
from circuitcli.core.branches import Branches, Follow
from circuitcli.core.sites import FeatureId, Site, parse_feature
from circuitcli.store import files, tables
from circuitcli.store.records import FileEntry, fingerprint
from circuitcli.store.run import Run

# Features of one shard, if a CPU makes it: what an interruption may lose, and whose effects are held at
# once. A GPU is given more, while the last few are written.
SHARD_FEATURES = 32


def kinds(*, logits: bool, prompts: bool) -> tuple[str, ...]:
    """The tables of a shard, in the order in which they are written: it counts as done once it has its contexts.

    With the next token `logits`, and of prompts `next`.
    """
    return ("effects", *(("logits",) if logits else ()), *(("next",) if logits and prompts else ()), "contexts")


@dataclass(frozen=True)
class Shard:
    """Some features of one site, whose ablations are computed and stored together."""

    site: Site
    features: tuple[int, ...]
    digest: str

    @classmethod
    def of(cls, stage_fingerprint: str, site: Site, features: Sequence[int]) -> Shard:
        """Named by what decides its content."""
        inputs = {"stage": stage_fingerprint, "site": str(site), "features": list(features)}
        return cls(site, tuple(features), fingerprint(inputs)[:16])

    def names(self, kinds: Iterable[str]) -> dict[str, str]:
        """The path of each of its tables of these kinds."""
        return {kind: f"ablations/{kind}-{self.digest}.parquet" for kind in kinds}

    def planned(self, kinds: Iterable[str]) -> dict[str, Any]:
        """What a plan says of its files."""
        what = {"layer": self.site.layer, "site": self.site.name, "features": list(self.features)}
        return dict.fromkeys(self.names(kinds).values(), what)


def shards(planned: dict[str, Any]) -> list[Shard]:
    """The shards of a plan, in the order of their sites and features."""
    found = {}
    for name, what in planned.items():
        digest = name.rpartition("-")[2].removesuffix(".parquet")
        found[digest] = Shard(Site(what["layer"], what["site"]), tuple(what["features"]), digest)
    return sorted(found.values(), key=lambda shard: (shard.site.order, shard.features))


def encoded(parts: Mapping[str, list[tables.Columns]]) -> dict[str, tables.Encoded]:
    """A shard's tables as files have them, by kind."""
    return {kind: tables.encoded(f"ablations/{kind}", columns) for kind, columns in parts.items()}


def decoded(made: Mapping[str, tables.Encoded]) -> dict[str, list[tables.Columns]]:
    """The tables of such files."""
    return {kind: [tables.decoded(file)] for kind, file in made.items()}


def write(run: Run, shard: Shard, made: Mapping[str, tables.Encoded]) -> dict[str, FileEntry]:
    """Write a shard's files in the order of their kinds."""
    entries = {}
    for kind, name in shard.names(kinds(logits="logits" in made, prompts="next" in made)).items():
        path = run.path(name)
        files.write(path, memoryview(made[kind].data))
        entries[name] = run.entry(path, made[kind].rows)
    return entries


def stored(run: Run) -> list[Shard]:
    """The shards that a run has of its finished ablations, those of features that aren't chosen now as well.

    Raises:
        InputError: They aren't finished.
    """
    record, plan = run.require("ablate"), run.plan("ablate")
    found = shards(plan.shards if plan else {})
    return [shard for shard in found if record.files.keys() >= set(shard.names(("contexts",)).values())]


def chosen(run: Run) -> list[FeatureId]:
    """The features of the present plan: those that the settings led to when the ablations were finished."""
    return [parse_feature(name) for name in run.require("ablate").facts["features"]]


@dataclass(frozen=True, eq=False)
class FeatureAblations:
    """What ablating one feature did, as stored.

    `contexts` has a row for each ablation, `effects` a row for each downstream feature that changed at one (with
    `context`, the index of the row in `contexts`), `logits` the most changed tokens (empty without logits), `next` what
    each ablation did to the tokens that were likeliest where it was read (of prompts, else empty).
    """

    feature: FeatureId
    contexts: tables.Columns
    effects: tables.Columns
    logits: tables.Columns
    next: tables.Columns


def branches(run: Run, shard: Shard, follow: Follow) -> Branches:
    """Where the ablations of a shard lead, from its files."""
    names = shard.names(("contexts", "effects"))
    contexts = [tables.read(_path(run, names["contexts"]), ["feature"])]
    columns = ["up_feature", "down_layer", "down_site", "down_feature", "clean", "ablated"]
    effects = [tables.read(_path(run, names["effects"]), columns)] if follow.firing else []
    return Branches.of(sorted(shard.features), contexts, effects, follow)


def _path(run: Run, name: str) -> Path:
    """A shard's file, whose hash is checked if it is recorded: a record of other features doesn't know it."""
    record = run.record("ablate")
    return run.verified("ablate", name) if record and name in record.files else run.path(name)


def of_features(run: Run, shard: Shard, wanted: Iterable[int], kinds: Sequence[str]) -> Iterator[FeatureAblations]:
    """What the wanted features of a shard did, one after another; hashes are checked of files that are recorded."""
    whole = {kind: tables.read(_path(run, name)) for kind, name in shard.names(kinds).items()}
    empty: tables.Columns = {"token_id": np.zeros(0, np.int32)}
    features = np.asarray(sorted(set(wanted) & set(shard.features)), np.int32)
    found = {
        kind: rows.groups(table["up_feature" if kind == "effects" else "feature"], features)
        for kind, table in whole.items()
    }
    for i, index in enumerate(features.tolist()):
        own = {kind: rows.pick(whole[kind], of_kind[i]) for kind, of_kind in found.items()}
        contexts, effects = own["contexts"], own["effects"]
        context = rows.match(*([table[name] for name in ("seq", "pos")] for table in (effects, contexts)))
        assert (context >= 0).all()  # an effect is of an ablation
        effects["context"] = context
        yield FeatureAblations(
            FeatureId(shard.site, index), contexts, effects, own.get("logits", empty), own.get("next", empty)
        )
