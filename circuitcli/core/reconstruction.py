"""Splicing SAEs into a model: what each reading of an SAE loses of activations, and of the next token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.model import Edit, Model, Pass
from circuitcli.core.readings import Reading
from circuitcli.core.sites import Site

# Positions of one pass, padding counted, and of one block of logits or of features.
_PASS, _BLOCK = 2048, 256


@dataclass(frozen=True, eq=False)
class Text:
    """Sequences padded right; `bos` says whether they start with BOS, `special` where special tokens stand, if any."""

    tokens: Int[Tensor, "n t"]
    lengths: Int[Tensor, " n"]
    bos: bool
    special: Bool[Tensor, "n t"] | None = None

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

    def part(self, rows: slice) -> Text:
        """Some of the sequences, as wide as the longest of them."""
        lengths = self.lengths[rows]
        cut = rows, slice(int(lengths.max()))
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
    """What one reading did at each counted position.

    Attributes:
        reading: Which.
        seq, token: Sequence, and place in its text, BOS not counted.
        error, spread: |x − x̂|² and |x − x̄|².
        active: Features above 0.
        silent: Share of features that never fired.
        clean: −log p of the next token, nats.
        spliced, zero: With x̂, or 0, in place of x at all counted positions; None where that wasn't run.
    """

    reading: Reading
    seq: Int[np.ndarray, " n"]
    token: Int[np.ndarray, " n"]
    error: Float[np.ndarray, " n"]
    spread: Float[np.ndarray, " n"]
    active: Float[np.ndarray, " n"]
    silent: float
    clean: Float[np.ndarray, " n"]
    spliced: Lost | None = None
    zero: Lost | None = None

    @property
    def fvu(self) -> float:
        """Σ|x − x̂|² / Σ|x − x̄|²."""
        return float(self.error.sum() / self.spread.sum())


class Arm:
    """A sample of text read by the model once, unedited."""

    def __init__(self, model: Model, text: Text, sites: Sequence[Site]) -> None:
        """Run the model and keep the activations of the sites, and what resuming at them takes."""
        self._model = model
        self._text = text
        read = sorted({s for site in sites for s in (site, *model.bases(site))}, key=lambda s: s.order)
        self._parts = [(part, model.run(part.tokens, read, final=True)) for part in _batches(text)]
        self._zeroed: dict[Site, Lost] = {}

    @cached_property
    def places(self) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
        """Sequence of each counted position, and its place in the text, BOS not counted."""
        seq, pos = (p.cpu().numpy() for p in self._text.counted.nonzero(as_tuple=True))
        return seq, pos - self._text.bos

    @cached_property
    def clean(self) -> Float[np.ndarray, " n"]:
        """−log p of the next token, nats; NaN where there is none."""
        parts = [self._lost(part, clean, clean.final) for part, clean in self._parts]
        return np.concatenate([lost.nats for lost in parts])

    @property
    def final(self) -> Float[Tensor, "n d"]:
        """Some of the stream after the last block."""
        final = self._parts[0][1].final
        assert final is not None
        return final[0]

    def activations(self, site: Site) -> Float[Tensor, "n d"]:
        """X at the counted positions, float32."""
        return torch.cat([clean.sites[site][part.counted].float() for part, clean in self._parts])

    def score(self, reading: Reading, *, splice: bool) -> Scores:
        """Encode and decode at every counted position and, if asked, run the rest of the model on x̂ and on 0."""
        sae = reading.sae
        x = self.activations(sae.site)
        delta, active, fired = torch.empty_like(x), torch.empty(len(x)), torch.zeros(sae.d_sae, device=x.device)
        for part in _blocks(len(x)):
            a = sae.encode(x[part])
            delta[part] = sae.decode(a, x[part]) - x[part]
            active[part] = (a > 0).sum(-1).float().cpu()
            fired += (a > 0).sum(0)
        seq, token = self.places
        scores = Scores(
            reading,
            seq,
            token,
            error=_numbers(delta.pow(2).sum(-1)),
            spread=_numbers((x - x.mean(0)).pow(2).sum(-1)),
            active=_numbers(active),
            silent=float((fired == 0).float().mean()),
            clean=self.clean,
        )
        if not splice:
            return scores
        if sae.site not in self._zeroed:
            self._zeroed[sae.site] = self._edited(sae.site, -x)
        return replace(scores, spliced=self._edited(sae.site, delta), zero=self._zeroed[sae.site])

    def _edited(self, site: Site, rows: Float[Tensor, "n d"]) -> Lost:
        """What adding a row at each counted position does to the next token."""
        found, start = [], 0
        for part, clean in self._parts:
            counted = part.counted
            stop = start + int(counted.sum())
            delta = torch.zeros(clean.sites[site].shape, dtype=torch.float32, device=rows.device)
            delta[counted] = rows[start:stop]
            base = {name: clean.sites[name] for name in self._model.bases(site)}
            edited = self._model.resume(clean, base, Edit(site, delta), [], final=True)
            found.append(self._lost(part, clean, edited.final))
            start = stop
        return Lost(np.concatenate([f.kl for f in found]), np.concatenate([f.nats for f in found]))

    def _lost(self, part: Text, clean: Pass, edited: Float[Tensor, "b t d"] | None) -> Lost:
        assert clean.final is not None and edited is not None
        row, pos = part.counted.nonzero(as_tuple=True)
        kl, nats = torch.empty(len(row)), torch.empty(len(row))
        for block in _blocks(len(row)):
            at = row[block], pos[block]
            before = self._model.logits(clean.final[at]).log_softmax(-1)
            after = before if edited is clean.final else self._model.logits(edited[at]).log_softmax(-1)
            kl[block] = (before.exp() * (before - after)).sum(-1).cpu()
            following = part.tokens[at[0], (at[1] + 1).clamp(max=part.tokens.shape[1] - 1)]
            said = -after.gather(1, following.unsqueeze(1)).squeeze(1)
            nats[block] = said.masked_fill(at[1] + 1 >= part.lengths[at[0]], float("nan")).cpu()
        return Lost(_numbers(kl), _numbers(nats))


def _batches(text: Text) -> Iterator[Text]:
    """The sequences in their order, so many at once that a pass stays small."""
    size = max(1, _PASS // text.tokens.shape[1])
    for start in range(0, len(text.lengths), size):
        yield text.part(slice(start, start + size))


def _blocks(count: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, count, _BLOCK))


def _numbers(values: Tensor) -> Float[np.ndarray, " n"]:
    return values.double().cpu().numpy()
