"""One prompt of an attribution, opened: its clean pass, its nodes, and what gradients say of them.

Nodes are numbered from 0 within a prompt: its tokens, then site by site, as dictionaries write them in the model's
order, features and errors, and last the targets: of a replacement model there may be several.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.attribution import gradients, measured, replacement
from circuitcli.core.attribution.measured import Prompt
from circuitcli.core.attribution.metric import Metric, Weighted
from circuitcli.core.attribution.parts import BOTTOM, Errors, Features, Source, Tokens, edits_of
from circuitcli.core.attribution.parts import tokens as token_nodes
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
        replaced: Whether what gradients say is of the local replacement model; what is measured is of the real one.
    """

    asked: Asked
    model: Model
    prompt: Prompt
    counts: Bool[Tensor, " t"]
    sources: list[Source]
    frozen: bool
    replaced: bool = False
    _gradients: dict[Rule, tuple[dict[Site, Tensor], Tensor]] = field(default_factory=dict)

    @cached_property
    def starts(self) -> np.ndarray:
        """The number of each source's first node; last of all that of the first target."""
        return np.cumsum([0, *map(len, self.sources)])

    @property
    def nodes(self) -> int:
        """How many nodes there are that can be replaced."""
        return int(self.starts[-1])

    @property
    def targets(self) -> Weighted:
        """The metrics that m is a mean of, and what each counts; their nodes come last."""
        return self.prompt.metric.weighted

    @property
    def nbytes(self) -> int:
        """The memory that it holds."""
        return self.prompt.run.nbytes + sum(source.nbytes for source in self.sources)

    def held(self, rule: Rule = "atp") -> AbstractContextManager[None]:
        """What is constant on its passes: what is frozen, and what the rule holds."""
        relp, frozen = rule == "relp", self.frozen and not self.replaced
        what = Fixed(patterns=frozen, norms=frozen or relp, activations=relp)
        return self.model.fixed(self.prompt.tokens.unsqueeze(0), what)

    def gradients(self, rule: Rule) -> tuple[dict[Site, Float[Tensor, "t d"]], Float[Tensor, " d"]]:
        """∂m/∂x at every source's site, and by the last stream.

        Raises:
            InputError: One isn't finite, or the model has no such rule.
        """
        if self.replaced and rule not in self._gradients:
            self._gradients[rule] = replacement.gradients(
                self.model, self.prompt.tokens, self.sources, self.prompt.metric
            )
        if rule not in self._gradients:
            sites = sorted({site for source in self.sources for site in source.rows}, key=lambda site: site.order)
            with self.held(rule):
                self._gradients[rule] = gradients.gradients(self.model, self.prompt.tokens, sites, self.prompt.metric)
        return self._gradients[rule]

    def estimates(self, rule: Rule) -> Float[np.ndarray, " n"]:
        """Of every node."""
        return _on_host(gradients.estimated(self.sources, self.gradients(rule)[0]))

    def integrated(self, steps: int, at_once: int) -> Float[np.ndarray, " n"]:
        """Of every node by integrated gradients."""
        found: dict[int, Tensor] = {}
        with self.held():
            for site, tokens in {(source.site, isinstance(source, Tokens)) for source in self.sources}:
                some = [s for s in self.sources if (s.site, isinstance(s, Tokens)) == (site, tokens)]
                mean = gradients.integrated(
                    self.model, self.prompt.tokens, some, self.prompt.metric, steps=steps, at_once=at_once
                )
                found |= {id(source): gradients.estimated([source], mean)[0] for source in some}
        return _on_host([found[id(source)] for source in self.sources])

    @cached_property
    def blocks(self) -> list[slice]:
        """The nodes that begin at one site, by their numbers, site by site: these are measured together."""
        sites = [source.site for source in self.sources]
        ends = [i + 1 for i in range(len(sites)) if sites[i + 1 : i + 2] != [sites[i]]]
        return [slice(self.starts[i], self.starts[j]) for i, j in itertools.pairwise([0, *ends])]

    @cached_property
    def pos(self) -> Int[np.ndarray, " n"]:
        """The position of every node that can be replaced."""
        return np.concatenate([source.pos.cpu().numpy() for source in self.sources])

    @cached_property
    def signature(self) -> str:
        """What its nodes are, by their numbers: see `signature_of`."""
        return signature_of(self.columns(0))

    def measured(self, nodes: Int[np.ndarray, " n"], batches: Batches) -> Float[np.ndarray, " n"]:
        """The measured effects of some nodes of a block, by their numbers, which ascend."""
        of = np.searchsorted(self.starts, nodes, side="right") - 1
        own = [self.sources[place] for place in np.unique(of)]
        at = [
            torch.as_tensor(nodes[of == place] - self.starts[place], device=self.counts.device)
            for place in np.unique(of)
        ]
        pos = torch.cat([source.pos[some] for source, some in zip(own, at, strict=True)])
        with self.held():
            found = measured.measured(self.model, self.prompt, pos, edits_of(own, at), batches)
        return np.asarray(found.cpu().numpy())

    def columns(self, number: int) -> tables.Columns:
        """Its nodes as the table has them, but for their effects; targets' rows last."""
        nodes = [*(_rows(source) for source in self.sources), self._targets()]
        count = self.nodes + len(self.targets)
        joined = {name: np.concatenate([np.asarray(part[name]) for part in nodes]) for name in nodes[0]}
        return {"prompt": np.full(count, number, np.int32), "node": np.arange(count, dtype=np.int32), **joined}

    def _targets(self) -> tables.Columns:
        """A target's `feature` is its place among them."""
        count, logits = len(self.targets), self.prompt.logits.unsqueeze(0)
        return {
            "kind": ["target"] * count,
            "layer": [self.model.shape.n_layers] * count,
            "site": ["target"] * count,
            "feature": list(range(count)),
            "pos": [len(self.prompt) - 1] * count,
            "activation": [float(metric.of(logits)[0]) for metric, _ in self.targets],
            "replacement": [np.nan] * count,
        }


