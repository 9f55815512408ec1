"""What the model itself says next in a run on prompts, and what ablations do to that, read from the run's files.

`acts/next` has the likeliest next tokens at every position of every prompt; `effects/next` what each ablation did to
those that were likeliest where it was read, whatever their rank among all effects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from circuitcli.core.sites import FeatureId
from circuitcli.core.tokens import readable
from circuitcli.results import passages
from circuitcli.results.reader import Reader
from circuitcli.settings import Settings
from circuitcli.store import acts, reduced, tables


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


def by_position(reader: Reader) -> dict[tuple[int, int], tuple[NextToken, ...]]:
    """The likeliest next tokens by sequence and position; empty in a run that kept none.

    Those are runs that aren't on prompts, and those of version 0.1.
    """
    if acts.NEXT not in reader.run.require("cache-acts").files:
        return {}
    return at_positions(reader.table(acts.NEXT))


def at_positions(table: tables.Columns) -> dict[tuple[int, int], tuple[NextToken, ...]]:
    """The same, of the table acts/next."""
    found: dict[tuple[int, int], list[NextToken]] = defaultdict(list)
    columns = (table[name].tolist() for name in ("seq", "pos", "token", "token_id", "prob"))
    for seq, pos, token, token_id, prob in zip(*columns, strict=True):
        found[seq, pos].append(NextToken(token, token_id, prob))
    return {place: tuple(tokens) for place, tokens in found.items()}


def answers(reader: Reader) -> list[Answer]:
    """What the model says at the end of each prompt that counts."""
    found = by_position(reader)
    if not found:
        return []
    texts = passages.read(reader, range(reader.settings.texts.num_sequences))
    return [
        Answer(seq, "".join(readable(pieces)), found[seq, len(pieces) - 1]) for seq, pieces in sorted(texts.items())
    ]


def followed(reader: Reader, features: Collection[FeatureId]) -> dict[FeatureId, list[Followed]]:
    """What every stored ablation of these features does to them; the ablations that change them most first."""
    if reduced.NEXT not in reader.run.require("effects").files:
        return {}
    return {
        feature: sorted(_followed(feature, table), key=lambda f: -f.size)
        for feature, table in reader.of_features(reduced.NEXT, features).items()
    }


def _followed(feature: FeatureId, table: tables.Columns) -> Iterator[Followed]:
    """The ablations of one feature, from its rows of effects/next."""
    tokens: dict[tuple[int, int, int], list[FollowedToken]] = defaultdict(list)
    of_tokens = ("token", "token_id", "prob", "effect", "prob_effect")
    places, values = (
        zip(*(table[name].tolist() for name in columns), strict=True)
        for columns in (("seq", "pos", "down_pos"), of_tokens)
    )
    for place, value in zip(places, values, strict=True):
        tokens[place].append(FollowedToken(*value))
    for (seq, pos, read), each in tokens.items():
        yield Followed(str(feature), seq, pos, read, tuple(each))
