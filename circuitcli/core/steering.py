"""Steering: features scaled wherever they fire, and what the model then says next.

Sites run in order; each dictionary encodes the stream as it is by then, earlier changes included, and a feature j with
the factor f adds

    δ = σ·(f·a_j − a_j)·W_dec[j]      at each site that its dictionary writes, at every position that counts

so that all other latents and the errors stay as they are by then (error-preserving, Marks et al. 2024; factors as in
Lindsey et al. 2025, *On the Biology of a Large Language Model*). f = 1 changes nothing, f = 0 ablates; where a feature
doesn't fire nothing is added, whatever the factor.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.active import Active
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.edits import Change, Edits
from circuitcli.core.model import Model
from circuitcli.core.sites import Site


@dataclass(frozen=True, eq=False)
class Steered:
    """Features of one dictionary, each once, and by what they are multiplied."""

    dictionary: Dictionary
    feature: Int[Tensor, " k"]
    factor: Float[Tensor, " k"]


def next_logits(
    model: Model, tokens: Int[Tensor, " t"], counts: Bool[Tensor, " t"], steered: Sequence[Steered]
) -> tuple[Float[Tensor, " v"], dict[Site, Active]]:
    """Logits of the next token with features scaled (none: of the model as it is), and what fired of them.

    Args:
        model: The model.
        tokens: One sequence.
        counts: The positions that count; nothing is scaled at others.
        steered: The features, a dictionary each, by different sites that they read.

    Returns:
        The logits; and of each dictionary, by where it reads, what its features were there by then: position among
        those that count, which of `Steered.feature`, activation before it is scaled.
    """
    steering = _Steering(steered, counts)
    run = model.run(tokens.unsqueeze(0), [], final=True, edits=steering.edits())
    assert run.final is not None
    return model.logits(run.final[:, -1])[0], steering.fired


def continued(
    model: Model,
    tokens: Int[Tensor, " t"],
    counts: Bool[Tensor, " t"],
    steered: Sequence[Steered],
    count: int,
    *,
    ends: int | None,
    special: Collection[int] = (),
) -> Iterator[int]:
    """The tokens that follow, each the likeliest, up to `count` of them or the one that ends a text, `ends`.

    Every token is said by a pass over the whole sequence; features are scaled at new tokens as well, but for those that
    are `special`.
    """
    for _ in range(count):
        logits, _ = next_logits(model, tokens, counts, steered)
        token = int(logits.argmax())
        yield token
        if token == ends:
            return
        tokens = torch.cat([tokens, tokens.new_tensor([token])])
        counts = torch.cat([counts, counts.new_tensor([token not in special])])


@dataclass(eq=False)
class _Steering:
    """One pass over one sequence: what dictionaries read, and what fires there, known from where it is read on."""

    steered: Sequence[Steered]
    counts: Bool[Tensor, " t"]
    fired: dict[Site, Active] = field(default_factory=dict)
    _read: dict[Site, Float[Tensor, "p d"]] = field(default_factory=dict)

    def edits(self) -> Edits:
        """Of all sites that are read or written."""
        sites = {site for one in self.steered for site in (one.dictionary.reads, *one.dictionary.written)}
        return {site: self._changing(site) for site in sites}

    def _changing(self, site: Site) -> Change:
        """At one site: first what earlier dictionaries add; then its own reads what is there by then, and adds."""
        own = [one for one in self.steered if one.dictionary.reads == site]
        earlier = [one for one in self.steered if one not in own and site in one.dictionary.written]

        def change(x: Tensor) -> Tensor:
            for one in earlier:
                x = self._added(one, site, x)
            for one in own:
                self._note(one, x)
                x = self._added(one, site, x) if site in one.dictionary.written else x
            return x

        return change

    def _note(self, one: Steered, x: Float[Tensor, "1 t d"]) -> None:
        self._read[one.dictionary.reads] = read = x[0, self.counts].float()
        self.fired[one.dictionary.reads] = _among(one.dictionary.active(read), one.feature)

    def _added(self, one: Steered, site: Site, x: Float[Tensor, "1 t d"]) -> Float[Tensor, "1 t d"]:
        read, a = self._read[one.dictionary.reads], self.fired[one.dictionary.reads]
        by = (one.factor[a.feature] - 1) * a.value
        said = one.dictionary.decoder(site).summed(a.place, one.feature[a.feature], by, len(read))
        after = x.clone()
        after[0, self.counts] += one.dictionary.lands.step(said, read).to(x.dtype)
        return after


def _among(active: Active, features: Int[Tensor, " k"]) -> Active:
    """What is active of some features, under their numbers among these."""
    which, number = features.sort()
    at = torch.searchsorted(which, active.feature).clamp(max=len(which) - 1)
    kept = which[at] == active.feature
    return Active(active.place[kept], number[at[kept]], active.value[kept], len(features))