def signature_of(table: tables.Columns) -> str:
    """What identifies the nodes of a prompt and their order: where rounding decides, another machine has others."""
    told = hashlib.sha256()
    for name in ("kind", "layer", "site", "feature", "pos"):
        told.update(repr(np.asarray(table[name]).tolist()).encode())
    return told.hexdigest()[:16]


def open_study(
    inputs: Inputs,
    baselines: Baselines,
    asked: Asked,
    number: int,
    *,
    frozen: bool,
    replaced: bool = False,
    targets: int = 1,
) -> Study:
    """Run a prompt clean, and find its nodes; each dictionary is loaded once.

    Of a replacement model every token is a node, by its embedding alone; so many of the likeliest next tokens at most
    are targets where the question names none.

    Raises:
        InputError: A dictionary isn't there, or the baseline can't be had.
    """
    passes = inputs.passes
    model = passes.model
    tokens = torch.tensor(asked.ids, device=model.device)
    counts = torch.tensor(asked.counts, device=model.device)
    metric = None if asked.target is None else Metric(asked.target, asked.against, centred=replaced)
    prompt = measured.read(model, tokens, list(baselines.sites), metric, centred=replaced, most=targets)
    clean = {site: x[0] for site, x in prompt.run.sites.items()}
    other = baselines.other(asked, number)
    sources: list[Source] = [baselines.bottom(clean, counts, other)]
    if replaced:
        embedded = clean[BOTTOM] - model.positions(tokens.unsqueeze(0))
        sources = [token_nodes(embedded, torch.ones_like(counts))]
    sources += baselines.parts((passes.saes([entry.at])[entry.at] for entry in passes.entries), clean, counts, other)
    return Study(asked, model, prompt, counts, sources, frozen, replaced)


def sites_of(inputs: Inputs) -> list[Site]:
    """The sites of a run's nodes: where dictionaries read and write."""
    written = {site for sites in inputs.passes.written.values() for site in sites}
    return sorted({BOTTOM, *inputs.widths, *written}, key=lambda site: site.order)


def _rows(source: Source) -> tables.Columns:
    count = len(source)
    rows: tables.Columns = {
        "kind": ["token"] * count,
        "layer": [0] * count,
        "site": ["token"] * count,
        "feature": [0] * count,
        "pos": source.pos.cpu().numpy(),
        "replacement": [np.nan] * count,
    }
    if isinstance(source, Features):
        at = {"layer": [source.reads.layer] * count, "site": [source.reads.name] * count}
        columns = {"activation": source.activation.cpu().numpy(), "replacement": source.replacement.cpu().numpy()}
        return rows | at | {"kind": ["feature"] * count, "feature": source.feature.tolist()} | columns
    if isinstance(source, Errors):
        at = {"layer": [source.site.layer] * count, "site": [source.site.name] * count}
        rows |= at | {"kind": ["error"] * count}
    assert isinstance(source, Errors | Tokens)
    return rows | {"activation": source.size.cpu().numpy()}


def _on_host(parts: Sequence[Tensor]) -> Float[np.ndarray, " n"]:
    return np.asarray(torch.cat(list(parts)).double().cpu().numpy())
