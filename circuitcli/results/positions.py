"""What fires where in a prompt: at each position the strongest features, and what each does to the next token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from circuitcli.core import rows
from circuitcli.core.circuit import TokenEffect
from circuitcli.core.contexts import Firings
from circuitcli.core.sites import FeatureId, Site
from circuitcli.errors import UsageError
from circuitcli.results import next_tokens, passages
from circuitcli.results.labels import labelled
from circuitcli.results.next_tokens import FollowedToken, NextToken
from circuitcli.results.nodes import token_effects
from circuitcli.results.reader import Reader
from circuitcli.store import ablations, acts, reduced, tables

# The strongest features of one site shown at one position, and as many of the ablated ones; activations of different
# SAEs can't be compared.
PER_SITE = 3
# The position of an edit of a whole sequence.
WHOLE = -1


@dataclass(frozen=True)
class Firing:
    """One feature at one position.

    Attributes:
        feature: Its name.
        label: What it was called when the graph was drawn.
        activation: SAE units.
        kl: KL(clean ‖ ablated) of the next token where this ablation was read, nats: here (`top`), summed over here and
            later positions (`onward`), or at the sequence's last position (`all`). None if it wasn't ablated here, or
            without the next token.
        next_tokens: What ablating it here does to the tokens that are likeliest where it was read; empty if it wasn't.
        promoted, suppressed: Over all contexts at which it was ablated; empty if it wasn't.
    """

    feature: str
    label: str | None
    activation: float
    kl: float | None
    next_tokens: tuple[FollowedToken, ...]
    promoted: tuple[TokenEffect, ...]
    suppressed: tuple[TokenEffect, ...]


@dataclass(frozen=True)
class Position:
    """A token of a prompt, what the model itself says next, the likeliest first, and what fires on the token.

    Features stand site by site in the model's order, the strongest first.
    """

    pos: int
    token: str
    next_tokens: tuple[NextToken, ...]
    features: tuple[Firing, ...]


@dataclass(frozen=True)
class Prompt:
    """One sequence of a run on prompts. Position 0 is never counted: nothing is known to fire there."""

    seq: int
    positions: tuple[Position, ...]


def require_prompts(reader: Reader) -> None:
    """Refuse a run that isn't on prompts.

    Raises:
        UsageError: It isn't.
    """
    if reader.settings.texts.source != "prompt":
        raise UsageError(
            f"{reader.run.root} isn't a run on prompts, so that there is no position to go through.",
            hint="Make one with `circuit run-all --prompt TEXT`, or see single features with --feature.",
        )


def by_position(reader: Reader, features: Sequence[FeatureId] = (), per_site: int = PER_SITE) -> list[Prompt]:
    """Every prompt, position by position; with `features` these alone, wherever they fire."""
    found = _firing(reader, features, per_site)
    named = list(dict.fromkeys(feature for firing in found.values() for feature, _, _ in firing))
    effects = {
        feature: token_effects(columns) for feature, columns in reader.of_features(reduced.LOGITS, named).items()
    }
    labels, said = labelled(reader.run).labels, next_tokens.by_position(reader)
    followed = {(f, e.seq, e.pos): e.tokens for f, each in next_tokens.followed(reader, named).items() for e in each}
    prompts = []
    for seq, pieces in sorted(passages.read(reader).items()):
        positions = []
        for pos, token in enumerate(pieces):
            firing = [
                Firing(
                    str(f),
                    labels.get(str(f)),
                    value,
                    kl,
                    followed.get((f, seq, pos), followed.get((f, seq, WHOLE), ())),
                    *effects[f],
                )
                for f, value, kl in found[seq, pos]
            ]
            positions.append(Position(pos, token, said[seq, pos], tuple(firing)))
        prompts.append(Prompt(seq, tuple(positions)))
    return prompts


Fired = tuple[FeatureId, float, float | None]


def _firing(reader: Reader, features: Sequence[FeatureId], per_site: int) -> dict[tuple[int, int], list[Fired]]:
    """By sequence and position what fires there and is shown, with its activation and the KL of its ablation."""
    found: dict[tuple[int, int], list[Fired]] = defaultdict(list)
    for site in reader.widths:
        asked = [feature.index for feature in features if feature.site == site]
        contexts = _contexts(reader, site)
        for shard in acts.shards(reader.run, site):
            firings = shard.where(np.isin(shard.feature, asked)) if features else shard
            kept = _strongest(firings, contexts["feature"], len(asked) if features else per_site)
            kl = [None if np.isnan(nats) else nats for nats in _kl(contexts, kept).tolist()]
            columns = (column.tolist() for column in (kept.seq, kept.pos, kept.feature, kept.value))
            for seq, pos, index, value, nats in zip(*columns, kl, strict=True):
                found[seq, pos].append((FeatureId(site, index), value, nats))
    return found


def _contexts(reader: Reader, site: Site) -> tables.Columns:
    """Every ablation of a site's features: feature, seq, pos (−1: all) and kl."""
    shards = [shard for shard in ablations.stored(reader.run) if shard.site == site]
    names = [shard.names(("contexts",))["contexts"] for shard in shards]
    parts = [tables.read(reader.run.verified("ablate", name)) for name in names]
    none = {"kl": np.zeros(0, np.float32)}
    return {
        name: np.concatenate([none.get(name, np.zeros(0, np.int32)), *(part[name] for part in parts)])
        for name in ("feature", "seq", "pos", "kl")
    }


def _kl(contexts: tables.Columns, firings: Firings) -> np.ndarray:
    """The KL of the ablation of each of these firings: of the one at its position, else of the whole sequence's."""
    known = [contexts[name] for name in ("feature", "seq", "pos")]
    kl = np.append(contexts["kl"], np.float32(np.nan))  # at −1: there was none
    here, whole = (
        kl[rows.match([firings.feature, firings.seq, pos], known)] for pos in (firings.pos, firings.pos * 0 + WHOLE)
    )
    found: np.ndarray = np.where(np.isnan(here), whole, here)
    return found


def _strongest(shard: Firings, ablated: np.ndarray, count: int) -> Firings:
    """At each position the `count` strongest, and the `count` strongest of the ablated ones; the strongest first."""
    ordered = shard.where(np.lexsort((shard.feature, -shard.value, shard.pos, shard.seq)))
    among = np.isin(ordered.feature, ablated)
    keep = _place(ordered) < count
    keep[np.flatnonzero(among)[_place(ordered.where(among)) < count]] = True
    return ordered.where(keep)


def _place(ordered: Firings) -> np.ndarray:
    """The place of each firing among those of its position: 0, 1, …"""
    starts = (np.diff(ordered.seq, prepend=-1) != 0) | (np.diff(ordered.pos, prepend=-1) != 0)
    first = np.maximum.accumulate(np.where(starts, np.arange(len(ordered)), 0))
    return np.arange(len(ordered)) - first
