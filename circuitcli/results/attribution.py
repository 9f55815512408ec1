"""What a run says of why its prompts go on as they do: nodes, edges, and how good their estimates are.

An effect is m(replaced) − m(clean), in the unit of the metric m: nats of a log-probability, or logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitcli.core.attributed import ALL, ESTIMATES, EXACT, REST, Calibration
from circuitcli.core.calibration import calibrate, kind_of
from circuitcli.core.tokens import ELLIPSIS, visible
from circuitcli.core.untrusted import read
from circuitcli.results.pooled import Pooled
from circuitcli.results.selection import Selection
from circuitcli.store import attributions
from circuitcli.store.attributions import Prompt, Target
from circuitcli.store.tables import Columns

if TYPE_CHECKING:
    import pandas

    from circuitcli.results.reader import Reader

_TOKEN = 16
KINDS_OF_SITES = ("resid", "attention", "mlp")


class Attributed:
    """The answer to a run's question, from the files of its attribute stage; each is read once.

    Whatever is asked of it raises an InputError if the stage isn't done.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the stage reported."""
        return self._reader.run.require(attributions.STAGE).facts

    @cached_property
    def prompts(self) -> list[Prompt]:
        """What was asked."""
        return attributions.questions(self._reader.run)

    @property
    def clean(self) -> float:
        """The mean of m over the prompts, unedited."""
        return float(np.mean([prompt.clean for prompt in self.prompts]))

    @property
    def prob(self) -> float:
        """The mean over prompts of the target's probability, or all of theirs."""
        return float(np.mean([prompt.prob for prompt in self.prompts]))

    @property
    def separate(self) -> bool:
        """Whether nodes of different positions are different ones."""
        return bool(self.facts["positions"] == "separate")

    @cached_property
    def pooled(self) -> Pooled:
        """Nodes and edges of all prompts as one graph."""
        tables = map(self._reader.table, (attributions.NODES, attributions.EDGES, attributions.ROWS))
        return Pooled.of(*tables, prompts=len(self.prompts), separate=self.separate, targets=self.targets)

    @property
    def targets(self) -> tuple[Target, ...]:
        """Several, if one prompt has them, the likeliest first."""
        return self.prompts[0].targets if len(self.prompts) == 1 else ()

    @cached_property
    def selection(self) -> Selection:
        """What of that graph is kept, by the run's settings."""
        return Selection.of(self.pooled, self._reader.settings.attribute)

    @cached_property
    def calibrations(self) -> tuple[Calibration, ...]:
        """How good each estimate is of which something was measured, as was recorded; see `calibrations`."""
        if "calibration" in self.facts:
            return tuple(read(Calibration, row, "calibration") for row in self.facts["calibration"])
        nodes, edges = (self._reader.table(name) for name in (attributions.NODES, attributions.EDGES))
        return calibrations(nodes, edges, self.facts["edge_method"], self._reader.settings.seed)

    @cached_property
    def tokens(self) -> list[str]:
        """The token of each pooled node: the one at its position in the first prompt that has it.

        Empty where it stands for all positions; of a single target the targets of all prompts.
        """
        targets = ", ".join(some([prompt.target for prompt in self.prompts]))
        found = [
            targets if pos is None else self.prompts[prompt].tokens[pos] if self.separate else ""
            for prompt, pos in self._places
        ]
        return found[: len(found) - len(self.targets)] + [target.token for target in self.targets]

    @cached_property
    def token_ids(self) -> list[int | None]:
        """Likewise their numbers; None where there isn't one."""
        targets = {prompt.target_id for prompt in self.prompts}
        target = targets.pop() if len(targets) == 1 else None
        found = [
            target if pos is None else self.prompts[prompt].ids[pos] if self.separate else None
            for prompt, pos in self._places
        ]
        return found[: len(found) - len(self.targets)] + [target.token_id for target in self.targets]

    @cached_property
    def _places(self) -> list[tuple[int, int | None]]:
        """Of each pooled node the first prompt that has it, and its position there; None of a target."""
        table, first = self._reader.table(attributions.NODES), np.unique(self.pooled.number, return_index=True)[1]
        columns = (table[name][first].tolist() for name in ("prompt", "pos", "kind"))
        return [(prompt, None if kind == "target" else pos) for prompt, pos, kind in zip(*columns, strict=True)]

    def place(self, node: int) -> tuple[Prompt, int]:
        """The first prompt that has a pooled node, and its position there; of a target the last one."""
        prompt, pos = self._places[node]
        found = self.prompts[prompt]
        return found, len(found.tokens) - 1 if pos is None else pos

    def called(self, node: int) -> str:
        """A pooled node on a path: as its id says, but a token, and a target if it is one, by its text."""
        name, at, pos = str(self.pooled.nodes["id"][node]).partition("@")
        one = self.token_ids[node] is not None and self.pooled.nodes["kind"][node] in ("token", "target")
        return f"{visible(self.tokens[node], _TOKEN) if one else name}{at}{pos}"

    def nodes(self, *, by_prompt: bool = False) -> pandas.DataFrame:
        """Every node: features and dictionary errors where they are, tokens, and targets.

        Columns: `id`: as in circuit.json; `kind`: feature, error, token or target; `layer`, `site`, `feature`; `pos`:
        −1 where it stands for all positions; `token`; `n`: places that it stands for; `measured`: at how many of
        them its effect was measured; `activation`: mean over them, SAE units of a feature, the norm of an error or a
        token; `replacement`: of features; `effect`: m(replaced) − m(clean), mean over the prompts, and `method`: how it
        was got; `atp`, `ig`, `relp`, `exact`: all that was computed of it, NaN where it wasn't; `influence`: the
        cumulative share of all influence at which it comes in, NaN where no edges were computed; `kept`: whether the
        graph has it.

        Args:
            by_prompt: A row for each node of each prompt instead, with `prompt` and `node`, its number there, and
                `drawn`: how many nodes a measured one stands for in calibration; without what is of their mean.
        """
        import pandas

        if by_prompt:
            table = self._reader.table(attributions.NODES)
            columns = (table[name].tolist() for name in ("prompt", "pos", "kind"))
            places = ((self.prompts[prompt], pos, kind) for prompt, pos, kind in zip(*columns, strict=True))
            tokens = [asked.target if kind == "target" else asked.tokens[pos] for asked, pos, kind in places]
            tokens[len(tokens) - len(self.targets) :] = [target.token for target in self.targets]
            names = self.pooled.nodes["id"][self.pooled.number]
            return pandas.DataFrame({"id": names, **table, "token": tokens}, copy=True)
        pooled, kept = self.pooled.nodes, self.selection
        more = {"token": self.tokens, "influence": kept.influence, "kept": kept.nodes}
        return pandas.DataFrame({"id": pooled["id"], **pooled, **more}, copy=True)

    def edges(self, *, by_prompt: bool = False) -> pandas.DataFrame:
        """Every edge that was computed: what replacing `source` does to m through `target` alone, in m's unit.

        Columns: `source`, `target`: ids of nodes; `weight`: mean over the prompts, and `method`: how it was got;
        `estimate` and `exact`: what gradients say and what was measured, NaN where nothing was; `n`: prompts that have
        it; `kept`: whether the graph has it.

        Args:
            by_prompt: A row for each edge of each prompt instead, with `prompt`, and `drawn`: how many edges a measured
                one stands for in calibration; without `n` and `kept`.
        """
        import pandas

        names = self.pooled.nodes["id"]
        if by_prompt:
            table = self._reader.table(attributions.EDGES)
            starts = np.searchsorted(self._reader.table(attributions.NODES)["prompt"], table["prompt"])
            ends = {end: names[self.pooled.number[starts + table[end]]] for end in ("source", "target")}
            return pandas.DataFrame({**table, **ends}, copy=True)
        edges = self.pooled.edges
        ends = {end: names[edges[end]] for end in ("source", "target")}
        return pandas.DataFrame({**edges, **ends, "kept": self.selection.edges}, copy=True)

    def calibration(self) -> pandas.DataFrame:
        """How good estimates are, on the nodes and edges that were measured; no rows where none was.

        Columns: `of`: nodes or edges; `method`: the estimate; `kind`: all, or the kind of site, resid, attention or
        mlp; `n`: measured; `total`: of so many; `pearson`, `spearman`: correlations; `sign`: share of equal signs;
        `slope`: exact ≈ slope · estimate; `recall`: share of the `top` largest measured ones that are among the `top`
        largest estimates; each with the ends of its 95% bootstrap interval, as `pearson_low` and `pearson_high`.
        """
        import pandas

        return pandas.DataFrame([flat(asdict(row)) for row in self.calibrations])


