"""Edges between the strongest nodes of prompts: estimated, and the largest of them, or all, measured.

Of every strongest node, and the target, all edges into it are computed; those from other strongest nodes and from
tokens are kept, and what all of them are together is noted, so that what isn't kept can be told.

An estimate may be 0 where the edge isn't: where attention has settled on one position, or paths cancel. Where all edges
are to be measured, so is every one that there may be, whatever is estimated of it; those that turn out to be next to
nothing are left out again.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core import flops
from circuitcli.core.attribution.direct import TARGET, Load, Pairs, direct
from circuitcli.core.attribution.edges import Jacobians
from circuitcli.core.attribution.parts import Errors, Features, Tokens
from circuitcli.core.strata import StratifiedSample, sample
from circuitcli.stages.extent import operations
from circuitcli.stages.reachable import Reachable
from circuitcli.stages.study import Batches, Rule, Study
from circuitcli.store import tables

# Edges smaller than this share of what goes into their target are counted, and not kept.
_LEAST = 1e-4
# Edges that are measured for calibration: the largest, and others at random; and most that are for themselves.
_CALIBRATED, _MOST = (20, 100), 2000
_ROWS, _POSITIONS = 64, 2048  # most rows of one product with the Jacobians, and positions


@dataclass(frozen=True, eq=False)
class Wired:
    """Edges of one prompt, and Σ |weight| of all edges into each of their targets."""

    edges: tables.Columns
    rows: tables.Columns


def candidates(nodes: Sequence[tables.Columns], most: int) -> list[Bool[np.ndarray, " n"]]:
    """The nodes whose edges are computed, prompt by prompt: the largest Σ |effect| over prompts, position by position.

    Tokens aren't counted among them, nor targets: these always have their edges.
    """
    keys = [_keys(table) for table in nodes]
    total: dict[tuple[object, ...], float] = {}
    for key, table in zip(keys, nodes, strict=True):
        for one, effect, kind in zip(key, np.abs(table["effect"]).tolist(), table["kind"], strict=True):
            if kind in ("feature", "error"):
                total[one] = total.get(one, 0.0) + effect
    kept = set(sorted(total, key=lambda one: (-total[one], one))[:most])
    return [np.asarray([one in kept for one in key]) for key in keys]


def _keys(table: tables.Columns) -> list[tuple[object, ...]]:
    columns = ("layer", "site", "kind", "feature", "pos")
    return list(zip(*(np.asarray(table[name]).tolist() for name in columns), strict=True))


def all_of(
    studies: Callable[[int], Study], chosen: Sequence[Bool[np.ndarray, " _"]], how: Literal["auto", "estimate", "exact"]
) -> bool:
    """Whether every edge that there may be between chosen nodes is to be measured; see `to_measure`."""
    if how != "auto":
        return how == "exact"
    count = 0
    for number, part in enumerate(chosen):
        study = studies(number)
        kept, reachable = Kept(study, part), Reachable(study)
        for target in (*np.flatnonzero(part[: study.nodes]), study.nodes):
            count += int(reachable(kept.sources, np.asarray([target])).sum())
            if count > _MOST:
                return False
    return True


def wire(
    study: Study,
    rule: Rule,
    chosen: Bool[np.ndarray, " n"],
    number: int,
    done: Callable[[int], None],
    *,
    everything: bool = False,
) -> Wired:
    """The edges of a prompt into its chosen nodes and the target, from its chosen nodes and tokens.

    Args:
        study: The prompt.
        rule: Of the estimates.
        chosen: The nodes.
        number: The prompt's.
        done: Told how many nodes more have theirs.
        everything: Whether edges that are estimated as next to nothing are kept as well, if there may be such.
    """
    gradient, last = study.gradients(rule)
    kept = Kept(study, chosen, everything=everything)
    with study.held(rule):
        into = Jacobians(study.model, study.prompt.tokens, study.counts, study.sources, _rows(study, chosen))
        for place, source in enumerate(study.sources):
            nodes = np.flatnonzero(chosen[study.starts[place] : study.starts[place + 1]])
            which = torch.as_tensor(nodes, device=source.pos.device)
            if isinstance(source, Features):
                kept.add(study.starts[place] + nodes, into.into_features(source, which, gradient))
            elif isinstance(source, Errors):
                kept.add(study.starts[place] + nodes, into.into_errors(source, which, gradient))
            done(0 if isinstance(source, Tokens) else len(nodes))
        kept.add(np.asarray([study.nodes]), into.into_target(last))
    return kept.wired(number, rule)


def _rows(study: Study, chosen: Bool[np.ndarray, " n"]) -> int:
    """Rows of one product: twice what a source has on average, so that no more than so many stay empty."""
    ends = [chosen[start:stop] for start, stop in itertools.pairwise(study.starts[1:])]
    parts = sum(1 for end in ends if end.any()) or 1
    return max(1, min(_ROWS, _POSITIONS // len(study.prompt), -(-2 * int(chosen.sum()) // parts)))


class Kept:
    """What is kept of rows of edges: those that are more than a share of what goes into their target."""

    def __init__(
        self, study: Study, chosen: Bool[np.ndarray, " n"], *, everything: bool = False, least: float = _LEAST
    ) -> None:
        self._least = least
        self._device = study.counts.device
        tokens = np.arange(study.nodes) < study.starts[1]
        self.sources = np.flatnonzero(chosen[: study.nodes] | tokens)
        self._reachable = Reachable(study) if everything else None
        self._edges: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._rows: list[tuple[np.ndarray, np.ndarray]] = []

    def add(self, targets: Int[np.ndarray, " n"], blocks: Iterator[Float[Tensor, "r u"]]) -> None:
        """Edges into some nodes, some rows at a time."""
        at, start = torch.as_tensor(self.sources, device=self._device), 0
        for block in blocks if len(targets) else ():
            own = targets[start : start + len(block)]
            total = block.abs().sum(1)
            some = block[:, at]
            enough = some.abs() > self._least * total.unsqueeze(1)
            if self._reachable is not None:
                enough |= torch.as_tensor(self._reachable(self.sources, own), device=self._device)
            row, column = enough.nonzero(as_tuple=True)
            weight = some[row, column].cpu().numpy()
            self._edges.append((self.sources[column.cpu().numpy()], own[row.cpu().numpy()], weight))
            self._rows.append((own, total.cpu().numpy()))
            start += len(block)

    def wired(self, number: int, rule: Rule) -> Wired:
        """As tables, in order of targets and sources."""
        source, target, weight = (np.concatenate(column) for column in zip(*self._edges, strict=True))
        own, total = (np.concatenate(column) for column in zip(*self._rows, strict=True))
        order, by_row = np.lexsort((source, target)), np.argsort(own)
        edges = {
            "prompt": number,
            "source": source[order].astype(np.int32),
            "target": target[order].astype(np.int32),
            "weight": weight[order].astype(np.float64),
            "method": np.full(len(order), rule, object),
            "estimate": weight[order].astype(np.float64),
            "exact": np.full(len(order), np.nan),
            "drawn": np.zeros(len(order)),
        }
        rows = {"prompt": number, "target": own[by_row].astype(np.int32), "abs_in": total[by_row]}
        return Wired(edges, rows)


def settled(wired: tables.Columns, rows: tables.Columns) -> tables.Columns:
    """The edges of a prompt that are more than next to nothing, by estimate or as they were measured."""
    size, estimate = np.abs(wired["weight"]), np.abs(wired["estimate"])
    count = int(rows["target"].max()) + 1 if len(rows["target"]) else 0
    fed = np.zeros(count)
    fed[rows["target"]] = rows["abs_in"]
    measured = np.bincount(wired["target"], size, count)
    kept = (estimate > _LEAST * fed[wired["target"]]) | (size > _LEAST * np.maximum(fed, measured)[wired["target"]])
    return {name: column if np.ndim(column) == 0 else column[kept] for name, column in wired.items()}


def to_measure(
    studies: Callable[[int], Study],
    edges: Sequence[tables.Columns],
    how: Literal["auto", "estimate", "exact"],
    seconds: float,
    per: float,
    seed: int,
) -> list[StratifiedSample]:
    """Which edges of each prompt are measured: all; or the largest that there is time for, and some at random.

    Args:
        studies: The prompts.
        edges: Their edges.
        how: `exact`: all; `estimate`: so many as tell how good estimates are; `auto`: as many as take `seconds`.
        seconds: For all prompts together.
        per: Seconds of an operation.
        seed: Of the draws.
    """
    found = []
    for number, table in enumerate(edges):
        size = np.abs(table["estimate"])
        certain, more = (-(-count // len(edges)) for count in _CALIBRATED)
        if how == "auto":
            order = np.argsort(-size, kind="stable")[: -(-_MOST // len(edges))]
            taken = np.cumsum(per * _operations(studies(number), table["source"][order], table["target"][order]))
            certain = max(certain, int(np.searchsorted(taken, seconds / len(edges))))
        found.append(sample(size, len(size) if how == "exact" else certain, more, seed))
    return found


def _operations(study: Study, source: Int[np.ndarray, " m"], target: Int[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Floating-point operations of measuring edges in this order: one whole pass for each source that is new, and what
    measuring the other end takes.
    """
    first = np.zeros(len(source), np.bool_)
    first[np.unique(source, return_index=True)[1]] = True
    each = np.append(operations(study), 0.0)  # a target's is read off the first pass
    shape, length = study.model.shape, len(study.prompt)
    whole = length * shape.n_layers * flops.block(study.model.sizes, shape, float(length)) + flops.unembed(shape)
    return np.asarray(each[target] + whole * first)


