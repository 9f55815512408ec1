"""Cached activations on disk: the sampled tokens, and shards of the non-zero feature activations of one site."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from circuitcli.core.contexts import Firings, by_feature
from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.store import files
from circuitcli.store.records import fingerprint
from circuitcli.store.run import Run

TOKENS = "acts/tokens.safetensors"
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
    return Firings(**_load(path, ("seq", "pos", "feature", "value")))


def write_tokens(path: Path, tokens: Int[np.ndarray, "n t"], lengths: Int[np.ndarray, " n"]) -> None:
    """Write the sampled sequences, padded right, and their lengths."""
    files.write(path, save({"tokens": tokens.astype(np.int32), "lengths": lengths.astype(np.int32)}))


def read_tokens(path: Path) -> tuple[Int[np.ndarray, "n t"], Int[np.ndarray, " n"]]:
    """Read them back."""
    parts = _load(path, ("tokens", "lengths"))
    return parts["tokens"], parts["lengths"]


def shards(run: Run, site: Site) -> Iterator[Firings]:
    """The activations of a site, a checked shard at a time, in the order of the sequences."""
    for name in run.require("cache-acts").files:
        if name.startswith(f"acts/{site}/"):
            yield read_firings(run.verified("cache-acts", name))


def firings_of(run: Run, site: Site, features: Sequence[int]) -> dict[int, Firings]:
    """All firings of some features of a site, in order of (seq, pos)."""
    parts = [shard.where(np.isin(shard.feature, list(features))) for shard in shards(run, site)]
    return by_feature(Firings.concat(parts), features)


def _load(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    try:
        parts = load_file(path)
        return {name: parts[name] for name in names}
    except (SafetensorError, KeyError) as error:
        raise InputError(f"{path} is corrupt: {error}.", hint="Run `circuit cache-acts --force` on this run.") from None
