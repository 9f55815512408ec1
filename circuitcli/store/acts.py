"""Cached activations on disk: the sampled tokens, and shards of the non-zero feature activations of one site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from circuitcli.core.contexts import Firings, by_feature
from circuitcli.core.sampling import Sample
from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.store import files
from circuitcli.store.records import fingerprint
from circuitcli.store.run import Run

TOKENS = "acts/tokens.safetensors"
TEXTS = "acts/texts.parquet"
CONTEXTS = "acts/contexts.parquet"
FEATURES = "acts/features.parquet"
NEXT = "acts/next.parquet"


def shard_name(stage_fingerprint: str, site: Site, first: int, stop: int) -> str:
    """The path of a shard, named by what decides its content."""
    digest = fingerprint({"stage": stage_fingerprint, "site": str(site), "sequences": [first, stop]})[:16]
    return f"acts/{site}/shard-{digest}.safetensors"


def write_firings(path: Path, firings: Firings) -> None:
    """Write one shard."""
    columns = {"seq": firings.seq, "pos": firings.pos, "feature": firings.feature}
    files.write(
        path,
        save({name: c.astype(np.int32) for name, c in columns.items()} | {"value": firings.value.astype(np.float32)}),
    )


def read_firings(path: Path) -> Firings:
    """Read one shard."""
    parts = _load(path, ("seq", "pos", "feature", "value"))
    return Firings(parts["seq"], parts["pos"], parts["feature"], parts["value"])


def write_sample(path: Path, sample: Sample) -> None:
    """Write the sampled sequences, padded right, and their lengths; if there are special tokens, where they are."""
    parts = {"tokens": sample.tokens.astype(np.int32), "lengths": sample.lengths.astype(np.int32)}
    files.write(path, save(parts | ({"special": sample.special} if sample.special.any() else {})))


def read_sample(path: Path) -> Sample:
    """Read them back."""
    parts = _load(path, ("tokens", "lengths"))
    special = parts.get("special", np.zeros(parts["tokens"].shape, np.bool_))
    return Sample(parts["tokens"], parts["lengths"], special)


def shards(run: Run, site: Site) -> Iterator[Firings]:
    """The activations of a site, a checked shard at a time, in the order of the sequences."""
    for name in run.require("cache-acts").files:
        if name.startswith(f"acts/{site}/"):
            yield read_firings(run.verified("cache-acts", name))


def firings_of(run: Run, site: Site, features: Sequence[int]) -> dict[int, Firings]:
    """All firings of some features of a site, in order of (seq, pos)."""
    beyond = max(features, default=-1) + 1
    wanted = np.zeros(beyond + 1, np.bool_)  # a look into a table takes a tenth of np.isin
    wanted[list(features)] = True
    parts = [shard.where(wanted[np.minimum(shard.feature, beyond)]) for shard in shards(run, site)]
    return by_feature(Firings.concat(parts), features)


def _load(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        parts = load(path.read_bytes())  # safetensors itself takes no name that isn't UTF-8
        return parts | {name: parts[name] for name in names}
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{path} is corrupt: {error}.", hint="Run `circuit cache-acts --force` on this run.") from None
