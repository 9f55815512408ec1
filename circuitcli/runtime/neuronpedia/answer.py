"""What Neuronpedia says of one feature, taken out of its JSON and cut to what is shown."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from circuitcli.core.circuit import Context

# Characters of an explanation, and of a token.
TEXT, TOKEN = 1000, 100
PASSAGES, BESIDE, WEIGHTS = 5, 10, 10


class NoFeature(Exception):
    """An answer that Neuronpedia doesn't give."""


@dataclass(frozen=True)
class Weight:
    """How much a feature's decoder direction itself writes for a token: a logit, not a measured effect."""

    token: str
    value: float


@dataclass(frozen=True)
class Explained:
    """What Neuronpedia says of a feature.

    Attributes:
        fetched: The day.
        explanations: In its order; the first one is the feature's label.
        contexts: Where it fires in Neuronpedia's text, the strongest first; seq and pos are −1.
        promoted, suppressed: Tokens by the decoder direction, the most first.
    """

    fetched: str
    explanations: tuple[str, ...] = ()
    contexts: tuple[Context, ...] = ()
    promoted: tuple[Weight, ...] = ()
    suppressed: tuple[Weight, ...] = ()

    @property
    def label(self) -> str | None:
        """The first explanation."""
        return self.explanations[0] if self.explanations else None


_Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class _Explanation:
    description: str | None = None


@dataclass(frozen=True)
class _Activation:
    tokens: list[str] = field(default_factory=list)
    values: list[_Number] = field(default_factory=list)


@dataclass(frozen=True)
class _Answer:
    """The fields that are read; the others are left alone."""

    index: int | str | None = None
    explanations: list[_Explanation] | None = None
    activations: list[_Activation] | None = None
    pos_str: list[str] | None = None
    pos_values: list[_Number] | None = None
    neg_str: list[str] | None = None
    neg_values: list[_Number] | None = None


@cache
def _checks() -> Any:
    """Made when an answer is first read: it takes milliseconds, and most commands read none."""
    return TypeAdapter(_Answer)


def parse(body: bytes, index: int, today: str) -> Explained | None:
    """What the body of an answer says of the feature; None if it says that there is none.

    Raises:
        NoFeature: It is no answer of Neuronpedia about this feature.
    """
    try:
        tree = _whole(json.loads(body))
        if not tree:
            return None
        found = _checks().validate_python(tree)
    except (ValueError, RecursionError):  # no UTF-8, no JSON, a number of too many digits, other fields (pydantic's)
        raise NoFeature from None
    described = any(name in tree for name in ("explanations", "activations", "pos_str"))
    if not described or str(found.index if found.index is not None else index) != str(index):
        raise NoFeature
    texts = [" ".join((e.description or "").split())[:TEXT] for e in found.explanations or []]
    passages = [p for p in found.activations or [] if p.tokens and len(p.tokens) == len(p.values)]
    passages.sort(key=lambda p: -max(p.values))
    return Explained(
        fetched=today,
        explanations=tuple(dict.fromkeys(text for text in texts if text)),
        contexts=tuple(_context(p) for p in passages[:PASSAGES] if max(p.values) > 0),
        promoted=_weights(found.pos_str, found.pos_values),
        suppressed=_weights(found.neg_str, found.neg_values),
    )


def _whole(tree: Any) -> Any:
    """The same with every half of a pair of surrogates replaced: UTF-8 can't hold it."""
    if isinstance(tree, str):
        return tree.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(tree, list):
        return [_whole(part) for part in tree]
    if isinstance(tree, dict):
        return {_whole(key): _whole(value) for key, value in tree.items()}
    return tree


def _context(passage: _Activation) -> Context:
    """The tokens around the largest value."""
    at = passage.values.index(max(passage.values))
    first = max(0, at - BESIDE)
    part = slice(first, at + BESIDE + 1)
    tokens = tuple(token[:TOKEN] for token in passage.tokens[part])
    return Context(tokens, tuple(passage.values[part]), at - first, -1, -1)


def _weights(tokens: list[str] | None, values: list[float] | None) -> tuple[Weight, ...]:
    pairs = zip(tokens or [], values or [], strict=False)
    return tuple(Weight(token[:TOKEN], value) for token, value in pairs)[:WEIGHTS]


@cache
def _kept() -> Any:
    """Likewise."""
    return TypeAdapter(Explained)


def restore(tree: Any) -> Explained:
    """What was kept of an answer as JSON holds it.

    Raises:
        NoFeature: It isn't that.
    """
    try:
        found: Explained = _kept().validate_python(tree)
        return found
    except ValidationError:
        raise NoFeature from None
