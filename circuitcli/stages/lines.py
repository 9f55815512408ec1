"""The lines of circuits that are judged: how each ranks components, and which circuits of it are measured.

circuit         the one that is given, by the strength of its features
exact           by |measured effect|, those that weren't measured behind them by |atp|
exact signed    by how much each adds to m, as MIB ranks for CPR
atp             by |estimate|
activation      by mean activation
random          in random order
neurons, dimensions
                by |estimate|: what any circuit of features has to be held against
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from circuitcli.core.evidence.faithfulness import sizes
from circuitcli.core.evidence.lineup import Packed, Ranking, Row, joined, listed, ranked, shuffled
from circuitcli.core.seeding import PURPOSE_DRAWS
from circuitcli.core.sites import Site
from circuitcli.stages.given import Given
from circuitcli.stages.judging import Components

BySite = Mapping[Site, np.ndarray]


@dataclass(frozen=True, eq=False)
class Line:
    """A ranking, and the circuits of it that are measured on evaluation examples.

    Attributes:
        curve: What it is called; empty of circuits of nothing.
        kind: What it ranks.
        ranking: The ranking.
        rows: The circuits.
        draw: Which of several random ones.
        found: The circuits of it that are measured on discovery examples as well.
    """

    curve: str
    kind: Components
    ranking: Ranking
    rows: tuple[Row, ...]
    draw: int = 0
    found: tuple[Row, ...] = ()

    @cached_property
    def ranks(self) -> dict[Site, Tensor]:
        """The rank of every component of each site."""
        return self.ranking.ranks()


@dataclass(frozen=True, eq=False)
class Sent:
    """A line as it travels: what is measured of it needs the order of its largest circuit, and no scores."""

    curve: str
    kind: Components
    packed: Packed
    rows: tuple[Row, ...]
    draw: int
    found: tuple[Row, ...]

    @classmethod
    def of(cls, line: Line) -> Sent:
        """A line."""
        every = (row for row in (*line.rows, *line.found) if row.n < len(line.ranking) or row.node >= 0)
        first = max((row.n for row in every), default=0)
        return cls(line.curve, line.kind, Packed.of(line.ranking, first), line.rows, line.draw, line.found)

    def line(self) -> Line:
        """It, with all that is measured."""
        return Line(self.curve, self.kind, self.packed.ranking(), self.rows, self.draw, self.found)


@dataclass(frozen=True, eq=False)
class Scores:
    """What the discovery half says of components, mean over its examples.

    Attributes:
        atp: Estimated effects, by kind and site.
        activation: Of features.
        exact: Measured effects of features; NaN of those that weren't measured.
    """

    atp: Mapping[Components, BySite]
    activation: BySite
    exact: BySite

    @property
    def firing(self) -> dict[Site, np.ndarray]:
        """The features that fire."""
        return {site: values > 0 for site, values in self.activation.items()}


def lines(scores: Scores, given: Given | None, *, nodes: int, more: Sequence[int], draws: int, seed: int) -> list[Line]:
    """All of them; the first is that of the circuit which is judged.

    Args:
        scores: What the discovery half says.
        given: The circuit, if one is.
        nodes: Else how many features it has.
        more: Other sizes, beside MIB's fractions of the features that fire.
        draws: Random orders.
        seed: Of them.
    """
    exact = _exact(scores)
    nodes = min(nodes, len(exact))
    size = len(given.features) if given else nodes
    at = sorted({*sizes(len(exact)), *(one for one in more if one <= len(exact)), min(size, len(exact))} - {0})
    found = [_found("exact", exact, at, nodes if given is None else 0)]
    if given is not None:
        own = listed([(one.site, one.index, score) for one, score in given.features], exact.sites)
        found.insert(0, _found("circuit", own, sorted({one for one in at if one < size} | {size}), size))
    rivals = {
        "exact signed": _signed(scores),
        "atp": ranked(_size(scores.atp["features"]), scores.firing),
        "activation": ranked(scores.activation, scores.firing),
    }
    found += [Line(curve, "features", ranking, _rows(at, ("kept", "removed"))) for curve, ranking in rivals.items()]
    for draw in range(draws):
        ranking = shuffled(exact, np.random.default_rng([seed, PURPOSE_DRAWS, draw]))
        found.append(Line("random", "features", ranking, _rows(at, ("kept", "removed")), draw))
    for kind in ("neurons", "dimensions"):
        if scores.atp[kind]:
            found.append(_plain(kind, scores.atp[kind], at))
    nothing = tuple(Row(errors, "nothing", 0) for errors in ("kept", "sites", "removed"))
    return [*found, Line("", "features", exact, nothing, found=nothing)]


def _found(curve: str, ranking: Ranking, at: Sequence[int], nodes: int) -> Line:
    """A line whose circuits are measured in every way; the first `nodes` of it are the circuit that is judged."""
    rows = _rows(at, ("kept", "sites", "removed"), complement=True)
    each = tuple(Row("kept", part, nodes, node) for part in ("without", "alone") for node in range(nodes))
    both = tuple(row for row in rows if row.n == nodes)
    return Line(curve, "features", ranking, (*rows, *each), found=both)


def _rows(at: Sequence[int], errors: Sequence[str], *, complement: bool = False) -> tuple[Row, ...]:
    parts = ("circuit", "complement") if complement else ("circuit",)
    return tuple(Row(how, part, n) for part in parts for how in errors for n in at)  # type: ignore[arg-type]


def _plain(kind: Components, atp: BySite, at: Sequence[int]) -> Line:
    """Neurons or dimensions, which have no errors."""
    ranking = ranked(_size(atp), {site: np.ones(len(values), np.bool_) for site, values in atp.items()})
    rows = (*_rows([n for n in at if n <= len(ranking)], ("kept",)), Row("kept", "nothing", 0))
    return Line(kind, kind, ranking, rows)


def _exact(scores: Scores) -> Ranking:
    measured = {site: ~np.isnan(values) for site, values in scores.exact.items()}
    first = ranked({site: np.abs(np.nan_to_num(values)) for site, values in scores.exact.items()}, measured)
    others = {site: fires & ~measured[site] for site, fires in scores.firing.items()}
    return joined(first, ranked(_size(scores.atp["features"]), others))


def _signed(scores: Scores) -> Ranking:
    """What adds most to m first: measured, then estimated, and last what was measured to work against it."""
    atp, exact = ({site: -values for site, values in each.items()} for each in (scores.atp["features"], scores.exact))
    adds = {site: values > 0 for site, values in exact.items()}
    hinders = {site: values <= 0 for site, values in exact.items()}
    unknown = {site: scores.firing[site] & np.isnan(values) for site, values in exact.items()}
    known = {site: np.nan_to_num(values) for site, values in exact.items()}
    return joined(ranked(known, adds), ranked(atp, unknown), ranked(known, hinders))


def _size(values: BySite) -> dict[Site, np.ndarray]:
    return {site: np.abs(one) for site, one in values.items()}


def every(found: Sequence[Line], half: str) -> Iterator[tuple[Line, tuple[Row, ...]]]:
    """The circuits that are measured on an example of one half."""
    for line in found:
        rows = line.rows if half == "evaluation" else line.found
        if rows:
            yield line, rows