def measure(
    study: Study,
    edges: tables.Columns,
    chosen: StratifiedSample,
    dictionary: Load,
    batches: Batches,
) -> Float[np.ndarray, " m"]:
    """The measured weights of some edges of a prompt."""
    source, target = edges["source"][chosen.index], edges["target"][chosen.index]
    ends = []
    for node in (source, target):
        place = np.searchsorted(study.starts, node, side="right") - 1
        ends.append((place, node - study.starts[place]))
    (up, up_node), (down, down_node) = ends
    down = np.where(target == study.nodes, TARGET, down)
    columns = (torch.as_tensor(c.astype(np.int64), device=study.counts.device) for c in (up, up_node, down, down_node))
    with study.held():
        found = direct(
            study.model, study.prompt, study.counts, study.sources, Pairs(*columns),
            dictionary, batches,
        )  # fmt: skip
    return np.asarray(found.cpu().numpy())


def note(edges: tables.Columns, chosen: StratifiedSample, exact: Float[np.ndarray, " m"], *, weights: bool) -> None:
    """Note in their table what was measured of edges, as their weights too if these are to be measured."""
    edges["exact"][chosen.index] = exact
    edges["drawn"][chosen.index] = chosen.weight
    if weights:
        edges["weight"][chosen.index] = exact
        edges["method"][chosen.index] = "exact"
