"""Measuring what an attribution measures: nodes, a file for each prompt and site, and edges, a file for each prompt.

What is measured follows from time, so it is planned once: whatever is interrupted goes on with the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from circuitcli.core.strata import StratifiedSample
from circuitcli.stages import wiring
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
        node, weight = (np.concatenate([np.asarray(what[name]) for what in mine]) for name in ("nodes", "weights"))
        found.append(StratifiedSample(node.astype(np.int64), weight.astype(np.float64)))
    return found


def measure_nodes(prompts: Prompts, extents: Sequence[StratifiedSample], nodes: Sequence[tables.Columns]) -> None:
    """Measure nodes that weren't yet, and note what was measured in the tables of each prompt."""
    todo = prompts.todo
    shards = [shard for number, part in enumerate(extents) for shard in _shards(prompts, number, part)]
    todo.expect({shard.name: shard.planned for shard in shards})
    missing = [shard for shard in shards if not todo.found(shard.name)]
    with todo.job.report.track("Measuring nodes", sum(len(shard.part.index) for shard in missing), "nodes") as done:
        for shard in missing:
            study = prompts.study(shard.prompt)
            effect = study.measured(shard.part.index, prompts.batches)
            attributions.write_measured(todo.job.run, shard.name, shard.prompt, shard.part.index, effect)
            done(len(shard.part.index))
    for shard in shards:
        found = _recorded(prompts, shard.name)
        nodes[shard.prompt]["exact"][found["node"]] = found["exact"]
        nodes[shard.prompt]["drawn"][shard.part.index] = shard.part.weight


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
    todo, chosen = prompts.todo, _edges_to_measure(prompts, edges, most, how)
    with todo.job.report.track("Measuring edges", sum(len(one.index) for one in chosen.values()), "edges") as done:
        for number, (name, drawn) in enumerate(chosen.items()):
            table = edges[number]
            if not todo.found(name):
                exact = wiring.measure(prompts.study(number), table, drawn, prompts.dictionary, prompts.batches)
                source, target = (table[end][drawn.index] for end in ("source", "target"))
                attributions.write_wired(todo.job.run, name, number, source, target, exact)
            wiring.note(table, drawn, _recorded(prompts, name)["exact"], weights=how != "estimate")
            done(len(drawn.index))


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
            yield _Shard(f"attribution/measured-{_digest(prompts, what)}.parquet", number, here, what)


def _digest(prompts: Prompts, what: dict[str, Any]) -> str:
    """Names a file by what decides its content."""
    return fingerprint({"stage": prompts.todo.plan.fingerprint, **what})[:16]


def _recorded(prompts: Prompts, name: str) -> tables.Columns:
    """What a file has, which is noted as one of the stage's."""
    run = prompts.todo.job.run
    path = run.path(name)
    prompts.todo.files[name] = run.entry(path, tables.rows(path))
    return tables.read(path)
