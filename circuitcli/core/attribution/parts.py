"""What a prompt's activations are made of: at each site that dictionaries write the features that fire, and the error.

With the frame's σ and shift as they are on the clean pass,

    y = σ·(Σ_s a_s W_dec[s] + b_dec) + shift + e        s: the dictionaries that write there, an SAE alone

A node is one of these terms at one position that counts (no first one, no special token); replacing it adds

    feature j    δ = (c − a_j)·d_j        d_j = σ·W_dec[j], at each site that its dictionary writes
    error        δ = c_e − e              at its site

and what a dictionary reads changes its feature j's activation by k_j·δx, k_j = act'·W_enc[:, j] / divisor (σ and the
frame's mean are constants; but where the frame centres a stream whose mean no norm sees, k_j is centred as d_j is). A
skip connection is no node: what goes through it goes by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.dictionary import Dictionary, Reconstructions
from circuitcli.core.matrix import columns
from circuitcli.core.sites import Site

# What features of a dictionary are replaced by: (position, feature, clean activation) → c.
Replace = Callable[[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]], Float[Tensor, " n"]]
Clean = Mapping[Site, Float[Tensor, "t _"]]
BOTTOM = Site(0, "resid_pre")  # where tokens are


def nothing(pos: Int[Tensor, " n"], feature: Int[Tensor, " n"], activation: Float[Tensor, " n"]) -> Tensor:
    """The zero baseline: c = 0."""
    return torch.zeros_like(activation)


@dataclass(frozen=True, eq=False)
class Source:
    """Nodes of one kind of one prompt that can be replaced: all that a graph of gradients needs to know of them.

    Attributes:
        site: Where they are: the first at which they are edited.
        pos: Of each node, ascending.
        rows: What each adds at the sites where it is edited, in the model's order, but for the factor.
        by: The factor: replacing node i adds by_i · rows_i.
    """

    site: Site
    pos: Int[Tensor, " n"]
    rows: Mapping[Site, Float[Tensor, "n _"]]
    by: Float[Tensor, " n"]

    def __len__(self) -> int:
        return len(self.pos)

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        return sum(rows.nbytes for rows in self.rows.values())

    def deltas(self, which: Int[Tensor, " m"]) -> dict[Site, Float[Tensor, "m _"]]:
        """What replacing some of them adds, site by site."""
        return {site: self.by[which].unsqueeze(1) * rows[which] for site, rows in self.rows.items()}

    def total(self, length: int) -> dict[Site, Float[Tensor, "t _"]]:
        """What replacing all of them adds at each position, site by site."""
        found = {}
        for site, rows in self.rows.items():
            zero = torch.zeros(length, rows.shape[1], device=rows.device)
            found[site] = zero.index_add_(0, self.pos, self.by.unsqueeze(1) * rows)
        return found

    def weight(self, gradient: Mapping[Site, Float[Tensor, "t _"]]) -> Float[Tensor, " n"]:
        """∂m/∂(the factor) of each node: Σ over its sites of ∂m/∂x·rows."""
        parts = [(gradient[site][self.pos] * rows).sum(-1) for site, rows in self.rows.items()]
        return torch.stack(parts).sum(0)

    def effects(self, gradients: Mapping[Site, Float[Tensor, "b t _"]]) -> Float[Tensor, "b n"]:
        """∂/∂x·δ of each node, for each of several gradients; 0 at sites that have none. A position at a time."""
        some = next(iter(gradients.values()), None)
        found = torch.empty(0 if some is None else len(some), len(self), device=self.by.device)
        here = [(self.rows[site], gradient) for site, gradient in gradients.items() if site in self.rows]
        for place, part in self._places:
            products = [gradient[:, place] @ rows[part].T for rows, gradient in here]
            found[:, part] = sum(products[1:], products[0]) if products else 0.0
        return found.mul_(self.by)

    @cached_property
    def _places(self) -> list[tuple[int, slice]]:
        """Each position that has nodes, and which these are."""
        found, count = torch.unique_consecutive(self.pos, return_counts=True)
        stop = count.cumsum(0).tolist()
        return [(p, slice(end - n, end)) for p, n, end in zip(found.tolist(), count.tolist(), stop, strict=True)]


@dataclass(frozen=True, eq=False)
class Tokens(Source):
    """The tokens of a prompt: they come before a dictionary that writes at their site.

    Attributes:
        size: The norm of what the first block reads of each.
    """

    size: Float[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class Features(Source):
    """The features of one dictionary that fire in a prompt, in order of position and index; `rows` are their d_j.

    Attributes:
        reads: The site that it encodes.
        feature: Index of each.
        activation: Its clean activation, 0 of those that only fire on the baseline.
        replacement: What it is replaced by.
        encoder: k_j of each; 0 of those that don't fire.
    """

    reads: Site
    feature: Int[Tensor, " n"]
    activation: Float[Tensor, " n"]
    replacement: Float[Tensor, " n"]
    encoder: Float[Tensor, "n r"]

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        return super().nbytes + self.encoder.nbytes


@dataclass(frozen=True, eq=False)
class Errors(Source):
    """The errors at one site that dictionaries write, one at each position that counts.

    Attributes:
        clean: They themselves.
        skip: What a skip connection does there, if there is one.
    """

    clean: Float[Tensor, "n d"]
    skip: Skip | None

    @property
    def size(self) -> Float[Tensor, " n"]:
        """The norm of each."""
        norm: Tensor = self.clean.norm(dim=1)
        return norm


@dataclass(frozen=True, eq=False)
class Skip:
    """A skip connection of a transcoder: what it reads goes by its features, x ↦ x W_skipᵀ.

    Attributes:
        reads: The site that it reads.
        of: What it makes of activations there, as what is added where it writes. Linear; gradients pass.
        clean: What it makes of the clean ones.
    """

    reads: Site
    of: Callable[[Float[Tensor, "*n r"]], Float[Tensor, "*n d"]]
    clean: Float[Tensor, "t d"]


_Firing = tuple[Tensor, Tensor, Tensor]  # position, feature, activation


def edits_of(sources: Sequence[Source], which: Sequence[Int[Tensor, " _"]]) -> dict[Site, Float[Tensor, "n _"]]:
    """What replacing some nodes of each source adds, one after the other, site by site; 0 where one adds nothing."""
    parts = [source.deltas(some) for source, some in zip(sources, which, strict=True)]
    widths = {site: delta.shape[1] for part in parts for site, delta in part.items()}

    def at(site: Site, part: Mapping[Site, Tensor], some: Tensor) -> Tensor:
        none = torch.zeros(len(some), widths[site], device=some.device)
        return part.get(site, none)

    return {site: torch.cat([at(site, *each) for each in zip(parts, which, strict=True)]) for site in widths}


class Parts:
    """The nodes of a prompt, dictionary by dictionary, none of which has to stay; errors once all are in.

    Args of the constructor:
        clean: Clean activations of the sites that dictionaries read and write.
        counts: The positions that count.
        other: Those activations of another prompt of the same length: features and errors are replaced by what they
            are there, and features that fire there alone are nodes as well.
    """

    def __init__(self, clean: Clean, counts: Bool[Tensor, " t"], other: Clean | None = None) -> None:
        self._clean, self._counts, self._other = clean, counts, other
        self._said, self._other_said = Reconstructions(), Reconstructions()
        self._skips: dict[Site, Skip] = {}

    @cached_property
    def _place(self) -> Int[Tensor, " p"]:
        return self._counts.nonzero().squeeze(1)

    def features(self, dictionary: Dictionary, replace: Replace = nothing) -> Features:
        """The features of a dictionary; `replace` says what they are replaced by, where there is no other prompt."""
        x = self._clean[dictionary.reads].float()
        here, there = self._fires(dictionary, x, self._said), None
        if self._other is not None:
            there = self._fires(dictionary, self._other[dictionary.reads].float(), self._other_said)
        pos, feature, activation, c = _joined(here, there, replace, dictionary.d_sae)
        if dictionary.w_skip is not None:
            self._skips[dictionary.writes] = _skip(dictionary, dictionary.w_skip.to(x.device), x)
        return Features(
            site=dictionary.writes,
            pos=pos,
            rows={one.site: dictionary.lands.step(one.rows(feature), x[pos]) for one in dictionary.decoders},
            by=c - activation,
            reads=dictionary.reads,
            feature=feature,
            activation=activation,
            replacement=c,
            encoder=_encoder(dictionary, x, pos, feature, activation),
        )

    @property
    def written(self) -> list[Site]:
        """The sites that the dictionaries write, which have errors, in the model's order."""
        return self._said.sites

    def errors(self, site: Site, replacement: Float[Tensor, "t d"] | None = None) -> Errors:
        """The errors at a site, of all dictionaries that write there; replaced by 0, or by `replacement`."""
        e, place = self._error(self._said, self._clean, site), self._place
        target = torch.zeros_like(e)
        if self._other is not None:
            target = self._error(self._other_said, self._other, site)
        elif replacement is not None:
            target = replacement[place].float()
        rows, one = {site: target - e}, torch.ones(len(place), device=e.device)
        return Errors(site, place, rows, one, clean=e, skip=self._skips.get(site))

    def _error(self, said: Reconstructions, clean: Clean, site: Site) -> Float[Tensor, "p d"]:
        y = clean[site][self._place].float()
        return y - said.of(site, y)

    def _fires(self, dictionary: Dictionary, x: Float[Tensor, "t d"], said: Reconstructions) -> _Firing:
        found = dictionary.active(x[self._place])
        said.add(dictionary, found, x[self._place])
        return self._place[found.place], found.feature, found.value


