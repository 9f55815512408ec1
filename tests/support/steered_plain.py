"""Steering by the second route: plain transformers with hooks, float64, dictionaries by their tensors alone.

Sites run in order. At each comes first what dictionaries that read before it add, then what its own reads and adds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from circuitcli.core.sites import Site
from support.families import Hf
from support.plain import Place, PlainSae

Factors = Mapping[Place, Mapping[int, float]]  # by where a dictionary reads, what its features are multiplied by


class PlainSteering:
    """A model in plain transformers, float64, and dictionaries whose features are scaled.

    Attributes:
        read: What each dictionary read on the last pass.
        fires: At how many positions that count each feature fired then.
        doubtful: Whether rounding may have decided one of that.
    """

    def __init__(self, hf: Hf, dictionaries: Mapping[Place, PlainSae], factors: Factors) -> None:
        self.hf, self.factors = hf, factors
        self.all = {place: dictionaries[place] for place in factors}
        self.fires: dict[tuple[Place, int], int] = {}
        self.read: dict[Place, Tensor] = {}
        self.doubtful = False

    @torch.no_grad()
    def logits(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """[t, v] of one sequence, steered at the positions that count."""
        added: dict[Place, list[Tensor]] = {}
        self.doubtful = False

        def at(place: Place) -> Callable[[Tensor], Tensor]:
            def changed(x: Tensor) -> Tensor:
                x = x[0] + sum(added.pop(place, []))
                if place in self.all:
                    for written, delta in self._read(place, x, counts).items():
                        added.setdefault(written, []).append(delta)
                return (x + sum(added.pop(place, [])))[None]

            return changed

        nothing = torch.zeros(1, 1, dtype=torch.float64)
        written = {w for place, one in self.all.items() for w in one.edits(place, self._like(place), 0, nothing)}
        changes = {Site(*place): at(place) for place in {*self.all, *written}}
        return self.hf.run(tokens[None], [], changes)[1][0]

    def continued(self, tokens: Tensor, counts: Tensor, count: int, ends: int | None = None) -> list[int]:
        """The likeliest tokens one after the other, each by a pass over all that is there by then."""
        found: list[int] = []
        for _ in range(count):
            found.append(int(self.logits(tokens, counts)[-1].argmax()))
            if found[-1] == ends:
                break
            tokens = torch.cat([tokens, torch.tensor(found[-1:])])
            counts = torch.cat([counts, torch.ones(1, dtype=torch.bool)])
        return found

    def _read(self, place: Place, x: Tensor, counts: Tensor) -> dict[Place, Tensor]:
        """What the dictionary that reads a place adds where it writes."""
        one, total = self.all[place], {}
        self.read[place] = x
        acts = one.encode(x)
        for feature, factor in self.factors[place].items():
            self.doubtful |= bool(one.doubtful(x)[counts][:, feature].any())
            self.fires[place, feature] = int((acts[counts][:, feature] > 0).sum())
            for written, delta in one.edits(place, x, feature, factor * acts[:, feature, None]).items():
                total[written] = total.get(written, 0) + torch.where(counts[:, None], delta, 0)
        return total

    def _like(self, place: Place) -> Tensor:
        return torch.zeros(1, len(self.all[place].weights["W_enc"]), dtype=torch.float64)