def some(names: list[str], most: int = 3) -> list[str]:
    """Different ones of some names, `…` for those that are too many."""
    found = list(dict.fromkeys(names))
    return found if len(found) <= most else [*found[:most], ELLIPSIS]


def calibrations(nodes: Columns, edges: Columns, edge_method: str, seed: int) -> tuple[Calibration, ...]:
    """How good each estimate is of which something was measured: of nodes at all sites and by kind; of edges.

    Resampling takes a while: it is done once, when an attribution is finished.
    """
    return (*_of_nodes(nodes, seed), *_of_edges(edges, edge_method, seed))


def _of_nodes(table: Columns, seed: int) -> Iterator[Calibration]:
    counted = table["kind"] != "target"
    inner = (table["kind"] == "feature") | (table["kind"] == "error")
    kinds = np.full(len(counted), "", dtype=object)
    for site in np.unique(table["site"][inner].astype(str)):
        kinds[inner & (table["site"] == site)] = kind_of(str(site))
    for method in ESTIMATES:
        for kind in (ALL, *KINDS_OF_SITES):
            of_kind = counted if kind == ALL else kinds == kind
            yield from _row(table, table[method], of_kind, seed, of="nodes", method=method, kind=kind)
        yield from _rest(table, table[method], counted, seed, of="nodes", method=method)


