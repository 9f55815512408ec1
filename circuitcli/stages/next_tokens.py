"""What the model itself says next in a run on prompts, and what ablations do to that, read from the run's files.

`acts/next` has the `COUNT` likeliest next tokens at every position of every prompt; `ablations/next` what each ablation
did to those that were likeliest where it was read, whatever their rank among all effects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from circuitcli.core.sites import FeatureId, Site
from circuitcli.core.tokens import readable
from circuitcli.settings import Settings
from circuitcli.stages import passages
from circuitcli.stages.stage import Job
from circuitcli.store import ablations, acts, tables

# Next tokens that are kept at a position.
COUNT = 5
EFFECTS = "effects/next.parquet"


@dataclass(frozen=True)
class NextToken:
    """A token that the model may say next, and how likely it is."""

    token: str
    token_id: int
    prob: float


@dataclass(frozen=True)
class Answer:
    """What the model says at the end of a prompt, the likeliest first."""

    seq: int
    text: str
    tokens: tuple[NextToken, ...]


@dataclass(frozen=True)
class FollowedToken:
    """A likely next token, and what an ablation does to it: ablated − clean, nats, and Δp."""

    token: str
    token_id: int
    prob: float
    effect: float
    prob_effect: float


@dataclass(frozen=True)
class Followed:
    """What one ablation does to the likeliest next tokens.

    Attributes:
        feature: Its name.
        seq: The prompt.
        pos: The edited position; −1 for all.
        read: The position read, the last one if they were several.
        tokens: The likeliest first.
    """

    feature: str
    seq: int
    pos: int
    read: int
    tokens: tuple[FollowedToken, ...]

    @property
    def size(self) -> float:
        """Σ |Δp|."""
        return sum(abs(token.prob_effect) for token in self.tokens)


def on_prompts(settings: Settings) -> bool:
    """Whether next tokens are kept at all."""
    return settings.texts.source == "prompt"


def kinds(settings: Settings) -> tuple[str, ...]:
    """The tables of a shard of ablations."""
    return ablations.kinds(logits=settings.ablate.logits, prompts=on_prompts(settings))


def by_position(job: Job) -> dict[tuple[int, int], tuple[NextToken, ...]]:
    """The likeliest next tokens by sequence and position; empty in a run that isn't on prompts."""
    if not on_prompts(job.settings):
        return {}
    return at(tables.read(job.run.verified("cache-acts", acts.NEXT)))


def at(table: tables.Columns) -> dict[tuple[int, int], tuple[NextToken, ...]]:
    """The same, of the table acts/next."""
    found: dict[tuple[int, int], list[NextToken]] = defaultdict(list)
    columns = (table[name].tolist() for name in ("seq", "pos", "token", "token_id", "prob"))
    for seq, pos, token, token_id, prob in zip(*columns, strict=True):
        found[seq, pos].append(NextToken(token, token_id, prob))
    return {place: tuple(tokens) for place, tokens in found.items()}


def answers(job: Job) -> list[Answer]:
    """What the model says at the end of each prompt that counts."""
    found = by_position(job)
    if not found:
        return []
    texts = passages.read(job, range(job.settings.texts.num_sequences))
    return [
        Answer(seq, "".join(readable(pieces)), found[seq, len(pieces) - 1]) for seq, pieces in sorted(texts.items())
    ]


def followed(job: Job) -> dict[FeatureId, list[Followed]]:
    """What every stored ablation does to them, by feature; the ablations that change them most first."""
    record = job.run.require("effects")
    if EFFECTS not in record.files:
        return {}
    table = tables.read(job.run.verified("effects", EFFECTS))
    tokens: dict[tuple[FeatureId, int, int, int], list[FollowedToken]] = defaultdict(list)
    names = ("layer", "site", "feature", "seq", "pos", "down_pos")
    of_tokens = ("token", "token_id", "prob", "effect", "prob_effect")
    ablations, values = (
        zip(*(table[name].tolist() for name in columns), strict=True) for columns in (names, of_tokens)
    )
    for (layer, site, feature, seq, pos, read), value in zip(ablations, values, strict=True):
        tokens[FeatureId(Site(layer, site), feature), seq, pos, read].append(FollowedToken(*value))
    found: dict[FeatureId, list[Followed]] = defaultdict(list)
    for (feature_id, seq, pos, read), each in tokens.items():
        found[feature_id].append(Followed(str(feature_id), seq, pos, read, tuple(each)))
    return {feature_id: sorted(each, key=lambda f: -f.size) for feature_id, each in found.items()}


def last_readings(told: tables.Columns, clean: tables.Columns) -> tables.Columns:
    """Rows of ablations/next, of each ablation those of its last reading, with what acts/next says of their tokens."""
    if not len(told["token_id"]):
        return {}
    _, ablation = np.unique(np.stack([told["seq"], told["pos"]]), axis=1, return_inverse=True)
    ablation = ablation.reshape(-1)
    last = np.full(ablation.max() + 1, -1)
    np.maximum.at(last, ablation, told["down_pos"])
    kept = told["down_pos"] == last[ablation]
    rows = {name: column[kept] for name, column in told.items()}
    place = {key: i for i, key in enumerate(_keys(clean, "pos"))}
    at = np.asarray([place[key] for key in _keys(rows, "down_pos")], np.int64)
    return rows | {name: clean[name][at] for name in ("token", "logprob", "prob")}


def _keys(columns: tables.Columns, pos: str) -> Iterator[tuple[int, ...]]:
    return zip(*(columns[name].tolist() for name in ("seq", pos, "rank")), strict=True)
