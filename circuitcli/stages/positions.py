"""What fires where in a prompt: at each position the strongest features, and what each does to the next token."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from circuitcli.core.circuit import TokenEffect
from circuitcli.core.contexts import Firings
from circuitcli.core.sites import FeatureId
from circuitcli.errors import UsageError
from circuitcli.stages import effects as effects_stage
from circuitcli.stages import next_tokens, passages
from circuitcli.stages.cards import labelled
from circuitcli.stages.fetch_saes import entries_of
from circuitcli.stages.graph import rows_of, token_effects
from circuitcli.stages.next_tokens import FollowedToken, NextToken
from circuitcli.stages.stage import Job
from circuitcli.store import ablations, acts, tables

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


def require_prompts(job: Job) -> None:
    """Refuse a run that isn't on prompts.

    Raises:
        UsageError: It isn't.
    """
    if job.settings.texts.source != "prompt":
        raise UsageError(
            f"{job.run.root} isn't a run on prompts, so that there is no position to go through.",
            hint="Make one with `circuit run-all --prompt TEXT`, or see single features with --feature.",
        )


def by_position(job: Job, features: Sequence[FeatureId] = (), per_site: int = PER_SITE) -> list[Prompt]:
    """Every prompt, position by position; with `features` these alone, wherever they fire."""
    kl = _kl(job)
    found: dict[tuple[int, int], list[tuple[FeatureId, float]]] = defaultdict(list)
    for site in (entry.at for entry in entries_of(job.run)):
        asked = [feature.index for feature in features if feature.site == site]
        ablated = [i for shard in ablations.stored(job.run) if shard.site == site for i in shard.features]
        for shard in acts.shards(job.run, site):
            firings = shard.where(np.isin(shard.feature, asked)) if features else shard
            kept = _strongest(firings, ablated, len(asked) if features else per_site)
            for seq, pos, index, value in zip(kept.seq, kept.pos, kept.feature, kept.value, strict=True):
                found[int(seq), int(pos)].append((FeatureId(site, int(index)), float(value)))
    effects = _effects(job, {feature for firing in found.values() for feature, _ in firing})
    labels, said = labelled(job).labels, next_tokens.by_position(job)
    followed = {(f, e.seq, e.pos): e.tokens for f, each in next_tokens.followed(job).items() for e in each}
    prompts = []
    for seq, pieces in sorted(passages.read(job).items()):
        positions = []
        for pos, token in enumerate(pieces):
            firing = [
                Firing(
                    str(f),
                    labels.get(str(f)),
                    value,
                    kl.get((f, seq, pos), kl.get((f, seq, WHOLE))),
                    followed.get((f, seq, pos), followed.get((f, seq, WHOLE), ())),
                    *effects[f],
                )
                for f, value in found[seq, pos]
            ]
            positions.append(Position(pos, token, said[seq, pos], tuple(firing)))
        prompts.append(Prompt(seq, tuple(positions)))
    return prompts


def _strongest(shard: Firings, ablated: Sequence[int], count: int) -> Firings:
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


def _kl(job: Job) -> dict[tuple[FeatureId, int, int], float]:
    """KL of each ablation, by feature, sequence and edited position (−1: all)."""
    found = {}
    for shard in ablations.stored(job.run):
        table = tables.read(job.run.verified("ablate", shard.names(("contexts",))["contexts"]))
        for index, seq, pos, kl in zip(*(table[name] for name in ("feature", "seq", "pos", "kl")), strict=True):
            if not np.isnan(kl):
                found[FeatureId(shard.site, int(index)), int(seq), int(pos)] = float(kl)
    return found


Tokens = tuple[TokenEffect, ...]


def _effects(job: Job, features: set[FeatureId]) -> dict[FeatureId, tuple[Tokens, Tokens]]:
    """What each feature promotes and suppresses."""
    table = tables.read(job.run.verified("effects", effects_stage.LOGITS))
    rows = rows_of(table, sorted(features, key=lambda f: f.order))
    return {feature: token_effects(columns) for feature, columns in rows.items()}