def parts_of(
    dictionary: Dictionary,
    clean: Clean,
    counts: Bool[Tensor, " t"],
    *,
    replace: Replace = nothing,
    error: Float[Tensor, "t d"] | None = None,
    other: Clean | None = None,
) -> tuple[Features, Errors]:
    """The nodes of a dictionary that alone writes one site; see `Parts`."""
    parts = Parts(clean, counts, other)
    return parts.features(dictionary, replace), parts.errors(dictionary.writes, error)


def _joined(here: _Firing, there: _Firing | None, replace: Replace, d_sae: int) -> tuple[Tensor, ...]:
    """Positions, features, activations and replacements of the nodes, in order of position and feature."""
    pos, feature, value = here
    if there is None:
        return pos, feature, value, replace(pos, feature, value)
    own = pos * d_sae + feature
    keys = torch.unique(torch.cat([own, there[0] * d_sae + there[1]]))  # sorted
    a, c = (torch.zeros(len(keys), device=value.device) for _ in range(2))
    a[torch.searchsorted(keys, own)] = value
    c[torch.searchsorted(keys, there[0] * d_sae + there[1])] = there[2]
    return keys // d_sae, keys % d_sae, a, c


def _encoder(dictionary: Dictionary, x: Tensor, pos: Tensor, feature: Tensor, activation: Tensor) -> Tensor:
    slope = dictionary.activation.slope(feature) * (activation > 0) / dictionary.frame.scale(x[pos]).divisor.squeeze(-1)
    vectors = columns(dictionary.w_enc, feature).to(x.device)
    vectors = vectors - vectors.mean(-1, keepdim=True) if dictionary.frame.centre else vectors
    return vectors * slope.unsqueeze(1)


def _skip(dictionary: Dictionary, w_skip: Tensor, x: Float[Tensor, "t r"]) -> Skip:
    frame, lands = dictionary.frame.unscaled, dictionary.lands

    def of(x: Tensor) -> Tensor:
        return lands.step(torch.nn.functional.linear(frame.seen(x), w_skip), x)

    return Skip(dictionary.reads, of, of(x))


def tokens(
    stream: Float[Tensor, "t d"], counts: Bool[Tensor, " t"], replacement: Float[Tensor, "t d"] | None = None
) -> Tokens:
    """The tokens of a prompt as nodes: what the first block reads at each position that counts.

    Token and, in models that add it there, position are one; replaced by 0, or by `replacement`.
    """
    place = counts.nonzero().squeeze(1)
    x = stream[place].float()
    delta = -x if replacement is None else replacement[place].float() - x
    return Tokens(BOTTOM, place, {BOTTOM: delta}, torch.ones(len(place), device=x.device), x.norm(dim=1))
