"""bench --truth: how much of circuits that are known is recovered, by each method.

1.  Each model of `known` is written into a folder that goes again, and its prompt is attributed as any other is.
2.  What is found of nodes and edges, by each method, is held against the circuit that follows from the program. What
    could be found are all nodes, and all pairs of nodes of different sites, the second neither before the first in the
    model nor in the text.
3.  What measures has to recover every circuit, with its effects: `wrong` has where it doesn't.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from circuitcli.core.attributed import node_name
from circuitcli.core.recovered import LEAST, Recovery, found, recovery
from circuitcli.known import KNOWN, Known
from circuitcli.known.answer import Edge
from circuitcli.known.files import write
from circuitcli.settings import Settings, kept, resolve, to_dict
from circuitcli.stages import attribute, cache_acts, fetch_saes
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.stages.tools import Tools
from circuitcli.store import attributions, tables
from circuitcli.store.run import Run

Way = Literal["exact", "auto", "ig", "atp", "relp"]
# How edges are got with each: as the attribute stage has them where its other settings are left as they are; ig has no
# edges of its own, and takes those of atp.
WAYS: Mapping[Way, Literal["auto", "estimate", "exact"]] = {
    "exact": "exact",
    "auto": "auto",
    "ig": "estimate",
    "atp": "estimate",
    "relp": "estimate",
}
MEASURED: tuple[Way, ...] = ("exact", "auto")
TOLERANCE = 1e-4  # of effects, beside true ones
Key = TypeVar("Key", bound=str | Edge)


@dataclass(frozen=True)
class Found:
    """What a method recovers of a model's circuit.

    Attributes:
        method: The method.
        nodes, edges: How much of each.
        worst: The largest |effect − true effect| of what is true, nodes and edges, in logits.
        missed, added: Nodes, and edges as `u → d`, that are true and weren't found, or were and aren't.
    """

    method: Way
    nodes: Recovery
    edges: Recovery
    worst: float
    missed: list[str]
    added: list[str]


@dataclass(frozen=True)
class Model:
    """A model and what was recovered; `nodes` and `edges` are true, of so many candidates. `clean` is m, measured."""

    name: str
    says: str
    prompt: str
    metric: str
    value: float
    clean: float
    nodes: int
    edges: int
    node_candidates: int
    edge_candidates: int
    found: list[Found]


@dataclass(frozen=True)
class Truth:
    """All models. `wrong` says in words where what measures doesn't recover a circuit; empty: it recovers all."""

    least: float
    seconds: float
    models: list[Model]
    wrong: list[str]


def run(tools: Tools, known: Sequence[Known] = KNOWN) -> Truth:
    """Attribute every model by every method; of the settings the runtime's and the seed count."""
    started, models = time.perf_counter(), []
    with (
        _one_thread(tools),
        tools.report.track("Recovering circuits", len(known) * len(WAYS), "attributions") as done,
    ):
        for one in known:
            models.append(_model(tools, one, done))
    wrong = [line for one, model in zip(known, models, strict=True) for line in _wrong(one, model)]
    return Truth(LEAST, time.perf_counter() - started, models, wrong)


def document(truth: Truth) -> dict[str, Any]:
    """What --json prints."""
    return asdict(truth)


@contextmanager
def _one_thread(tools: Tools) -> Iterator[None]:
    """Models so small take longer on several threads than on one."""
    threads = tools.runtime.threads  # torch is imported only now, which is shown
    import torch

    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _model(tools: Tools, known: Known, done: Callable[[int], None]) -> Model:
    with tempfile.TemporaryDirectory(prefix="circuit-truth-") as folder:
        settings = _settings(tools.settings, known, Path(folder))
        run = Run(Path(folder) / "run", STAGES.folders)
        run.save_settings(kept(settings))
        job = Job(settings, Silent(), run)
        fetch_saes.run(job)
        cache_acts.run(job)
        said = []
        for way, edges in WAYS.items():
            asked = replace(settings.attribute, method=way, edges=edges)
            attribute.run(replace(job, settings=replace(settings, attribute=asked), force=True))
            said.append(_Said.of(run, way))
            done(1)
    return Model(
        name=known.name,
        says=known.says,
        prompt=known.prompt,
        metric=f"logit({known.target}) − logit({known.against})",
        value=known.metric,
        clean=said[0].clean,
        nodes=len(known.nodes),
        edges=len(known.edges),
        node_candidates=len(said[0].nodes),
        edge_candidates=len(said[0].edges),
        found=[_found(known, way, one) for way, one in zip(WAYS, said, strict=True)],
    )


