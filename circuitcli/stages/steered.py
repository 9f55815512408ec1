"""What a model says next with features of its dictionaries scaled, beside what it says as it is. Nothing is written."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from circuitcli.core.active import Active
from circuitcli.core.next_token import TokenSums
from circuitcli.core.sites import FeatureId, Site, resolve_pins
from circuitcli.core.steering import Steered, continued, next_logits
from circuitcli.core.tokens import readable
from circuitcli.core.words import amount
from circuitcli.errors import InputError, UsageError
from circuitcli.stages.sequences import Prompt, read_prompt
from circuitcli.stages.subject import Subject

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
# Beyond these float32 has no numbers.
_LARGEST = torch.finfo(torch.float32).max
# Of an activation: what norms make of its square has to be a number too, or the whole stream becomes 0.
_LARGEST_ACTIVATION = 1e15


@dataclass(frozen=True)
class Asked:
    """What was asked, checked but for what the model and its dictionaries are.

    Attributes:
        factors: By what features are multiplied, by their names as typed.
        prompt: The text.
        generate: How many tokens to go on for.
    """

    factors: Mapping[str, float]
    prompt: str
    generate: int = 0


@dataclass(frozen=True)
class Feature:
    """A steered feature: at how many positions of the prompt it fires, as they are by then, and how much at most."""

    feature: str
    factor: float
    fires: int
    max_activation: float


@dataclass(frozen=True)
class Token:
    """A next token: its probability, clean and steered, and log p_steered − log p_clean, nats."""

    token: str
    token_id: int
    prob: float
    steered_prob: float
    effect: float


@dataclass(frozen=True)
class Continuation:
    """The tokens that follow, each the likeliest, and their pieces (bytes without a character as `<0xE2>`)."""

    text: str
    token_ids: tuple[int, ...]
    pieces: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """What steering does.

    Attributes:
        prompt: The text.
        features: What is steered, in the model's order.
        kl: KL(clean ‖ steered) of the next token, nats.
        tokens: The likeliest ones of either, the likeliest of the model as it is first.
        clean, steered: How each goes on; None where that wasn't asked.
        tokens_per_second: Of both together.
    """

    prompt: str
    features: tuple[Feature, ...]
    kl: float
    tokens: tuple[Token, ...]
    clean: Continuation | None = None
    steered: Continuation | None = None
    tokens_per_second: float | None = None

    def document(self) -> dict[str, Any]:
        """What --json prints."""
        tree = asdict(self)
        for one in filter(None, (tree["clean"], tree["steered"])):
            del one["pieces"]
        return tree


def parsed(typed: Sequence[str]) -> dict[str, float]:
    """Features' names and factors, of `4:112=2.0` and the like.

    Raises:
        UsageError: One isn't so, or names a feature twice.
    """
    found: dict[str, float] = {}
    for text in typed:
        name, _, number = (part.strip() for part in text.partition("="))
        factor = float(number) if _NUMBER.fullmatch(number) else math.nan
        if not abs(factor) <= _LARGEST:
            raise UsageError(
                f"--steer `{text}` doesn't say by what number a feature is multiplied.",
                hint="Give FEATURE=FACTOR: 4:112=2.0 doubles it wherever it fires, 0 takes it away, -1 turns it round.",
            )
        if name in found:
            raise _twice(name)
        found[name] = factor
    return found


def run(subject: Subject, asked: Asked) -> Found:
    """Steer, once, or token after token.

    Raises:
        UsageError: A feature is none of the subject's, or the prompt with what follows is longer than the model reads.
        InputError: The prompt is too short, or factors are so large that the model gives no numbers.
    """
    return _Steering(subject, asked).found()


@dataclass(eq=False)
class _Steering:
    """A prompt of a model, read as it is and steered."""

    subject: Subject
    asked: Asked

    def found(self) -> Found:
        """What steering does."""
        factors = self._factors()  # what was typed is checked before weights are read
        self._check_length()
        steered = self._steered(factors)
        (clean, _), (moved, fired) = self._next([]), self._next(steered)
        features = tuple(_features(steered, fired))
        largest = max((abs(one.factor) * one.max_activation for one in features), default=0.0)
        if largest > _LARGEST_ACTIVATION or not bool(moved.isfinite().all()):
            raise InputError(
                "With these factors the model's activations are too large for numbers.", hint="Give smaller ones."
            )
        kl, tokens = self._compared(clean, moved)
        found = Found(self.asked.prompt, features, kl, tokens)
        return Found(**{**vars(found), **self._continuations(steered)}) if self.asked.generate else found

    @cached_property
    def _prompt(self) -> Prompt:
        return read_prompt(self.subject, self.asked.prompt, "The prompt")

    @cached_property
    def _tokens(self) -> tuple[Tensor, Tensor]:
        """Its tokens, and which positions count."""
        device = self.subject.tools.runtime.device
        return torch.tensor(self._prompt.ids, device=device), torch.tensor(self._prompt.counts, device=device)

    def _check_length(self) -> None:
        """The last token that follows isn't read."""
        length, limit = len(self._prompt.ids), self.subject.checkpoint.shape.n_ctx
        if length + self.asked.generate - 1 > limit:
            raise UsageError(
                f"The prompt has {amount(length, 'token')}, BOS counted, and {self.asked.generate:,} more are too "
                f"many: "
                f"{self.subject.tools.settings.model} reads {limit:,}.",
                hint=f"Give --generate {limit - length + 1} at most, or a shorter prompt.",
            )

    def _factors(self) -> dict[FeatureId, float]:
        """By feature, in the model's order."""
        widths = {entry.at: entry.facts.d_sae for entry in self.subject.entries}
        among = "this run" if self.subject.run else f"those of {self.subject.tools.settings.saes.release}"
        found: dict[FeatureId, float] = {}
        for name, factor in self.asked.factors.items():
            [feature] = resolve_pins([name], widths, word="feature", among=among)
            if feature in found:
                raise _twice(str(feature))
            found[feature] = factor
        return dict(sorted(found.items(), key=lambda item: item[0].order))

    def _steered(self, factors: Mapping[FeatureId, float]) -> list[Steered]:
        """As `core.steering` takes them; of other dictionaries no weights are read."""
        found, device = [], self.subject.tools.runtime.device
        for entry in self.subject.entries:
            own = {one.index: factor for one, factor in factors.items() if one.site == entry.at}
            if own:
                index = torch.tensor(list(own), device=device)
                factor = torch.tensor(list(own.values()), dtype=torch.float32, device=device)
                found.append(Steered(self.subject.sae(entry, decoder=False), index, factor))
        return found

    def _next(self, steered: Sequence[Steered]) -> tuple[Float[Tensor, " v"], dict[Site, Active]]:
        return next_logits(self.subject.model, *self._tokens, steered)

    def _compared(self, clean: Float[Tensor, " v"], moved: Float[Tensor, " v"]) -> tuple[float, tuple[Token, ...]]:
        """KL, and the likeliest tokens of either, by the sums that ablations have."""
        sums = TokenSums(1, len(clean), clean.device)
        kl = sums.add(torch.zeros(1).long(), torch.zeros(1).long(), clean[None], moved[None].clone())
        count = min(self.subject.tools.settings.effects.logit_tokens, len(clean))
        ids = dict.fromkeys([*clean.topk(count).indices.tolist(), *moved.topk(count).indices.tolist()])
        prob, effect, prob_effect = clean.softmax(-1), sums.logprob[0], sums.prob[0]
        tokens = tuple(
            Token(
                token=self.subject.tokenizer.text(token),
                token_id=token,
                prob=float(prob[token]),
                steered_prob=max(0.0, float(prob[token] + prob_effect[token])),
                effect=float(effect[token]),
            )
            for token in ids
        )
        return float(kl), tokens

    def _continuations(self, steered: Sequence[Steered]) -> dict[str, Any]:
        """Both, and how quickly."""
        started = time.perf_counter()
        with self.subject.tools.report.track("Generating", 2 * self.asked.generate, "tokens") as done:
            clean, moved = (self._continuation(some, done) for some in ([], steered))
        count = len(clean.token_ids) + len(moved.token_ids)
        speed = count / max(time.perf_counter() - started, 1e-9)
        return {"clean": clean, "steered": moved, "tokens_per_second": speed}

    def _continuation(self, steered: Sequence[Steered], done: Callable[[int], None]) -> Continuation:
        tokenizer, ids = self.subject.tokenizer, list(self._prompt.ids)
        for token in continued(
            self.subject.model, *self._tokens, steered, self.asked.generate,
            ends=tokenizer.eos, special=tokenizer.special,
        ):  # fmt: skip
            ids.append(token)
            done(1)
        length = len(self._prompt.ids)
        pieces = readable(tokenizer.pieces(ids, length))
        return Continuation("".join(pieces), tuple(ids[length:]), tuple(pieces))


def _features(steered: Sequence[Steered], fired: Mapping[Site, Active]) -> Iterator[Feature]:
    """What steered features were in a prompt, in the model's order."""
    for one in steered:
        site = one.dictionary.reads
        for which, (index, factor) in enumerate(zip(one.feature.tolist(), one.factor.tolist(), strict=True)):
            values = fired[site].value[fired[site].feature == which]
            yield Feature(str(FeatureId(site, index)), factor, len(values), float(values.max()) if len(values) else 0.0)


def _twice(name: str) -> UsageError:
    return UsageError(f"--steer names `{name}` twice.", hint="Give each feature one factor.")
