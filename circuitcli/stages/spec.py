"""The stages: what each is called, where it lies, what it builds on and which settings it goes by.

They form a graph. What is stale, or taken back when a stage is done again, are the stages that build on it, at whatever
distance; two that build on the same stage don't touch each other. Nothing is imported here, so that the command line
can read it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pkgutil import resolve_name
from typing import Any

GRAPH = "graph"
STABILITY = "stability"
# What it may be drawn of, and the stage that measures that.
DRAWN = {"effects": "effects", "attribution": "attribute"}


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """One stage.

    Attributes:
        name: As it is typed.
        folder: Its own, in a run.
        run: Its work, from a job to an outcome; or where that is, `module:function`, to be imported when it is done.
        parents: The stages whose results it reads.
        flags: The settings that its command has flags for, by prefix of their keys.
        decides: Those that decide its numbers.
        chooses: Those that only decide which of them are computed.
        needs_model: Whether its work is too dear to throw away unasked.
        remade: Whether it is done again if its files aren't as they were recorded; of the others that is an error.
        hashed: Whether its files are compared with their hashes each time, as people open and edit them, and no later
            stage reads them.
        in_run_all: Whether run-all does it where it can, though the graph doesn't build on it.
    """

    name: str
    folder: str
    run: str | Callable[[Any], Any]
    parents: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    decides: tuple[str, ...] = ()
    chooses: tuple[str, ...] = ()
    needs_model: bool = False
    remade: bool = False
    hashed: bool = False
    in_run_all: bool = True

    @property
    def spreads(self) -> bool:
        """Whether its work is tasks, which an executor computes."""
        return "executor." in self.flags

    def work(self) -> Callable[[Any], Any]:
        """Its work; its module is imported only now."""
        return self.run if callable(self.run) else resolve_name(self.run)


@dataclass(frozen=True)
class Stages(Mapping[str, StageSpec]):
    """The graph of stages, by name; each stands after those that it builds on.

    Raises:
        ValueError: One comes before a stage that it builds on, or has the name or the folder of another.
    """

    specs: tuple[StageSpec, ...]

    def __post_init__(self) -> None:
        known: dict[str, StageSpec] = {}
        for spec in self.specs:
            if spec.name in known or spec.folder in {other.folder for other in known.values()}:
                raise ValueError(f"There are two stages {spec.name}, or in {spec.folder}.")
            without = [name for name in spec.parents if name not in known]
            if without:
                raise ValueError(f"{spec.name} builds on {', '.join(without)}, which aren't before it.")
            known[spec.name] = spec

    @cached_property
    def _by_name(self) -> dict[str, StageSpec]:
        return {spec.name: spec for spec in self.specs}

    def __getitem__(self, name: str) -> StageSpec:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self.specs)

    @property
    def folders(self) -> dict[str, str]:
        """Where each lies in a run."""
        return {spec.name: spec.folder for spec in self.specs}

    def descendants(self, name: str) -> tuple[str, ...]:
        """The stages that build on one, at whatever distance; each after those that it builds on itself."""
        found = [name]
        for spec in self.specs:
            if not set(found).isdisjoint(spec.parents):
                found.append(spec.name)
        return tuple(found[1:])

    def ancestors(self, name: str) -> tuple[str, ...]:
        """The stages that one builds on, at whatever distance; each after those that it builds on itself."""
        found = {name}
        for spec in reversed(self.specs):
            if spec.name in found:
                found.update(spec.parents)
        return tuple(spec.name for spec in self.specs if spec.name in found - {name})

    def drawing(self, drawn: str) -> Stages:
        """These with the graph, and how stable it is, built on what is drawn: `effects` or `attribution`."""
        parents, about = (DRAWN[drawn],), (GRAPH, STABILITY)
        return Stages(tuple(replace(spec, parents=parents) if spec.name in about else spec for spec in self.specs))

    @property
    def in_run_all(self) -> tuple[StageSpec, ...]:
        """What run-all does: the graph and what it builds on, and others of which all that they build on is done."""
        done = {GRAPH, *self.ancestors(GRAPH)}
        found = []
        for spec in self.specs:
            if spec.name in done or (spec.in_run_all and done.issuperset(spec.parents)):
                done.add(spec.name)
                found.append(spec)
        return tuple(found)

    def plus(self, *specs: StageSpec) -> Stages:
        """These and more."""
        return Stages((*self.specs, *specs))


STAGES = Stages(
    (
        StageSpec(
            name="fetch-saes",
            folder="saes",
            run="circuitcli.stages.fetch_saes:run",
            flags=("model", "saes."),
            decides=("model", "saes."),
        ),
        StageSpec(
            name="cache-acts",
            folder="acts",
            run="circuitcli.stages.cache_acts:run",
            parents=("fetch-saes",),
            flags=("texts.", "contexts.", "seed", "runtime.dtype", "allow_misfit", "executor."),
            decides=("seed", "runtime.dtype", "texts.", "contexts.top_k", "contexts.num_sequences"),
            needs_model=True,
        ),
        StageSpec(
            name="ablate",
            folder="ablations",
            run="circuitcli.stages.ablate:run",
            parents=("cache-acts",),
            flags=("features.", "ablate.", "runtime.allow_over_memory", "executor."),
            decides=("ablate.", "features.seq_cap"),
            chooses=(
                "features.pinned",
                "features.start",
                "features.thinning",
                "features.branching",
                "features.max_features",
            ),
            needs_model=True,
            in_run_all=False,
        ),
        StageSpec(
            name="effects",
            folder="effects",
            run="circuitcli.stages.effects:run",
            parents=("ablate",),
            flags=("effects.",),
            decides=("effects.",),
            remade=True,
            in_run_all=False,
        ),
        StageSpec(
            name="attribute",
            folder="attribution",
            run="circuitcli.stages.attribute:run",
            parents=("cache-acts",),
            flags=("attribute.", "runtime.allow_over_memory", "executor."),
            decides=(
                "attribute.target",
                "attribute.against",
                "attribute.counterfactual",
                "attribute.baseline",
                "attribute.method",
                "attribute.budget",
                "attribute.ig_steps",
                "attribute.freeze",
                "attribute.replace",
                "attribute.targets",
                "attribute.positions",
                "attribute.half",
            ),
            chooses=(
                "attribute.nodes",
                "attribute.candidates",
                "attribute.node_influence",
                "attribute.edge_influence",
                "attribute.edge_threshold",
                "attribute.edges",
            ),
            needs_model=True,
            in_run_all=False,
        ),
        StageSpec(
            name=GRAPH,
            folder="graph",
            run="circuitcli.stages.graph:run",
            parents=("effects",),
            flags=("graph.",),
            decides=(
                "graph.min_effect",
                "graph.max_edges",
                "graph.group",
                "graph.extend",
                "graph.labels",
                "contexts.view",
            ),
            remade=True,
            hashed=True,
        ),
        StageSpec(
            name=STABILITY,
            folder="stability",
            run="circuitcli.stages.stability:run",
            parents=("effects",),
            flags=("stability.", "executor."),
            decides=("stability.", "graph.min_effect", "graph.max_edges"),
            remade=True,  # of repeats, each of which is a run and kept
            in_run_all=False,
        ),
        StageSpec(
            name="validate",
            folder="validation",
            run="circuitcli.stages.validate:run",
            parents=("cache-acts",),
            flags=("validate.", "executor."),
            decides=(
                "validate.metric",
                "validate.baseline",
                "validate.split",
                "validate.circuit",
                "validate.pinned",
                "validate.nodes",
                "validate.sizes",
                "validate.draws",
                "validate.candidates",
                "validate.num_examples",
            ),
            chooses=("validate.audit",),
            needs_model=True,
            in_run_all=False,
        ),
    )
)
