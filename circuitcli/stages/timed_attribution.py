"""What bench times of a prompt's attribution: its parts, and of nodes and edges both ways to make them.

open      the clean pass, and what each SAE makes of it: the nodes
estimates of all nodes, and edges into the nodes of the largest, as the attribute stage computes them
exact     nodes measured, as far as there is time; the others follow by operations
plain     of a node one whole pass with a hook, and the logits of all positions; of the edges into a node one pass
          back through the whole model
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitcli.core.attribution.edges import Jacobians
from circuitcli.core.attribution.measured import read
from circuitcli.core.attribution.parts import BOTTOM, Features, Source, parts_of, tokens
from circuitcli.core.edits import adding_all
from circuitcli.runtime.device import Runtime, synchronize
from circuitcli.stages import extent, wiring
from circuitcli.stages.batching import batch_size, by_positions
from circuitcli.stages.cases import PromptCase
from circuitcli.stages.questions import Asked
from circuitcli.stages.report import Report
from circuitcli.stages.study import Rule, Study

_LEAST = 4  # groups of nodes that are measured whatever the budget
_SITES, _ROWS = 4, 64  # of a sample: sites, and edges' targets at each
_COMPARED = 8  # nodes of which both ways are compared
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Group:
    """Nodes of one site and position, by their numbers, and the operations of measuring them."""

    nodes: Int[np.ndarray, " n"]
    work: float


class Workload:
    """An attribution of a case's prompt, part by part."""

    def __init__(self, case: PromptCase, runtime: Runtime, report: Report) -> None:
        self.case, self.report = case, report
        width = len(case.tokens)
        self.rows = batch_size(case.model, runtime, width, None)
        self.batches = by_positions(runtime, self.rows, width, report.say)

    def timed(self, work: Callable[[], T]) -> tuple[T, float]:
        """What work gives, and its seconds."""
        synchronize(self.case.model.device)
        started = time.perf_counter()
        found = work()
        synchronize(self.case.model.device)
        return found, time.perf_counter() - started

    def open(self) -> Study:
        """The clean pass, and all nodes; as `study.open_study` does it in a run."""
        case, there = self.case, torch.arange(len(self.case.tokens), device=self.case.tokens.device) > 0
        prompt = read(case.model, case.tokens, sorted({BOTTOM, *case.saes}, key=lambda site: site.order), None)
        clean = {site: x[0] for site, x in prompt.run.sites.items()}
        nodes = (parts_of(sae, clean, there) for sae in case.saes.values())
        sources: list[Source] = [tokens(clean[BOTTOM], there), *(source for pair in nodes for source in pair)]
        asked = Asked("", tuple(case.tokens.tolist()), tuple(there.tolist()), None, None, None, None)
        return Study(asked, case.model, prompt, there, sources, frozen=False)

    def nodes(self, study: Study) -> int:
        """Features and errors."""
        return study.nodes - len(study.sources[0])

    def wire(self, study: Study, most: int, rule: Rule = "atp") -> wiring.Wired:
        """The edges between the nodes of the largest estimates."""
        size = abs(study.estimates(rule))
        size[: len(study.sources[0])] = -1
        chosen = np.zeros(study.nodes + 1, np.bool_)
        chosen[np.argsort(-size, kind="stable")[: min(most, self.nodes(study))]] = True
        return wiring.wire(study, rule, chosen, 0, lambda done: None)

    def groups(self, study: Study) -> list[Group]:
        """The nodes that are measured together, those of a site and position; none whose effects are 0 anyway."""
        work, found, first = extent.operations(study), [], len(study.sources[0])
        for block in study.blocks:
            for pos in np.unique(study.pos[block]).tolist():
                nodes = block.start + np.flatnonzero(study.pos[block] == pos)
                nodes = nodes[nodes >= first]  # tokens aren't counted
                made = float(work[nodes].sum())
                found += [Group(nodes, made)] if made else []
        return found

    def exact(self, study: Study, seconds: float) -> tuple[float, int]:
        """The seconds of measuring all nodes, and how many were measured in about the seconds that there are.

        Groups are taken in a random order. The others take as much by their operations.
        """
        groups = self.groups(study)
        total, spent, made = sum(group.work for group in groups), 0.0, 0.0
        measured = self.nodes(study) - sum(len(group.nodes) for group in groups)
        for turn, which in enumerate(np.random.default_rng(0).permutation(len(groups)).tolist()):
            if turn >= _LEAST and spent > seconds:
                break
            group = groups[which]
            spent += self.timed(partial(study.measured, group.nodes, self.batches))[1]
            made, measured = made + group.work, measured + len(group.nodes)
        return spent * total / made, measured