def _settings(settings: Settings, known: Known, folder: Path) -> Settings:
    """Those of a run on the model's prompt, whose files are written into a folder."""
    written, words, given = write(known, folder), known.program.vocabulary, to_dict(settings)
    ends = {"target": known.target, "against": known.against}
    return resolve(
        {"seed": given["seed"], "runtime": given["runtime"]},
        {
            "model": str(written.model),
            "saes": {"release": str(written.saes)},
            "texts": {"prompt": [known.prompt]},
            "attribute": {name: f"id:{words.index(word)}" for name, word in ends.items()},
        },
    )


@dataclass(frozen=True)
class _Said:
    """What an attribution says of each node, and of each pair that could be an edge, by ids; `clean` is m."""

    clean: float
    nodes: dict[str, float]
    edges: dict[Edge, float]

    @classmethod
    def of(cls, run: Run, way: Way) -> _Said:
        """Of a finished one. Estimates are taken as they were, though some of them were measured as well."""
        nodes, edges = (tables.read(run.path(name)) for name in (attributions.NODES, attributions.EDGES))
        effect, weight = ("effect", "weight") if way in MEASURED else (way, "estimate")
        ids = _ids(nodes)
        said = dict.fromkeys(_pairs(nodes, ids), 0.0)
        for u, d, value in zip(edges["source"], edges["target"], edges[weight].tolist(), strict=True):
            said[ids[u], ids[d]] = value
        asked = attributions.questions(run)[0]
        return cls(asked.clean, dict(zip(ids[:-1], nodes[effect][:-1].tolist(), strict=True)), said)


def _ids(nodes: tables.Columns) -> list[str]:
    columns = (nodes[name].tolist() for name in ("kind", "layer", "site", "feature", "pos"))
    return [node_name(*one) for one in zip(*columns, strict=True)]


def _pairs(nodes: tables.Columns, ids: Sequence[str]) -> list[Edge]:
    """Nodes come in the model's order, those of a site together."""
    place = np.char.add(nodes["layer"].astype(str), nodes["site"].astype(str))
    before = np.triu(np.ones((len(ids), len(ids)), np.bool_), 1)
    before &= (nodes["pos"][:, None] <= nodes["pos"]) & (place[:, None] != place)
    return [(ids[u], ids[d]) for u, d in np.argwhere(before).tolist()]


def _found(known: Known, way: Way, said: _Said) -> Found:
    nodes = _Compared.of(said.nodes, known.nodes)
    edges = _Compared.of(said.edges, known.edges)
    return Found(
        method=way,
        nodes=nodes.recovery,
        edges=edges.recovery,
        worst=max(nodes.worst, edges.worst),
        missed=[*map(known.named, nodes.missed), *map(known.named, edges.missed)],
        added=[*map(known.named, nodes.added), *map(known.named, edges.added)],
    )


@dataclass(frozen=True)
class _Compared(Generic[Key]):
    """Effects beside true ones."""

    recovery: Recovery
    worst: float
    missed: list[Key]
    added: list[Key]

    @classmethod
    def of(cls, said: Mapping[Key, float], true: Mapping[Key, float]) -> _Compared[Key]:
        """Of what no candidate is, nothing is said: it has effect 0."""
        keys = list(dict.fromkeys([*said, *true]))
        effect, right = (np.asarray([values.get(key, 0.0) for key in keys]) for values in (said, true))
        is_true = np.asarray([key in true for key in keys])
        here = found(effect)
        missed, added = (np.flatnonzero(one).tolist() for one in (is_true & ~here, here & ~is_true))
        return cls(
            recovery(effect, is_true),
            float(np.abs(effect - right)[is_true].max()),
            [keys[i] for i in missed],
            [keys[i] for i in added],
        )


def _wrong(known: Known, model: Model) -> list[str]:
    """Where m, or what was measured, isn't what it should be."""
    lines = []
    if abs(model.clean - known.metric) > TOLERANCE:
        lines.append(f"{known.name}: m is {model.clean:.4g}, not {known.metric:.4g}")
    for one in model.found:
        if one.method not in MEASURED:
            continue
        for what, nodes in (("misses", one.missed), ("adds", one.added)):
            if nodes:
                lines.append(f"{known.name}: {one.method} {what} {', '.join(nodes)}")
        if one.worst > TOLERANCE and not one.missed:
            lines.append(f"{known.name}: {one.method} has an effect that is off by {one.worst:.2g} logits")
    return lines
