"""The steps of an attribution on one prompt: what gradients say of its nodes, what is measured, and its edges."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from circuitcli.core.strata import StratifiedSample
from circuitcli.stages import replacing, wiring
from circuitcli.stages.prompt_task import Bench
from circuitcli.stages.study import Rule, Study
from circuitcli.stages.wiring import Wired
from circuitcli.store import tables

ESTIMATES = ("atp", "relp", "ig")


@dataclass(frozen=True)
class Estimating:
    """The nodes of a prompt with what gradients say of them.

    Attributes:
        rules: By which gradients are had.
        steps: Of integrated gradients; 0: without.
    """

    rules: tuple[Rule, ...]
    steps: int

    def __len__(self) -> int:
        return 1

    def of(self, study: Study, number: int, at: Bench) -> tables.Columns:
        """Columns of nodes.parquet, those that something is measured for empty."""
        table = study.columns(number)
        table |= {name: np.full(len(table["node"]), np.nan) for name in (*ESTIMATES, "exact")}
        for rule in self.rules:
            table[rule][: study.nodes] = study.estimates(rule)
        if self.steps:
            table["ig"][: study.nodes] = study.integrated(self.steps, at.studies.setup.batch_size)
        at.done(1)
        return table | {"drawn": np.zeros(len(table["node"]))}


@dataclass(frozen=True, eq=False)
class Measuring:
    """The measured effects of some nodes of a site, whose numbers ascend."""

    nodes: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.nodes)

    def of(self, study: Study, number: int, at: Bench) -> Float[np.ndarray, " n"]:
        """Of each."""
        found = study.measured(self.nodes, at.batches)
        at.done(len(self))
        return found


@dataclass(frozen=True, eq=False)
class Wiring:
    """The edges into chosen nodes and the target, by gradients: see `wiring.wire`."""

    rule: Rule
    chosen: Bool[np.ndarray, " n"]
    everything: bool

    def __len__(self) -> int:
        return int(self.chosen.sum())

    def of(self, study: Study, number: int, at: Bench) -> Wired:
        """As tables."""
        return wiring.wire(study, self.rule, self.chosen, number, at.done, everything=self.everything)


@dataclass(frozen=True)
class WiringReplaced:
    """The edges of the replacement model into so many features at most: see `replacing.wire`."""

    most: int

    def __len__(self) -> int:
        return 1

    def of(self, study: Study, number: int, at: Bench) -> Wired:
        """As tables."""
        return replacing.wire(study, self.most, number, at.done)


@dataclass(frozen=True, eq=False)
class MeasuringEdges:
    """The measured weights of edges between nodes, by the numbers of these."""

    source: Int[np.ndarray, " m"]
    target: Int[np.ndarray, " m"]

    def __len__(self) -> int:
        return len(self.source)

    def of(self, study: Study, number: int, at: Bench) -> Float[np.ndarray, " m"]:
        """Of each."""
        ends = {"source": self.source, "target": self.target}
        every = StratifiedSample(np.arange(len(self)), np.ones(len(self)))
        found = wiring.measure(study, ends, every, at.studies.dictionary, at.batches)
        at.done(len(self))
        return found


@dataclass(frozen=True)
class Fidelity:
    """How far the replacement model of a prompt is from the real one."""

    def __len__(self) -> int:
        return 1

    def of(self, study: Study, number: int, at: Bench) -> dict[str, Any]:
        """What is measured of it, by name."""
        found = asdict(replacing.fidelity_of(study, at.studies.dictionary))
        at.done(1)
        return found
