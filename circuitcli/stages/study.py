"""One prompt of an attribution, opened: its clean pass, its nodes, and what gradients say of them.

Nodes are numbered from 0 within a prompt: its tokens, then dictionary by dictionary in the model's order features and
errors, and last the target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuitcli.core.attribution import gradients, measured
from circuitcli.core.attribution.measured import Prompt
from circuitcli.core.attribution.metric import Metric
from circuitcli.core.attribution.parts import BOTTOM, Part, Source, Tokens
from circuitcli.core.model import Fixed, Model
from circuitcli.core.sites import Site
from circuitcli.stages.baselines import Baselines
from circuitcli.stages.inputs import Inputs
from circuitcli.stages.questions import Asked
from circuitcli.store import tables

Rule = Literal["atp", "relp"]
Batches = Callable[[int, int, Callable[[slice], Tensor]], Iterator[Tensor]]


@dataclass(eq=False)
class Study:
    """A prompt and its nodes.

    Attributes:
        asked: The question.
        model: The model.
        prompt: The clean pass.
        counts: The positions that have nodes.
        sources: The nodes, site by site: tokens first.
        frozen: Whether attention patterns and norms' scales are held.
    """

    asked: Asked
    model: Model
    prompt: Prompt
    counts: Bool[Tensor, " t"]
    sources: list[Source]
    frozen: bool
    _gradients: dict[Rule, tuple[dict[Site, Tensor], Tensor]] = field(default_factory=dict)

    @property
    def parts(self) -> list[tuple[int, Part]]:
        """The nodes of dictionaries, with their places among the sources."""
        return [(i, source) for i, source in enumerate(self.sources) if isinstance(source, Part)]

    @cached_property
    def starts(self) -> np.ndarray:
        """The number of each source's first node; last of all that of the target."""
        return np.cumsum([0, *map(len, self.sources)])

    @property
    def nodes(self) -> int:
        """How many nodes there are that can be replaced."""
        return int(self.starts[-1])

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        parts = [(p.delta, p.decoder, p.encoder) for _, p in self.parts]
        return self.prompt.run.nbytes + sum(tensor.nbytes for tensors in parts for tensor in tensors)

    def held(self, rule: Rule = "atp") -> AbstractContextManager[None]:
        """What is constant on its passes: what is frozen, and what the rule holds."""
        relp, frozen = rule == "relp", self.frozen
        what = Fixed(patterns=frozen, norms=frozen or relp, activations=relp)
        return self.model.fixed(self.prompt.tokens.unsqueeze(0), what)

    def gradients(self, rule: Rule) -> tuple[dict[Site, Float[Tensor, "t d"]], Float[Tensor, " d"]]:
        """∂m/∂x at every source's site, and by the last stream.

        Raises:
            InputError: One isn't finite, or the model has no such rule.
        """
        if rule not in self._gradients:
            sites = [source.site for source in self.sources]
            with self.held(rule):
                self._gradients[rule] = gradients.gradients(self.model, self.prompt.tokens, sites, self.prompt.metric)
        return self._gradients[rule]

    def estimates(self, rule: Rule) -> Float[np.ndarray, " n"]:
        """Of every node."""
        return _on_host(gradients.estimated(self.sources, self.gradients(rule)[0]))

    def integrated(self, steps: int, at_once: int) -> Float[np.ndarray, " n"]:
        """Of every node by integrated gradients."""
        with self.held():
            found = [
                (
                    source,
                    gradients.integrated(
                        self.model, self.prompt.tokens, source, self.prompt.metric, steps=steps, at_once=at_once
                    ),
                )
                for source in self.sources
            ]
        return _on_host([gradients.estimated([source], {source.site: mean})[0] for source, mean in found])

    def measured(self, source: int, nodes: np.ndarray, batches: Batches) -> Float[np.ndarray, " n"]:
        """The measured effects of some nodes of a source, by their numbers within it."""
        own, at = self.sources[source], torch.as_tensor(nodes, device=self.counts.device)
        with self.held():
            found = measured.measured(self.model, self.prompt, own.site, own.pos[at], own.delta[at], batches)
        return np.asarray(found.cpu().numpy())

    def columns(self, number: int) -> tables.Columns:
        """Its nodes as the table has them, but for their effects; the target's row last."""
        nodes = [*(_rows(source) for source in self.sources), self._target()]
        count = self.nodes + 1
        joined = {name: np.concatenate([np.asarray(part[name]) for part in nodes]) for name in nodes[0]}
        return {"prompt": np.full(count, number, np.int32), "node": np.arange(count, dtype=np.int32), **joined}

    def _target(self) -> tables.Columns:
        return {
            "kind": ["target"],
            "layer": [self.model.shape.n_layers],
            "site": ["target"],
            "feature": [0],
            "pos": [len(self.prompt) - 1],
            "activation": [self.prompt.clean],
            "replacement": [np.nan],
        }


def open_study(inputs: Inputs, baselines: Baselines, asked: Asked, number: int, *, frozen: bool) -> Study:
    """Run a prompt clean, and find its nodes; each dictionary is loaded once.

    Raises:
        InputError: A dictionary isn't there, or the baseline can't be had.
    """
    passes = inputs.passes
    model = passes.model
    tokens = torch.tensor(asked.ids, device=model.device)
    counts = torch.tensor(asked.counts, device=model.device)
    metric = None if asked.target is None else Metric(asked.target, asked.against)
    prompt = measured.read(model, tokens, list(baselines.sites), metric)
    clean = {site: x[0] for site, x in prompt.run.sites.items()}
    other = baselines.other(asked, number)
    sources: list[Source] = [baselines.bottom(clean, counts, other)]
    for entry in passes.entries:
        sources.append(baselines.part(passes.saes([entry.at])[entry.at], clean, counts, other))
    return Study(asked, model, prompt, counts, sources, frozen)


def sites_of(inputs: Inputs) -> list[Site]:
    """The sites of a run's nodes."""
    return sorted({BOTTOM, *inputs.passes.widths}, key=lambda site: site.order)


def _rows(source: Source) -> tables.Columns:
    count = len(source)
    pos = source.pos.cpu().numpy()
    if not isinstance(source, Part):
        assert isinstance(source, Tokens)
        return {
            "kind": ["token"] * count,
            "layer": [0] * count,
            "site": ["token"] * count,
            "feature": [0] * count,
            "pos": pos,
            "activation": source.size.cpu().numpy(),
            "replacement": [np.nan] * count,
        }
    features, errors = source.features, count - source.features
    return {
        "kind": ["feature"] * features + ["error"] * errors,
        "layer": [source.site.layer] * count,
        "site": [source.site.name] * count,
        "feature": [*source.feature.tolist(), *[0] * errors],
        "pos": pos,
        "activation": torch.cat([source.activation, source.size]).cpu().numpy(),
        "replacement": [*source.replacement.tolist(), *[np.nan] * errors],
    }


def _on_host(parts: Sequence[Tensor]) -> Float[np.ndarray, " n"]:
    return np.asarray(torch.cat(list(parts)).double().cpu().numpy())
