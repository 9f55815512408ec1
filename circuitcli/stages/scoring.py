"""What one half of the examples says of single components: estimates of all, and measured effects of the strongest.

Both are means over the half's examples. By these, circuits of growing size are made (`lines`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from circuitcli.core.evidence.lineup import ranked
from circuitcli.core.sites import Site
from circuitcli.executors import Done
from circuitcli.stages.judging import Components, Opened
from circuitcli.stages.lines import Scores
from circuitcli.stages.portion_task import Bench
from circuitcli.stages.portions import Portions
from circuitcli.stages.screening import measure, screen
from circuitcli.store import tables

BySite = dict[Site, np.ndarray]


@dataclass(frozen=True)
class Screening:
    """Estimates all components, as a step."""

    def of(self, at: Bench, done: Done) -> list[tables.Columns]:
        """Their sums over the examples."""
        totals: dict[tuple[Components, Site], np.ndarray] = {}
        activation: BySite = {}
        for number, example in at.examples.items():
            found = screen(at.judge, example, number)
            for kind, sites in found.atp.items():
                for site, values in sites.items():
                    totals[kind, site] = totals.get((kind, site), 0.0) + values.double().cpu().numpy()
            for site, values in found.activation.items():
                activation[site] = activation.get(site, 0.0) + values.double().cpu().numpy()
            done(1)
        return [
            _screened(kind, site, values, activation[site] if kind == "features" else np.zeros_like(values))
            for (kind, site), values in totals.items()
        ]


@dataclass(frozen=True, eq=False)
class Measuring:
    """Measures some features of each site, as a step."""

    chosen: BySite

    def of(self, at: Bench, done: Done) -> list[tables.Columns]:
        """Their effects on each example."""
        parts = []
        for number in at.examples:
            for site, effect in effects(at, opened(at, number), self.chosen).items():
                there = np.flatnonzero(effect)
                parts.append(
                    {
                        "example": np.full(len(there), number, np.int32),
                        "layer": site.layer,
                        "site": site.name,
                        "feature": self.chosen[site][there],
                        "exact": effect[there],
                    }
                )
            done(1)
        return parts


def opened(at: Bench, number: int) -> list[Opened]:
    """An example, with all that features are measured by."""
    judge = at.judge
    sites = {base for one in judge.dictionaries for base in (one.reads, *judge.model.bases(one.writes))}
    return judge.open(at.examples[number], number, read=sorted(sites, key=lambda site: site.order))


def effects(at: Bench, example: Sequence[Opened], chosen: Mapping[Site, np.ndarray]) -> BySite:
    """The measured effects of some features of each site on an example that was opened here."""
    device = at.judge.model.device
    return {
        site: measure(at.judge, example, site, torch.as_tensor(features, device=device), at.batches).numpy()
        for site, features in chosen.items()
    }


@dataclass(frozen=True, eq=False)
class Scoring:
    """Scores components on some examples.

    Attributes:
        widths: How many components of each kind there are at each site.
        candidates: So many features are measured.
    """

    widths: Mapping[Components, Mapping[Site, int]]
    candidates: int

    def scores(self, numbers: Sequence[int], portions: Portions) -> Scores:
        """Of the examples of these numbers."""
        atp: dict[Components, BySite] = {
            kind: {site: np.zeros(width) for site, width in widths.items()} for kind, widths in self.widths.items()
        }
        activation = {site: np.zeros_like(values) for site, values in atp["features"].items()}
        for table in portions.kept("screened", "Estimating effects", numbers, {}, Screening()):
            for kind, sites in atp.items():
                _scatter(sites, table, "atp", table["kind"] == kind, len(numbers))
            _scatter(activation, table, "activation", table["kind"] == "features", len(numbers))
        chosen = self.strongest(atp["features"])
        exact = {site: np.full(len(values), np.nan) for site, values in activation.items()}
        for site, features in chosen.items():
            exact[site][features] = 0.0
        for table in self.measured(numbers, chosen, portions):
            _scatter(exact, table, "exact", np.ones(len(table["exact"]), np.bool_), len(numbers))
        return Scores(atp, activation, exact)

    def measured(
        self, numbers: Sequence[int], chosen: BySite, portions: Portions, *, apart: bool = False
    ) -> Iterator[tables.Columns]:
        """The measured effects of some features of each site on examples: those that aren't 0.

        Args:
            numbers: The examples.
            chosen: The features.
            portions: Where they are kept.
            apart: Whether in a table of their own, which has no part in what is chosen.
        """
        what = {"candidates": {str(site): features.tolist() for site, features in chosen.items()}}
        table, words = ("compared", "Measuring effects to compare") if apart else ("measured", "Measuring effects")
        return portions.kept(table, words, numbers, what, Measuring(chosen))

    def strongest(self, atp: Mapping[Site, np.ndarray]) -> BySite:
        """The features whose effects are measured: those of the largest estimates."""
        size = {site: np.abs(values) for site, values in atp.items()}
        some = ranked(size, {site: values > 0 for site, values in size.items()})
        index, site = some.index[: self.candidates], some.site
        return {of: np.sort(index[site[: len(index)] == place]) for place, of in enumerate(some.sites)}


def _screened(kind: str, site: Site, atp: np.ndarray, activation: np.ndarray) -> tables.Columns:
    """What isn't 0."""
    there = np.flatnonzero((atp != 0) | (activation != 0))
    return {
        "kind": kind, "layer": site.layer, "site": site.name, "feature": there.astype(np.int32),
        "atp": atp[there], "activation": activation[there],
    }  # fmt: skip


def _scatter(into: BySite, table: tables.Columns, column: str, rows: np.ndarray, count: int) -> None:
    """Add a column's share of so many examples to the components that its rows are of."""
    for site, values in into.items():
        here = np.flatnonzero(rows & (table["layer"] == site.layer) & (table["site"] == site.name))
        np.add.at(values, table["feature"][here], table[column][here].astype(np.float64) / count)