class Sample:
    """A few nodes and edges of a prompt, both ways.

    Attributes:
        share: What of all operations measuring its nodes takes.
        targets: How many features its edges lead into.
    """

    def __init__(self, work: Workload, study: Study) -> None:
        """Of the nodes those of some groups, evenly by operations; of the edges those into features of a few sites."""
        self.work, self.study = work, study
        groups = sorted(work.groups(study), key=lambda group: group.work)
        self.groups = [groups[at] for at in _spread(len(groups), _SITES)]
        self.share = sum(group.work for group in self.groups) / sum(group.work for group in groups)
        features = [one for one in study.sources if isinstance(one, Features)]
        self.ends = [
            (one, torch.tensor(_spread(len(one), _ROWS), device=one.pos.device))
            for one in (features[at] for at in _spread(len(features), _SITES))
            if len(one)
        ]
        self.targets = sum(len(which) for _, which in self.ends)
        self.gradient, _ = study.gradients("atp")
        self.together, self.singly = (
            Jacobians(study.model, study.prompt.tokens, study.counts, study.sources, rows) for rows in (_ROWS, 1)
        )

    @cached_property
    def ways(self) -> dict[str, Callable[[], object]]:
        """Each way by its name; the plain ones make one node, and the edges into one."""
        nodes = [node for group in self.groups for node in group.nodes.tolist()]
        rows = [(one, which[k : k + 1]) for one, which in self.ends for k in _spread(len(which), 2)]
        node, row = count(), count()
        return {
            "nodes": lambda: [self.measured(group.nodes) for group in self.groups],
            "plain node": lambda: self.plain_node(nodes[7 * next(node) % len(nodes)]),
            "edges": lambda: [self.edges(self.together, *end) for end in self.ends],
            "plain edges": lambda: self.edges(self.singly, *rows[next(row) % len(rows)]),
        }

    def measured(self, nodes: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Effects of nodes."""
        return self.study.measured(nodes, self.work.batches)

    def plain_node(self, node: int) -> float:
        """The effect of a node: a whole pass with a hook, and all logits."""
        study, prompt, model = self.study, self.study.prompt, self.study.model
        place = int(np.searchsorted(study.starts, node, side="right")) - 1
        own = study.sources[place].pos.new_tensor([node - study.starts[place]])
        deltas = {}
        for site, delta in study.sources[place].deltas(own).items():
            deltas[site] = torch.zeros(1, len(prompt), delta.shape[1], device=delta.device)
            deltas[site][0, study.pos[node]] = delta[0]
        run = model.run(prompt.tokens.unsqueeze(0), [], final=True, edits=adding_all(deltas))
        assert run.final is not None
        return float(prompt.metric.of(model.logits(run.final[0])[-1:])[0]) - prompt.clean

    def edges(self, into: Jacobians, one: Features, which: Int[Tensor, " n"]) -> Float[Tensor, "n u"]:
        """All edges into some features."""
        return torch.cat(list(into.into_features(one, which, self.gradient)))

    def difference(self) -> dict[str, float]:
        """The largest difference of both ways: of nodes as a share of m, of edges as one of the largest in a row."""
        nodes = [int(g.nodes[at]) for g in self.groups for at in _spread(len(g.nodes), _COMPARED // _SITES)]
        ours = np.asarray([self.measured(np.asarray([node]))[0] for node in nodes])
        plain = np.asarray([self.plain_node(node) for node in nodes])
        found = {"nodes": float(abs(ours - plain).max()) / abs(self.study.prompt.clean), "edges": 0.0}
        for one, which in self.ends:
            rows, single = self.edges(self.together, one, which), self.edges(self.singly, one, which[:2])
            if single.any():
                found["edges"] = max(found["edges"], float((rows[:2] - single).abs().max() / single.abs().max()))
        return found


def _spread(total: int, some: int) -> list[int]:
    """At most so many of the first `total` numbers, evenly."""
    return sorted({int((2 * i + 1) * total / (2 * some)) for i in range(some)}) if total > some else list(range(total))
