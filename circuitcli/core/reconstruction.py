"""Splicing dictionaries into a model: what each variant of one loses of activations, and the next token by it.

The model reads the sample once. Every variant starts from those passes: it encodes their activations, the rest of the
model is resumed where it writes, and the clean log-probabilities of a position serve all variants that are tried
together. What a variant did in some of the sequences is kept, so that it can go on with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.encodings import Encodings, blocks
from circuitcli.core.model import Addition, Model, Pass
from circuitcli.core.reading import Variant
from circuitcli.core.sites import Site

# How many positions, padding counted, one pass has.
_PASS = 1024


@dataclass(frozen=True, eq=False)
class Text:
    """Sequences padded right; `bos` says whether they start with BOS, `special` where special tokens stand, if any."""

    tokens: Int[Tensor, "n t"]
    lengths: Int[Tensor, " n"]
    bos: bool
    special: Bool[Tensor, "n t"] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def counted(self) -> Bool[Tensor, "n t"]:
        """Positions 1 to the last of each sequence, special tokens apart."""
        each = torch.arange(self.tokens.shape[1], device=self.tokens.device)
        inside = (each >= 1) & (each < self.lengths.unsqueeze(1))
        return inside if self.special is None else inside & ~self.special

    def flipped(self, bos: int, n_ctx: int) -> Text:
        """The same text without BOS, or with it; tokens that no longer fit the model are dropped."""
        if self.bos:
            special = None if self.special is None else self.special[:, 1:]
            return Text(self.tokens[:, 1:], self.lengths - 1, bos=False, special=special)
        column = torch.full_like(self.tokens[:, :1], bos)
        tokens = torch.cat([column, self.tokens], dim=1)[:, :n_ctx]
        none = torch.zeros_like(column, dtype=torch.bool)
        special = None if self.special is None else torch.cat([none, self.special], dim=1)[:, :n_ctx]
        return Text(tokens, (self.lengths + 1).clamp(max=n_ctx), bos=True, special=special)

    def part(self, rows: slice | Int[Tensor, " b"]) -> Text:
        """Some of the sequences, as wide as the longest of them."""
        lengths = self.lengths[rows]
        cut = rows, slice(max(int(lengths.max()), 1))
        return Text(self.tokens[cut], lengths, self.bos, None if self.special is None else self.special[cut])


@dataclass(frozen=True, eq=False)
class Lost:
    """What an edit of a site did to the next token at each counted position: KL(clean ‖ edited), −log p, nats.

    `nats` is NaN at the last position of a sequence, which has no next token.
    """

    kl: Float[np.ndarray, " n"]
    nats: Float[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Scores:
    """What one variant did at each counted position.

    Attributes:
        variant: Which.
        seq, token: Sequence, and place in its text, BOS not counted.
        error, spread: |y − ŷ|² and |y − ȳ|², of y where it writes: x, of an SAE.
        active: Features above 0.
        dead: Share of features that never fired.
        clean: −log p of the next token, nats; None where nothing was spliced.
        spliced, zero: With ŷ, or 0, in place of y at all counted positions; None where that wasn't run.
    """

    variant: Variant
    seq: Int[np.ndarray, " n"]
    token: Int[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]
    spread: Float[np.ndarray, " n"]
    active: Float[np.ndarray, " n"]
    dead: float
    clean: Float[np.ndarray, " n"] | None = None
    spliced: Lost | None = None
    zero: Lost | None = None

    @property
    def fvu(self) -> float:
        """Σ|y − ŷ|² / Σ|y − ȳ|²."""
        return float(self.error.sum() / self.spread.sum())


@dataclass(frozen=True, eq=False)
class _Part:
    """Some of the sequences, of like length, which are run together."""

    sequences: Int[Tensor, " b"]
    text: Text

    @property
    def counted(self) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
        """Row and column of each counted position."""
        row, pos = self.text.counted.nonzero(as_tuple=True)
        return row, pos

    @property
    def places(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Sequence of each counted position, and its place in the text, BOS not counted."""
        row, pos = self.counted
        return self.sequences[row].cpu().numpy(), pos.cpu().numpy() - self.text.bos


_CLEAN = "clean"  # in place of an edit: none
_Key = Variant | Site | str  # a variant, or the site at which y becomes 0


