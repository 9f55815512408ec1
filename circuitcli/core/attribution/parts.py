"""What a prompt's activations are made of: at one dictionary's site the features that fire, and the error.

With the frame's σ and shift as they are on the clean pass,

    y = σ·(a W_dec + b_dec) + shift + e        at the site that the dictionary writes

A node is one of these terms at one position that counts (no first one, no special token); replacing it changes y by

    feature j    δ = (c − a_j)·d_j        d_j = σ·W_dec[j]
    error        δ = c_e − e

and what the dictionary reads changes feature j's activation by k_j·δx, k_j = act'·W_enc[:, j] / divisor (σ and the
frame's mean are constants; but where the frame centres a stream whose mean no norm sees, k_j is centred as d_j is).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site

# What features of a site are replaced by: (position, feature, clean activation) → c.
Replace = Callable[[Int[Tensor, " n"], Int[Tensor, " n"], Float[Tensor, " n"]], Float[Tensor, " n"]]
BOTTOM = Site(0, "resid_pre")  # where tokens are


def nothing(pos: Int[Tensor, " n"], feature: Int[Tensor, " n"], activation: Float[Tensor, " n"]) -> Tensor:
    """The zero baseline: c = 0."""
    return torch.zeros_like(activation)


@dataclass(frozen=True, eq=False)
class Source:
    """Nodes of one site of one prompt that can be replaced: all that a graph of gradients needs to know of them.

    Attributes:
        site: Where they are, and are edited.
        pos: Of each node.
        delta: What replacing it adds.
    """

    site: Site
    pos: Int[Tensor, " n"]
    delta: Float[Tensor, "n d"]

    def __len__(self) -> int:
        return len(self.pos)

    def total(self, length: int) -> Float[Tensor, "t d"]:
        """What replacing all of them adds at each position."""
        zero = torch.zeros(length, self.delta.shape[1], device=self.delta.device)
        return zero.index_add_(0, self.pos, self.delta)

    @cached_property
    def packed(self) -> tuple[Int[Tensor, "t k"], Float[Tensor, "t k d"]]:
        """The nodes position by position, and their δ; −1, and 0, where a position has fewer than another."""
        length = int(self.pos.max()) + 1 if len(self.pos) else 0
        order = self.pos.argsort(stable=True)
        counts = self.pos.bincount(minlength=length)
        within = torch.arange(len(self.pos), device=self.pos.device) - (counts.cumsum(0) - counts)[self.pos[order]]
        width = int(counts.max()) if length else 0
        index = torch.full((length, width), -1, dtype=torch.long, device=self.pos.device)
        index[self.pos[order], within] = order
        delta = torch.zeros(length, width, self.delta.shape[1], device=self.delta.device)
        delta[self.pos[order], within] = self.delta[order]
        return index, delta

    def effects(self, gradient: Float[Tensor, "b t d"]) -> Float[Tensor, "b n"]:
        """∂/∂x·δ of each node, for each of several gradients; a position at a time, as one product."""
        index, delta = self.packed
        found = torch.bmm(gradient[:, : len(index)].transpose(0, 1), delta.transpose(1, 2))  # [t, b, k]
        out = torch.empty(len(gradient), len(self), device=gradient.device)
        there = index >= 0
        out[:, index[there]] = found.transpose(1, 2)[there].T
        return out


@dataclass(frozen=True, eq=False)
class Tokens(Source):
    """The tokens of a prompt: they come before a dictionary that writes at their site.

    Attributes:
        size: The norm of what the first block reads of each.
    """

    size: Float[Tensor, " n"]


@dataclass(frozen=True, eq=False)
class Part(Source):
    """The nodes of one dictionary in one prompt: its features, in order of position and index, then its errors.

    Attributes:
        reads: The site that it encodes.
        feature: Index of each feature node; they are the first nodes.
        activation: Its clean activation, 0 of those that only fire on the baseline.
        replacement: What it is replaced by.
        decoder: d_j of each.
        encoder: k_j of each; 0 of those that don't fire.
        size: The norm of each error.
    """

    reads: Site
    feature: Int[Tensor, " f"]
    activation: Float[Tensor, " f"]
    replacement: Float[Tensor, " f"]
    decoder: Float[Tensor, "f d"]
    encoder: Float[Tensor, "f r"]
    size: Float[Tensor, " e"]

    @property
    def features(self) -> int:
        """How many of the nodes are features."""
        return len(self.feature)


def part(
    dictionary: Dictionary,
    clean: Mapping[Site, Float[Tensor, "t _"]],
    counts: Bool[Tensor, " t"],
    *,
    replace: Replace = nothing,
    error: Float[Tensor, "t d"] | None = None,
    other: Mapping[Site, Float[Tensor, "t _"]] | None = None,
) -> Part:
    """The nodes of a dictionary in a prompt.

    Args:
        dictionary: The dictionary.
        clean: Clean activations of the sites that it reads and writes.
        counts: The positions that count.
        replace: What features are replaced by, where there is no `other`.
        error: What its errors are replaced by; None: 0.
        other: Those activations of another prompt of the same length: features and errors are replaced by what they
            are there, and features that fire there alone are nodes as well.
    """
    x, y = clean[dictionary.reads].float(), clean[dictionary.writes].float()
    place = counts.nonzero().squeeze(1)
    here = _fires(dictionary, x, place)
    there = None if other is None else _fires(dictionary, other[dictionary.reads].float(), place)
    pos, feature, activation, c = _joined(here, there, replace, dictionary.d_sae)
    decoder = dictionary.frame.step(_rows(dictionary.w_dec, feature).to(x.device), x[pos])
    e = errors(dictionary, x, y, here)[place]
    target = torch.zeros_like(e)
    if other is not None and there is not None:
        target = errors(dictionary, other[dictionary.reads].float(), other[dictionary.writes].float(), there)[place]
    elif error is not None:
        target = error[place].float()
    return Part(
        site=dictionary.writes,
        pos=torch.cat([pos, place]),
        delta=torch.cat([(c - activation).unsqueeze(1) * decoder, target - e]),
        reads=dictionary.reads,
        feature=feature,
        activation=activation,
        replacement=c,
        decoder=decoder,
        encoder=_encoder(dictionary, x, pos, feature, activation),
        size=e.norm(dim=1),
    )


_Firing = tuple[Tensor, Tensor, Tensor]  # position, feature, activation


def _fires(dictionary: Dictionary, x: Float[Tensor, "t d"], place: Int[Tensor, " p"]) -> _Firing:
    found = dictionary.active(x[place])
    return place[found.place], found.feature, found.value


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


def _rows(matrix: Tensor, index: Tensor) -> Tensor:
    return matrix[index.to(matrix.device)]


def _encoder(dictionary: Dictionary, x: Tensor, pos: Tensor, feature: Tensor, activation: Tensor) -> Tensor:
    slope = dictionary.activation.slope(feature) * (activation > 0) / dictionary.frame.scale(x[pos]).divisor.squeeze(-1)
    columns = dictionary.w_enc[:, feature.to(dictionary.w_enc.device)].T.to(x.device)
    columns = columns - columns.mean(-1, keepdim=True) if dictionary.frame.centre else columns
    return columns * slope.unsqueeze(1)


def errors(dictionary: Dictionary, x: Tensor, y: Tensor, firing: _Firing) -> Float[Tensor, "t d"]:
    """Errors y − x̂, by the rows of the decoder of what fires."""
    pos, feature, value = firing
    summed = torch.zeros(x.shape[0], y.shape[1], device=x.device)
    summed.index_add_(0, pos, value.unsqueeze(1) * _rows(dictionary.w_dec, feature).to(x.device))
    return y - dictionary.frame.put_back(summed + dictionary.b_dec, x)


def tokens(
    stream: Float[Tensor, "t d"], counts: Bool[Tensor, " t"], replacement: Float[Tensor, "t d"] | None = None
) -> Tokens:
    """The tokens of a prompt as nodes: what the first block reads at each position that counts.

    Token and, in models that add it there, position are one; replaced by 0, or by `replacement`.
    """
    place = counts.nonzero().squeeze(1)
    x = stream[place].float()
    return Tokens(BOTTOM, place, -x if replacement is None else replacement[place].float() - x, x.norm(dim=1))
