"""How stable a run's circuit is: what `circuit stability` counted, read from the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitcli.core.attributed import Measure
from circuitcli.core.words import amount, with_interval
from circuitcli.results.reader import Reader

if TYPE_CHECKING:
    import pandas

STAGE = "stability"
TABLE = "stability/stability.parquet"
ALL = "all"
_SEVERAL = {"seed": "seeds", "half": "halves of the data", "intervention": "interventions", ALL: "discoveries in all"}


@dataclass(frozen=True)
class Survival:
    """A node over the repeats of one cause.

    Attributes:
        id: Of the node.
        drawn: Whether the run's own circuit has it.
        repeats, survived: How many there are, and in how many of them it comes up.
        mean, std: Of what it does where it comes up; None where that isn't known.
        ranks: The best, the median and the worst rank of a feature among those of its repeat; None of what is none.
    """

    id: str
    drawn: bool
    repeats: int
    survived: int
    mean: float | None
    std: float | None
    ranks: tuple[int, float, int] | None

    @property
    def survival(self) -> float:
        """The share of repeats in which it comes up."""
        return self.survived / self.repeats


@dataclass(frozen=True)
class Agreement:
    """How alike the repeats of one cause are.

    Attributes:
        cause: `seed`, `half`, `intervention`, or `all`: all together, the run itself once.
        repeats: How many.
        values: What was varied; empty of all.
        nodes, edges: The mean Jaccard index of pairs of repeats.
        nodes_in_all, edges_in_all: How many of the run's own circuit come up in every one.
        on_top: In how many the run's strongest feature is the strongest.
    """

    cause: str
    repeats: int
    values: tuple[str, ...]
    nodes: Measure
    edges: Measure
    nodes_in_all: int
    edges_in_all: int
    on_top: int


class Stability:
    """What repeats of a run's discovery have in common. Whatever is asked of it raises an InputError if that wasn't
    counted.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    @cached_property
    def facts(self) -> Mapping[str, Any]:
        """`ranked_by`, in words; `strongest`: the run's strongest feature, None if it has none; `nodes` and `edges` of
        its circuit; `notes`: what else is to be known.
        """
        return self._reader.run.require(STAGE).facts

    @cached_property
    def agreements(self) -> tuple[Agreement, ...]:
        """By cause, and of all together."""
        return tuple(_agreement(cause, dict(told)) for cause, told in self.facts["causes"].items())

    def nodes(self, cause: str = ALL) -> dict[str, Survival]:
        """Each node by its id; those that only repeats have as well."""
        return self._nodes.get(cause, {})

    @cached_property
    def _nodes(self) -> dict[str, dict[str, Survival]]:
        table = self._reader.table(TABLE)
        found: dict[str, dict[str, Survival]] = {}
        for i in np.flatnonzero(table["of"] == "node").tolist():
            ranks = tuple(float(table[name][i]) for name in ("rank_min", "rank_median", "rank_max"))
            mean, std = (float(table[name][i]) for name in ("effect_mean", "effect_std"))
            found.setdefault(str(table["cause"][i]), {})[str(table["id"][i])] = Survival(
                id=str(table["id"][i]),
                drawn=bool(table["drawn"][i]),
                repeats=int(table["repeats"][i]),
                survived=int(table["survived"][i]),
                mean=None if np.isnan(mean) else mean,
                std=None if np.isnan(std) else std,
                ranks=None if np.isnan(ranks[0]) else (int(ranks[0]), ranks[1], int(ranks[2])),
            )
        return found

    def survival(self) -> pandas.DataFrame:
        """Every node and edge that comes up in any discovery, once for each cause, and once for `all` together.

        Columns: `of`: node or edge; `id`; `source`, `target`: of edges; `drawn`: whether the run's own circuit has it;
        `cause`; `repeats`, `survived`: how many discoveries there are, and in how many it comes up; `survival`: their
        share; `effect_mean`, `effect_std`: mean and spread of what it does where it comes up; `rank_min`,
        `rank_median`, `rank_max`: of features, among those of the same discovery, NaN of all else.
        """
        import pandas

        return pandas.DataFrame(self._reader.table(TABLE), copy=True).astype({"drawn": bool})

    def drawn(self) -> list[Survival]:
        """The nodes of the run's own circuit over all repeats, those that come up most often, and rank best, first."""
        nodes = [node for node in self.nodes().values() if node.drawn]
        return sorted(nodes, key=lambda node: (-node.survived, node.ranks[1] if node.ranks else np.inf, node.id))

    def words(self) -> list[str]:
        """What came of it, a sentence or two a cause."""
        return [*self.facts["notes"], *(line for one in self.agreements for line in self._said(one))]

    def _said(self, one: Agreement) -> Iterator[str]:
        nodes, edges, top = self.facts["nodes"], self.facts["edges"], self.facts["strongest"]
        best = f"; the strongest feature, {top}, is on top in {one.on_top} of {one.repeats}" if top else ""
        alike = f" Two of them share {with_interval(one.nodes)} of their nodes and {with_interval(one.edges)} of their "
        yield (
            f"{one.repeats} {_SEVERAL[one.cause]}: of {amount(nodes, 'node')} in the circuit "
            f"{one.nodes_in_all} come{'s' * (one.nodes_in_all == 1)} up every time, of {amount(edges, 'edge')} "
            f"{one.edges_in_all}{best}.{alike}edges (mean Jaccard index)."
        )

    def document(self) -> dict[str, Any]:
        """The same for --json."""
        return {
            **{name: fact for name, fact in self.facts.items() if name != "causes"},
            "causes": {one.cause: asdict(one) for one in self.agreements},
            "survival": [{**asdict(node), "survival": node.survival} for node in self.drawn()],
            "words": self.words(),
        }


def _agreement(cause: str, told: dict[str, Any]) -> Agreement:
    alike = {of: Measure(**told[of]) for of in ("nodes", "edges")}
    return Agreement(**{**told, **alike, "cause": cause, "values": tuple(told.get("values", ()))})