def _of_edges(table: Columns, method: str, seed: int) -> Iterator[Calibration]:
    of_kind = np.ones(len(table["estimate"]), np.bool_)
    yield from _row(table, table["estimate"], of_kind, seed, of="edges", method=method, kind=ALL)
    yield from _rest(table, table["estimate"], of_kind, seed, of="edges", method=method)


def _rest(table: Columns, estimate: np.ndarray, counted: np.ndarray, seed: int, **about: Any) -> Iterator[Calibration]:
    """The same of those that weren't measured for certain; nothing where all were, or none.

    Without a recall: the largest aren't among them, and one drawn stands for more than the top.
    """
    certain = counted & (table["drawn"] == 1)
    if certain.any() and (counted & (table["drawn"] == 0)).any():
        yield from _row(table, estimate, counted & ~certain, seed, kind=REST, top=0, **about)


def _row(table: Columns, estimate: np.ndarray, of_kind: np.ndarray, seed: int, **about: Any) -> Iterator[Calibration]:
    """How good an estimate is of some rows of a table; nothing if none of them was measured."""
    measured = of_kind & (table["drawn"] > 0) & ~np.isnan(table[EXACT]) & ~np.isnan(estimate)
    if measured.any():
        yield calibrate(
            estimate[measured].astype(np.float64),
            table[EXACT][measured].astype(np.float64),
            table["drawn"][measured].astype(np.float64),
            total=int(of_kind.sum()),
            seed=seed,
            prompt=table["prompt"][measured],
            **about,
        )


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A record whose measures are columns; NaN where they aren't defined."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            ends = {name: "value", f"{name}_low": "low", f"{name}_high": "high"}
            found |= {column: np.nan if value[end] is None else value[end] for column, end in ends.items()}
        else:
            found[name] = value
    return found