class Splicer:
    """Splices SAEs into the model on a sample, which it first reads unedited: `first` sequences before the others."""

    def __init__(self, model: Model, text: Text, sites: Sequence[Site], *, first: int | None = None) -> None:
        """Nothing is run yet; `sites` are those that variants read and write."""
        self._model = model
        self._read = sorted({s for site in sites for s in (site, *model.bases(site))}, key=lambda s: s.order)
        few = list(_parts(text, 0, len(text) if first is None else first))
        self._few = len(few)
        self._parts = [*few, *_parts(text, len(text) if first is None else first, len(text))]
        self._passes: dict[int, Pass] = {}
        self._encodings = Encodings(self._x, [part.sequences[part.counted[0]] for part in self._parts])
        self._lost: dict[tuple[_Key, int], Lost] = {}

    def run(self, done: Callable[[int], None] = lambda count: None) -> None:
        """Read all sequences; `done` is told how many more were."""
        for i, part in enumerate(self._parts):
            self._pass(i)
            done(len(part.text))

    @property
    def final(self) -> Float[Tensor, "n d"]:
        """Some of the stream after the last block."""
        return _final(self._pass(0))[0]

    def activations(self, site: Site) -> Float[Tensor, "n d"]:
        """Activations x at the counted positions, float32."""
        return torch.cat([self._x(site, i) for i in range(len(self._parts))])

    def score(
        self,
        variants: Sequence[Variant],
        *,
        few: bool = False,
        splice: bool = True,
        done: Callable[[int], None] = lambda count: None,
    ) -> list[Scores]:
        """Encode and decode at every counted position and, if asked, run the rest of the model on ŷ and on 0.

        Args:
            variants: What to try, together.
            few: Whether on the first sequences only.
            splice: Whether to run the rest of the model.
            done: Is told in how many more sequences one variant was spliced.
        """
        parts = range(self._few if few else len(self._parts))
        for i in parts:
            for variant in variants:
                self._encodings.of(variant, i)
            if splice:
                self._splice(variants, i, done)
        return [self._scores(variant, parts, splice) for variant in variants]

    def _pass(self, i: int) -> Pass:
        if i not in self._passes:
            self._passes[i] = self._model.run(self._parts[i].text.tokens, self._read, final=True)
        return self._passes[i]

    def _x(self, site: Site, i: int) -> Float[Tensor, "n d"]:
        return self._pass(i).sites[site][self._parts[i].text.counted].float()

    def _splice(self, variants: Sequence[Variant], i: int, done: Callable[[int], None]) -> None:
        """The rest of the model on ŷ of each variant, and on 0 at their sites, where that wasn't run before."""
        edits: dict[_Key, tuple[Site, Float[Tensor, "n d"]]] = {}
        for variant in variants:
            site = variant.writes
            edits |= {site: (site, -self._x(site, i)), variant: (site, self._encodings.of(variant, i).delta)}
        finals = {}
        for key, (site, rows) in edits.items():
            if (key, i) not in self._lost:
                finals[key] = self._edited(site, rows, i)
                done(len(self._parts[i].text) if isinstance(key, Variant) else 0)
        if finals:
            self._lost |= {(key, i): lost for key, lost in self._compared(finals, i).items()}

    def _edited(self, site: Site, rows: Float[Tensor, "n d"], i: int) -> Float[Tensor, "n d"]:
        """The last stream at the counted positions, a row added at each of them to what is at the site."""
        clean, counted = self._pass(i), self._parts[i].text.counted
        delta = torch.zeros(clean.sites[site].shape, dtype=torch.float32, device=rows.device)
        delta[counted] = rows
        base = {name: clean.sites[name] for name in self._model.bases(site)}
        return _final(self._model.resume(clean, base, Addition(site, delta), [], final=True))[counted]

    def _compared(self, finals: Mapping[_Key, Float[Tensor, "n d"]], i: int) -> dict[_Key, Lost]:
        """What each edit did to the next token; the clean one is computed once for all, a block of positions a time."""
        text = self._parts[i].text
        row, pos = text.counted.nonzero(as_tuple=True)
        clean = _final(self._pass(i))[text.counted]
        following = text.tokens[row, (pos + 1).clamp(max=text.tokens.shape[1] - 1)].unsqueeze(1)
        kl = {key: torch.empty(len(row), device=clean.device) for key in (_CLEAN, *finals)}
        nats = {key: torch.empty(len(row), device=clean.device) for key in kl}
        for at in blocks(len(row)):
            before = self._model.logits(clean[at]).log_softmax(-1)
            p = before.exp()
            for key in kl:
                after = self._model.logits(finals[key][at]).log_softmax(-1) if key in finals else before
                nats[key][at] = -after.gather(1, following[at]).squeeze(1)
                kl[key][at] = (p * (before - after)).sum(-1)
        last = pos + 1 >= text.lengths[row]
        return {key: Lost(_numbers(kl[key]), _numbers(nats[key].masked_fill(last, float("nan")))) for key in kl}

    def _scores(self, variant: Variant, parts: Sequence[int], splice: bool) -> Scores:
        """What was found of a variant in some parts."""
        site, encoded = variant.writes, [self._encodings.of(variant, i) for i in parts]
        y = torch.cat([self._x(site, i) for i in parts])
        seq, token = (np.concatenate(column) for column in zip(*(self._parts[i].places for i in parts), strict=True))
        scores = Scores(
            variant,
            seq,
            token,
            error=_numbers(torch.cat([found.delta for found in encoded]).pow(2).sum(-1)),
            spread=_numbers((y - y.mean(0)).pow(2).sum(-1)),
            active=_numbers(torch.cat([found.active for found in encoded])),
            dead=float((~torch.stack([found.fired for found in encoded]).any(0)).float().mean()),
        )
        if not splice:
            return scores

        def lost(key: _Key) -> Lost:
            found = [self._lost[key, i] for i in parts]
            return Lost(np.concatenate([f.kl for f in found]), np.concatenate([f.nats for f in found]))

        return replace(scores, clean=lost(_CLEAN).nats, spliced=lost(variant), zero=lost(site))


def _final(done: Pass) -> Float[Tensor, "b t d"]:
    assert done.final is not None
    return done.final


def _parts(text: Text, start: int, stop: int) -> Iterator[_Part]:
    """Sequences from `start` to before `stop`, the longest first, so many at once that a pass stays small."""
    lengths, counted = text.lengths[start:stop].cpu(), text.counted[start:stop].any(1).cpu()
    order = lengths.argsort(descending=True, stable=True)
    # A sequence without a counted position is of no use, but a model reads something.
    order = order[counted[order]] if counted.any() else order[:1]
    while len(order):
        width = max(int(lengths[order[0]]), 1)
        chosen = (order[: max(1, _PASS // width)].sort().values + start).to(text.tokens.device)
        yield _Part(chosen, text.part(chosen))
        order = order[len(chosen) :]


def _numbers(values: Tensor) -> Float[np.ndarray, " n"]:
    return values.double().cpu().numpy()
