"""All that a run should hold, computed anew by the second route: plain transformers, and SAEs by hand, in float64."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import Tensor

from support.families import PlainFamily
from support.plain import NAMES, Place, PlainModel, PlainSae


def rows(run: Path, pattern: str) -> list[dict[str, Any]]:
    """The rows of every parquet file of a run that matches."""
    paths = sorted(run.glob(pattern))
    assert paths, pattern
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


@dataclass(frozen=True, eq=False)
class Read:
    """One downstream site where an ablation is read: its latents, and those that rounding may decide."""

    clean: Tensor
    ablated: Tensor
    doubtful: Tensor

    @property
    def largest(self) -> float:
        """The row's largest value, of which all tolerances are a part; never less than a tenth."""
        return max(float(self.clean.max()), float(self.ablated.max()), 0.1)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one ablation does: downstream latents where it is read, and the next token's distribution.

    Reads are by place and position; KL and effects on tokens are summed over positions. `tokens` has the effects on the
    log-probability and the probability of every token at each of these positions.
    """

    reads: dict[tuple[Place, int], Read]
    kl: float
    logprob_effect: Tensor
    prob_effect: Tensor
    tokens: dict[int, tuple[Tensor, Tensor]]


class Brute:
    """A run's text and SAEs, and from them everything else."""

    def __init__(
        self,
        run: Path | list[Tensor],
        model: PlainModel | PlainFamily,
        saes: Mapping[Place, PlainSae],
        names: list[str],
        counted: int,
        special: Mapping[int, Collection[int]] = MappingProxyType({}),
    ) -> None:
        """`names` are the sites of each layer; of the sequences, those of a run or these, the first `counted` count.

        `special` says where in each sequence special tokens stand: at these, as at position 0, nothing is counted, nor
        edited, and no latent is read.
        """
        self.model, self.counted = model, counted
        self.outliers = lambda seq: [0, *special.get(seq, ())]
        self.saes = {place: sae for place, sae in sorted(saes.items(), key=_order) if place[1] in names}
        self.sequences = run if isinstance(run, list) else _stored(run)

    @cached_property
    def clean(self) -> list[tuple[dict[Place, Tensor], Tensor]]:
        """Activations of all sites, and log-probabilities, of every sequence."""
        return [self.model.run(sequence) for sequence in self.sequences]

    @cached_property
    def latents(self) -> dict[Place, list[Tensor]]:
        """Every latent at every position of every sequence; position 0 counts as inactive."""
        return {
            place: [self._latents(place, seq, sites[place]) for seq, (sites, _) in enumerate(self.clean)]
            for place in self.saes
        }

    def _latents(self, place: Place, seq: int, x: Tensor) -> Tensor:
        latents = self.saes[place].encode(x)
        latents[self.outliers(seq)] = 0
        return latents

    def counted_latents(self, place: Place) -> Tensor:
        """Latents at the counted positions: 1 to the last of the sequences that count, but for special tokens."""
        whole = enumerate(self.latents[place][: self.counted])
        return torch.cat([a[[p for p in range(len(a)) if p not in self.outliers(seq)]] for seq, a in whole])

    def doubtful(self, place: Place, seq: int) -> Tensor:
        """Which latents rounding may decide, in the clean pass."""
        return self.saes[place].doubtful(self.clean[seq][0][place])

    def downstream(self, place: Place) -> list[Place]:
        """Every chosen site behind one, up to and including the next chosen layer."""
        later = [layer for layer, _ in self.saes if layer > place[0]]
        last = min(later, default=place[0])
        return [p for p in self.saes if _order((p,)) > _order((place,)) and p[0] <= last]

    def ablate(
        self,
        place: Place,
        feature: int,
        seq: int,
        pos: int,
        replacement: float,
        horizon: int | None = 0,
        downstream: list[Place] | None = None,
    ) -> Outcome:
        """Replace one feature at one position (−1: at every position but the outliers).

        It is read there and at so many positions behind (None: all), or, edited everywhere, at the last; of latents,
        where the last is a special token, at the last other one.
        """
        before, logp = self.clean[seq]
        x = before[place]
        where = torch.zeros(len(x), 1, dtype=torch.float64)
        where[[p for p in range(len(x)) if p not in self.outliers(seq)] if pos < 0 else pos] = 1
        deltas = self.saes[place].edits(place, x, feature, replacement)
        edits = [(written, delta * where) for written, delta in deltas.items()]
        after, ablated_logp = self.model.run(self.sequences[seq], *edits)
        last = len(x) - 1
        behind = last if horizon is None else min(last, pos + horizon)
        positions = [last] if pos < 0 else list(range(pos, behind + 1))
        downstream = self.downstream(place) if downstream is None else downstream
        reads = {
            (down, at): self._read(down, before[down][at], after[down][at])
            for down in downstream
            for at in (positions if pos >= 0 else [max(set(range(len(x))) - {*self.outliers(seq)})])
            if at not in self.outliers(seq)
        }
        change = ablated_logp[positions] - logp[positions]
        kl = -(logp[positions].exp() * change).sum()
        prob = ablated_logp[positions].exp() - logp[positions].exp()
        tokens = {at: (change[i], prob[i]) for i, at in enumerate(positions)}
        return Outcome(reads, float(kl), change.sum(0), prob.sum(0), tokens)

    def _read(self, place: Place, before: Tensor, after: Tensor) -> Read:
        sae = self.saes[place]
        return Read(sae.encode(before), sae.encode(after), sae.doubtful(before) | sae.doubtful(after))


def _stored(run: Path) -> list[Tensor]:
    stored = load_file(run / "acts/tokens.safetensors")
    pairs = zip(stored["tokens"].long(), stored["lengths"], strict=True)
    return [tokens[:length] for tokens, length in pairs]


def _order(entry: tuple[Place, ...]) -> tuple[int, int]:
    layer, name = entry[0]
    return layer, NAMES.index(name)
