"""Measuring what an attribution measures: nodes, a file for each prompt and site, and edges, a file for each prompt.

What is measured follows from time, so it is planned once: whatever is interrupted goes on with the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from circuitcli.core.strata import StratifiedSample
from circuitcli.stages import wiring
from circuitcli.stages.pieces import Piece
from circuitcli.stages.prompt_steps import Measuring, MeasuringEdges
from circuitcli.stages.prompt_task import Step, require
from circuitcli.stages.prompts import Prompts
from circuitcli.stages.study import Study
from circuitcli.store import attributions, tables
from circuitcli.store.records import fingerprint

_EDGES = 0.5  # of the budget, for measuring edges


def planned_nodes(prompts: Prompts) -> list[StratifiedSample] | None:
    """The nodes of each prompt that were planned before; None if none were."""
    shards = [what for what in prompts.todo.plan.shards.values() if what and "nodes" in what]
    if not shards:
        return None
    found = []
    for number in range(len(prompts)):
        mine = sorted((what for what in shards if what["prompt"] == number), key=lambda what: int(what["nodes"][0]))
        for what in mine:
            require(prompts.signatures[number], what.get("of", prompts.signatures[number]), number)
        node, weight = (np.concatenate([np.asarray(what[name]) for what in mine]) for name in ("nodes", "weights"))
        found.append(StratifiedSample(node.astype(np.int64), weight.astype(np.float64)))
    return found


def plan_nodes(prompts: Prompts, extents: Sequence[StratifiedSample]) -> list[_Shard]:
    """The shards of nodes of each prompt, which are planned."""
    prompts.todo.planned_batch(prompts.setup.batch_size)
    shards = [shard for number, part in enumerate(extents) for shard in _shards(prompts, number, part)]
    prompts.todo.expect({shard.name: shard.planned for shard in shards})
    return shards


def measure_nodes(prompts: Prompts, shards: Sequence[_Shard], nodes: Sequence[tables.Columns]) -> None:
    """Measure nodes that weren't yet, and note what was measured in the tables of each prompt."""
    todo = prompts.todo
    pieces = [_of_nodes(prompts, shard) for shard in shards if not todo.found(shard.name)]
    todo.make("Measuring nodes", "nodes", pieces, prompts.inputs.places, of=[shard.name for shard in shards])
    for shard in shards:
        found = _recorded(prompts, shard.name)
        nodes[shard.prompt]["exact"][found["node"]] = found["exact"]
        nodes[shard.prompt]["drawn"][shard.part.index] = shard.part.weight


def _of_nodes(prompts: Prompts, shard: _Shard) -> Piece:
    run, node = prompts.todo.job.run, shard.part.index
    return _piece(
        prompts,
        shard.name,
        shard.prompt,
        Measuring(node),
        lambda effect: attributions.write_measured(run, shard.name, shard.prompt, node, effect),
    )


def _piece(
    prompts: Prompts, name: str, number: int, step: Step[np.ndarray], write: Callable[[np.ndarray], object]
) -> Piece:
    """A step on a prompt, and the file that is written of it."""

    def write_one(results: Sequence[np.ndarray]) -> None:
        [found] = results
        write(found)

    path = prompts.todo.job.run.path(name)
    return Piece(path.stem, len(step), path.is_file, lambda: [prompts.task(number, step)], write_one)


def measure_edges(
    prompts: Prompts, edges: Sequence[tables.Columns], most: int, how: Literal["auto", "estimate", "exact"]
) -> None:
    """Measure edges that weren't yet, and note in their tables what was measured.

    Args:
        prompts: The prompts.
        edges: Of each; of so many nodes at `most`.
        most: See `edges`.
        how: See `wiring.to_measure`.
    """
    todo = prompts.todo
    with todo.planning():
        chosen = _edges_to_measure(prompts, edges, most, how)
    missing = [(number, name) for number, name in enumerate(chosen) if not todo.found(name)]
    pieces = [_of_edges(prompts, name, number, *_ends(edges[number], chosen[name])) for number, name in missing]
    todo.make("Measuring edges", "edges", pieces, prompts.inputs.places, of=chosen.keys())
    for number, (name, drawn) in enumerate(chosen.items()):
        found = _recorded(prompts, name)
        here, there = (str([ends.tolist() for ends in both]) for both in (_ends(edges[number], drawn), _ends(found)))
        require(here, there, number)
        wiring.note(edges[number], drawn, found["exact"], weights=how != "estimate")


def _of_edges(prompts: Prompts, name: str, number: int, source: np.ndarray, target: np.ndarray) -> Piece:
    run = prompts.todo.job.run
    return _piece(
        prompts,
        name,
        number,
        MeasuringEdges(source, target),
        lambda exact: attributions.write_wired(run, name, number, source, target, exact),
    )


def _ends(edges: tables.Columns, chosen: StratifiedSample | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The nodes at the ends of some edges; of all if none are chosen."""
    some = slice(None) if chosen is None else chosen.index
    return edges["source"][some], edges["target"][some]


def _edges_to_measure(
    prompts: Prompts, edges: Sequence[tables.Columns], most: int, how: Literal["auto", "estimate", "exact"]
) -> dict[str, StratifiedSample]:
    """Which, prompt by prompt, by the names of their files: as planned before, or as there is time for."""
    todo, job = prompts.todo, prompts.todo.job
    about = [{"wired": number, "most": most, "how": how} for number in range(len(edges))]
    shards = [(name, what) for name, what in todo.plan.shards.items() if what]
    planned = {name: what for one in about for name, what in shards if {**what, **one} == what}
    if len(planned) < len(edges):
        seconds = _EDGES * job.settings.attribute.budget
        drawn = wiring.to_measure(prompts.study, edges, how, seconds, prompts.seconds_each, job.settings.seed)
        planned = {}
        for one, part in zip(about, drawn, strict=True):
            what = {**one, "edges": part.index.tolist(), "weights": part.weight.tolist()}
            planned[f"attribution/wired-{_digest(prompts, what)}.parquet"] = what
        todo.expect(planned)
    return {
        name: StratifiedSample(np.asarray(what["edges"], np.int64), np.asarray(what["weights"], np.float64))
        for name, what in planned.items()
    }


@dataclass(frozen=True, eq=False)
class _Shard:
    """The nodes of one site of one prompt that are measured."""

    name: str
    prompt: int
    part: StratifiedSample
    planned: dict[str, Any]


def _shards(prompts: Prompts, number: int, part: StratifiedSample) -> Iterator[_Shard]:
    study: Study = prompts.study(number)
    for block in study.blocks:
        inside = (part.index >= block.start) & (part.index < block.stop)
        if inside.any():
            here = StratifiedSample(part.index[inside], part.weight[inside])
            what = {"prompt": number, "nodes": here.index.tolist(), "weights": here.weight.tolist()}
            name = f"attribution/measured-{_digest(prompts, what)}.parquet"
            yield _Shard(name, number, here, what | {"of": prompts.signatures[number]})


def _digest(prompts: Prompts, what: dict[str, Any]) -> str:
    """Names a file by what decides its content."""
    return fingerprint({"stage": prompts.todo.plan.fingerprint, **what})[:16]


def _recorded(prompts: Prompts, name: str) -> tables.Columns:
    """What a file has, which is noted as one of the stage's."""
    run = prompts.todo.job.run
    path = run.path(name)
    prompts.todo.files[name] = run.entry(path, tables.rows(path))
    return tables.read(path)
