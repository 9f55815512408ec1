"""A pass in which only a circuit does its work: at each dictionary what lies outside it takes its baseline.

The dictionary encodes the stream as it is by then, earlier sites' changes included. With C the features that are kept,
c what the others are replaced by, and σ the frame's,

    y' = y + σ·Σ_{j∉C} (c_j − a_j) W_dec[j]                    the error y − ŷ as it is by then: *errors kept*
       = ŷ(a_j of j ∈ C, c_j of the others) + c_e              *errors removed*, replaced by c_e

at the positions that count, at every site that it writes; where several write, the sums are over all of them. Each row
of a pass has a circuit of its own, and keeps or removes the error. Replacing features together, in order, is that of
Marks et al. 2024; with an empty C and errors kept it is what is left of a model whose dictionaries say nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.active import Active
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.edits import Change, Edits, in_turn, noting
from circuitcli.core.sites import Site


@dataclass(frozen=True, eq=False)
class Instead:
    """What stands for features and errors outside a circuit, at one dictionary, in one sequence of p counted positions.

    Attributes:
        features: c of each feature, the same at all positions; None: 0.
        active: c by counted position, of a prompt that has these activations; None: as `features` say.
        error: c_e, the same at all positions or one for each; None: 0.
    """

    features: Float[Tensor, " d_sae"] | None = None
    active: Active | None = None
    error: Float[Tensor, "#p d"] | None = None


ZERO = Instead()


@dataclass(frozen=True, eq=False)
class Keeping:
    """What a pass keeps of one dictionary.

    Attributes:
        dictionary: With its decoders where the pass is.
        keep: Which features each row keeps.
        errors: Whether it keeps the error, at the first site that the dictionary writes.
        instead: What the others are replaced by.
    """

    dictionary: Dictionary
    keep: Bool[Tensor, "b d_sae"]
    errors: Bool[Tensor, " b"]
    instead: Instead = ZERO


def keeping(kept: Sequence[Keeping], counts: Bool[Tensor, " t"]) -> Edits:
    """The edits that keep a circuit's features of each dictionary, a row each, at the positions that count."""
    return _Kept(kept, counts.nonzero().squeeze(1)).edits()


def keeping_values(
    counts: Bool[Tensor, " t"], keep: Bool[Tensor, "b d"], instead: Float[Tensor, "#p #d"], site: Site
) -> Edits:
    """The edit that keeps some values of a site, a row each: neurons, or dimensions of the stream.

    Args:
        counts: The positions that count.
        keep: Which values each row keeps.
        instead: What the others are replaced by, the same at all positions or for each.
        site: Where they are.
    """
    place = counts.nonzero().squeeze(1)

    def change(y: Tensor) -> Tensor:
        after = y.clone()
        after[:, place] = torch.where(keep.unsqueeze(1), y[:, place], instead.to(y.dtype))
        return after

    return {site: change}


@dataclass(eq=False)
class _Kept:
    """One pass: what dictionaries read of it, and what fires there, known from where it is read on."""

    kept: Sequence[Keeping]
    place: Int[Tensor, " p"]
    _read: dict[Site, Tensor] = field(default_factory=dict)
    _fires: dict[Site, tuple[Tensor, Active]] = field(default_factory=dict)

    def edits(self) -> Edits:
        """Of all sites that are written, each of what reaches it."""
        written = {site for one in self.kept for site in one.dictionary.written}
        changes = {site: self._changing(site) for site in written}
        return in_turn(noting([one.dictionary.reads for one in self.kept], self._read), changes)

    def _changing(self, site: Site) -> Change:
        writers = [one for one in self.kept if site in one.dictionary.written]

        def change(y: Tensor) -> Tensor:
            before = y[:, self.place].float()
            added = torch.stack([self._added(one, site, before) for one in writers]).sum(0)
            for own in writers:
                if own.dictionary.writes == site and not bool(own.errors.all()):
                    added = added + self._without_error(own, writers, site, before)
            after = y.clone()
            after[:, self.place] = (before + added).to(y.dtype)
            return after

        return change

    def _seen(self, one: Keeping) -> tuple[Float[Tensor, "b p r"], Active]:
        """What a dictionary reads, and what fires there, by row and position."""
        whole, reads = self._read[one.dictionary.reads], one.dictionary.reads
        if reads not in self._fires or self._fires[reads][0] is not whole:
            self._fires[reads] = whole, one.dictionary.active(whole[:, self.place].float().flatten(0, 1))
        return whole[:, self.place].float(), self._fires[reads][1]

    def _added(self, one: Keeping, site: Site, y: Float[Tensor, "b p d"]) -> Float[Tensor, "b p d"]:
        """What replacing the features outside the circuit adds."""
        x, fires = self._seen(one)
        count = len(self.place)
        out = ~one.keep[fires.place // count, fires.feature]
        said = one.dictionary.decoder(site).summed(
            fires.place[out], fires.feature[out], fires.value[out], y[..., 0].numel()
        )
        return one.dictionary.lands.step(_replaced(one, site, count) - said.view_as(y), x)

    def _without_error(
        self, own: Keeping, writers: Sequence[Keeping], site: Site, y: Float[Tensor, "b p d"]
    ) -> Float[Tensor, "b p d"]:
        """What replacing the error adds in the rows that don't keep it."""
        said = torch.zeros_like(y)
        for one in writers:
            _, fires = self._seen(one)
            part = one.dictionary.decoder(site).summed(fires.place, fires.feature, fires.value, y[..., 0].numel())
            said = said + part.view_as(y)
        x, _ = self._seen(own)
        error = y - own.dictionary.lands.put_back(said + own.dictionary.constant(x), y)
        instead = torch.zeros_like(error) if own.instead.error is None else own.instead.error
        return (instead - error) * (~own.errors).view(-1, 1, 1)


def _replaced(one: Keeping, site: Site, count: int) -> Float[Tensor, "#b #p #d"]:
    """Σ_{j∉C} c_j W_dec[j] at a site, of each row and position."""
    decoder, keep = one.dictionary.decoder(site), one.keep
    if one.instead.active is not None:
        c = one.instead.active
        row, entry = (~keep[:, c.feature]).nonzero(as_tuple=True)
        place = row * count + c.place[entry]
        return decoder.summed(place, c.feature[entry], c.value[entry], len(keep) * count).view(len(keep), count, -1)
    if one.instead.features is not None:
        return ((~keep * one.instead.features) @ decoder.whole()).unsqueeze(1)
    return torch.zeros(1, 1, 1, device=keep.device)
