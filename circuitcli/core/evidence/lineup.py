"""Circuits in a line: orders in which components are taken in, and which of them a row of a pass keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.sites import Site

Errors = Literal["kept", "sites", "removed"]
Part = Literal["circuit", "complement", "without", "alone", "nothing"]
_LAST = np.iinfo(np.int32).max  # the rank of what is in no circuit


@dataclass(frozen=True, eq=False)
class Ranking:
    """Components of some sites, in the order in which circuits of growing size take them in.

    Attributes:
        site: Of each, its place among `sites`.
        index: Which component of its site.
        score: What it is ranked by.
        sites: The sites, and how many components each has.
    """

    site: Int[np.ndarray, " n"]
    index: Int[np.ndarray, " n"]
    score: Float[np.ndarray, " n"]
    sites: Mapping[Site, int]

    def __len__(self) -> int:
        return len(self.index)

    def ranks(self) -> dict[Site, Int[Tensor, " d"]]:
        """The rank of every component of each site, from 0; a very large one of those that aren't ranked."""
        found = {}
        for place, (site, width) in enumerate(self.sites.items()):
            rank = np.full(width, _LAST, np.int32)
            here = np.flatnonzero(self.site == place)
            rank[self.index[here]] = here
            found[site] = torch.from_numpy(rank)
        return found


@dataclass(frozen=True, eq=False)
class Packed:
    """A ranking whose last components are in no order, in few bytes.

    Attributes:
        site, index: Of the first ones, as in a ranking.
        others: Which of each site's components come behind them, eight in a byte.
        sites: The sites, and how many components each has.
    """

    site: Int[np.ndarray, " n"]
    index: Int[np.ndarray, " n"]
    others: tuple[bytes, ...]
    sites: Mapping[Site, int]

    @classmethod
    def of(cls, ranking: Ranking, first: int) -> Packed:
        """A ranking of which only the first ones' order counts."""
        others = []
        for place, width in enumerate(ranking.sites.values()):
            mask = np.zeros(width, np.bool_)
            mask[ranking.index[first:][ranking.site[first:] == place]] = True
            others.append(np.packbits(mask).tobytes())
        site, index = ranking.site[:first].astype(np.int32), ranking.index[:first].astype(np.int32)
        return cls(site, index, tuple(others), ranking.sites)

    def ranking(self) -> Ranking:
        """The same components, those behind the first ones site by site; scores aren't known."""
        site, index = [self.site], [self.index]
        for place, (width, packed) in enumerate(zip(self.sites.values(), self.others, strict=True)):
            found = np.flatnonzero(np.unpackbits(np.frombuffer(packed, np.uint8), count=width))
            site.append(np.full(len(found), place))
            index.append(found)
        where, which = np.concatenate(site), np.concatenate(index)
        return Ranking(where, which, np.full(len(where), np.nan), self.sites)


def ranked(scores: Mapping[Site, Float[np.ndarray, " d"]], among: Mapping[Site, Bool[np.ndarray, " d"]]) -> Ranking:
    """Components by falling score, among some; of equal ones the earlier site's, then the lower index first."""
    sites = {site: len(score) for site, score in scores.items()}
    where = [np.flatnonzero(among[site]) for site in sites]
    site = np.repeat(np.arange(len(sites)), [len(part) for part in where])
    index, score = (
        np.concatenate(where),
        np.concatenate([scores[s][part] for s, part in zip(sites, where, strict=True)]),
    )
    order = np.argsort(-score, kind="stable")
    return Ranking(site[order], index[order], score[order], sites)


def joined(*parts: Ranking) -> Ranking:
    """One after another."""
    site, index, score = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("site", "index", "score")
    )
    return Ranking(site, index, score, parts[0].sites)


def listed(features: Sequence[tuple[Site, int, float]], sites: Mapping[Site, int]) -> Ranking:
    """Components in the order in which they are given, with their scores."""
    places = {site: i for i, site in enumerate(sites)}
    columns = [(places[site], index, score) for site, index, score in features]
    site, index, score = (np.asarray(column) for column in zip(*columns, strict=True))
    return Ranking(site.astype(np.int64), index.astype(np.int64), score.astype(np.float64), sites)


def shuffled(ranking: Ranking, random: np.random.Generator) -> Ranking:
    """The same components in a random order; their scores are 0."""
    order = random.permutation(len(ranking))
    return Ranking(ranking.site[order], ranking.index[order], np.zeros(len(ranking)), ranking.sites)


@dataclass(frozen=True)
class Row:
    """One circuit that is measured: a part of a ranking.

    Attributes:
        errors: What becomes of the dictionaries' errors: kept, kept at sites that hold a feature of it, or removed.
        part: The first `n`; all but these; these without number `node`, or that alone; or nothing.
        n: How many.
        node: Of `without` and `alone`; else −1.
    """

    errors: Errors
    part: Part
    n: int
    node: int = -1


def keep(rows: Sequence[Row], rank: Int[Tensor, " d"]) -> Bool[Tensor, "b d"]:
    """Which components of a site each row keeps, by their ranks."""
    n, node = (
        torch.tensor([getattr(row, name) for row in rows], device=rank.device).unsqueeze(1) for name in ("n", "node")
    )
    parts = [row.part for row in rows]

    def these(*names: Part) -> Bool[Tensor, "b 1"]:
        return torch.tensor([part in names for part in parts], device=rank.device).unsqueeze(1)

    inside = (rank < n) & these("circuit", "without")
    return (inside & (rank != node)) | ((rank >= n) & these("complement")) | ((rank == node) & these("alone"))


def keeps_errors(rows: Sequence[Row], kept: Bool[Tensor, "b d"]) -> Bool[Tensor, " b"]:
    """Whether each row keeps the error of a site, of which it keeps these components."""
    always, sometimes = (
        torch.tensor([row.errors == name for row in rows], device=kept.device) for name in ("kept", "sites")
    )
    return always | (sometimes & kept.any(1))
