"""A prompt with dictionaries, all its nodes, and what the core says of them, all of it dense."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from typing import Any

import torch
from torch import Tensor

from circuitcli.core.attribution.direct import TARGET, Batches, Pairs, direct
from circuitcli.core.attribution.edges import Jacobians
from circuitcli.core.attribution.gradients import estimated, gradients, integrated
from circuitcli.core.attribution.measured import Prompt, measured, read
from circuitcli.core.attribution.metric import Metric
from circuitcli.core.attribution.parts import (
    BOTTOM,
    Errors,
    Features,
    Parts,
    Replace,
    Source,
    edits_of,
    nothing,
    tokens,
)
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.frame import Frame
from circuitcli.core.model import Model
from circuitcli.core.sites import Site
from support.random_saes import KINDS, random_sae

FRAMES = (Frame(), Frame("layer_norm"), Frame("constant_norm"), Frame(centre=True))
# Some of every kind, the first and the last that there are among them.
MIXED = (
    Site(0, "resid_pre"), Site(0, "attn_out"), Site(1, "z"), Site(1, "resid_mid"), Site(1, "mlp_in"),
    Site(1, "mlp_out"), Site(2, "resid_pre"), Site(2, "resid_mid"), Site(2, "resid_post"), Site(3, "z"),
    Site(3, "mlp_out"), Site(3, "resid_post"),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Bottom:
    """The tokens."""

    of: tuple[Source, ...]

    def __len__(self) -> int:
        return len(self.pos)

    @property
    def site(self) -> Site:
        return self.of[0].site

    @property
    def pos(self) -> Tensor:
        return torch.cat([one.pos for one in self.of])

    @property
    def delta(self) -> Tensor:
        """At its first site."""
        return self.deltas(torch.arange(len(self)))[self.site]

    def deltas(self, which: Tensor) -> dict[Site, Tensor]:
        start, some = 0, []
        for one in self.of:
            some.append(which[(which >= start) & (which < start + len(one))] - start)
            start += len(one)
        return edits_of(self.of, some)

    def total(self, length: int) -> Tensor:
        return sum(one.total(length)[self.site] for one in self.of)


@dataclass(frozen=True, eq=False)
class Part(Bottom):
    """The features of a dictionary, then the errors where it writes first."""

    @property
    def _features(self) -> Features:
        assert isinstance(self.of[0], Features)
        return self.of[0]

    @property
    def features(self) -> int:
        return len(self._features)

    @property
    def decoder(self) -> Tensor:
        return self._features.rows[self.site]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of[0], name)


@dataclass(frozen=True, eq=False)
class Asked:
    """A prompt, run clean, and its nodes: those of each dictionary, then the tokens."""

    model: Model
    prompt: Prompt
    counts: Tensor
    dictionaries: Mapping[Site, Dictionary]
    sources: list[Bottom]

    @property
    def parts(self) -> list[Part]:
        return [source for source in self.sources if isinstance(source, Part)]

    @property
    def flat(self) -> list[Source]:
        return [one for source in self.sources for one in source.of]

    def grouped(self, found: Sequence[Tensor]) -> list[Tensor]:
        """What was found of each flat source, joined."""
        left = iter(found)
        return [torch.cat([next(left) for _ in source.of]) for source in self.sources]

    @property
    def rounding(self) -> float:
        """What differences of m can't be told from, float32."""
        return 4 * torch.finfo(torch.float32).eps * max(1.0, float(self.prompt.logits.abs().max()))

    def gradients(self) -> tuple[dict[Site, Tensor], Tensor]:
        sites = {site for source in self.flat for site in source.rows}
        return gradients(self.model, self.prompt.tokens, list(sites), self.prompt.metric)

    def estimates(self) -> list[Tensor]:
        """By one gradient, source by source."""
        return self.grouped(estimated(self.flat, self.gradients()[0]))

    def integrated(self, steps: int, at_once: int = 7) -> list[Tensor]:
        metric = self.prompt.metric
        found = []
        for source in self.sources:
            mean = integrated(self.model, self.prompt.tokens, source.of, metric, steps=steps, at_once=at_once)
            found += estimated(source.of, mean)
        return self.grouped(found)

    def exact(self, size: int = 64) -> list[Tensor]:
        return [
            measured(self.model, self.prompt, source.pos, source.deltas(torch.arange(len(source))), batches(size))
            for source in self.sources
        ]

    def edges(self, rows: int = 16) -> tuple[list[Tensor], Tensor]:
        """[nodes of a part, all nodes] for each part, its features first, and [all nodes] into the target."""
        gradient, last = self.gradients()
        jacobians = Jacobians(self.model, self.prompt.tokens, self.counts, self.flat, rows)
        found = []
        for one in self.parts:
            into: list[Tensor] = []
            for source in one.of:
                which = torch.arange(len(source))
                if isinstance(source, Features):
                    into += jacobians.into_features(source, which, gradient)
                else:
                    assert isinstance(source, Errors)
                    into += jacobians.into_errors(source, which, gradient)
            found.append(torch.cat(into))
        (target,) = torch.cat(list(jacobians.into_target(last)))
        return found, target

    def measured_edges(self, pairs: Pairs, size: int = 64) -> Tensor:
        where = {one.reads: one for one in self.dictionaries.values()}
        up, down = self._ends(pairs.up, pairs.up_node), self._ends(pairs.down, pairs.down_node)
        return direct(
            self.model, self.prompt, self.counts, self.flat, Pairs(*up, *down), lambda reads: where[reads],
            batches(size),
        )  # fmt: skip

    def _ends(self, source: Tensor, node: Tensor) -> tuple[Tensor, Tensor]:
        """Among flat sources."""
        first, at, within = 0, source.clone(), node.clone()
        for number, one in enumerate(self.sources):
            start = 0
            for place, part in enumerate(one.of):
                here = (source == number) & (node >= start) & (node < start + len(part))
                at[here], within[here] = first + place, node[here] - start
                start += len(part)
            first += len(one.of)
        return at, within

    def pairs(self, every: int = 1) -> Pairs:
        """Of each node to each that can come behind it, and to the target; of these one in so many."""
        found = []
        for up, source in enumerate(self.sources):
            before = (source.site.order, isinstance(source, Part))
            for down, one in enumerate(self.parts):
                if (one.site.order, True) > before:
                    u, d = torch.meshgrid(torch.arange(len(source)), torch.arange(len(one)), indexing="ij")
                    found.append(
                        (torch.full((u.numel(),), up), u.flatten(), torch.full((u.numel(),), down), d.flatten())
                    )
            n = torch.arange(len(source))
            found.append((torch.full_like(n, up), n, torch.full_like(n, TARGET), torch.zeros_like(n)))
        return Pairs(*(torch.cat(column)[::every] for column in zip(*found, strict=True)))

    def pairs_of_all_sizes(self, count: int) -> Pairs:
        """So many, by estimate: most from the largest on, and some that are estimated to be nothing."""
        pairs = self.pairs()
        size = self.among(pairs).abs()
        order, there = size.argsort(descending=True, stable=True), int((size > self.rounding).sum())
        chosen = order[: there : max(1, 6 * there // (5 * count))], order[there :: 6 * (len(order) - there) // count]
        return Pairs(*(column[torch.cat(chosen)] for column in (pairs.up, pairs.up_node, pairs.down, pairs.down_node)))

    def among(self, pairs: Pairs) -> Tensor:
        """The estimated edge of each pair."""
        into, target = self.edges()
        offset = torch.tensor([0, *(len(source) for source in self.sources)]).cumsum(0)
        up = offset[pairs.up] + pairs.up_node
        found = target[up]
        for down in range(len(into)):
            here = pairs.down == down
            found[here] = into[down][pairs.down_node[here], up[here]]
        return found


def ask(
    model: Model,
    prompt: Tensor,
    dictionaries: Sequence[Dictionary],
    *,
    metric: Metric | None = None,
    special: Sequence[int] = (),
    other: Tensor | None = None,
    replace: Replace = nothing,
    error: Mapping[Site, Tensor] | None = None,
    token: Tensor | None = None,
) -> Asked:
    """A prompt and its nodes, the baseline zero, given (`replace`, `error`, `token`), or that of an `other` prompt."""
    counts = torch.ones(len(prompt), dtype=torch.bool)
    counts[[0, *special]] = False
    by_site = {one.writes: one for one in sorted(dictionaries, key=lambda one: one.writes.order)}
    sites = sorted({BOTTOM, *by_site, *(one.reads for one in dictionaries)}, key=lambda site: site.order)
    run = read(model, prompt, sites, metric)
    clean = {site: x[0] for site, x in run.run.sites.items()}
    there = None
    if other is not None:
        there = {site: x[0] for site, x in model.run(other[None], sites).sites.items()}
    parts = Parts(clean, counts, there)
    features = {site: parts.features(one, replace) for site, one in by_site.items()}
    assert parts.written == list(by_site), "each site is some dictionary's first"
    sources: list[Bottom] = [
        Part((features[site], parts.errors(site, (error or {}).get(site)))) for site in parts.written
    ]
    sources.append(Bottom((tokens(clean[BOTTOM], counts, there[BOTTOM] if there else token),)))
    return Asked(model, run, counts, by_site, sources)


def dictionaries(model: Model, sites: Sequence[Site] = MIXED, d_sae: int = 12, seed: int = 0) -> list[Dictionary]:
    """One at each of the sites that the model has; all architectures and frames in turn."""
    there = [site for site in sites if not (model.shape.parallel and site.name == "resid_mid")]
    found = []
    for i, site in enumerate(there):
        frame = FRAMES[(i + seed) % len(FRAMES)]
        frame = changed(frame, centre=frame.centre and site.name not in ("z", "mlp_in"))
        found.append(random_sae(model, site, KINDS[(i // 2 + seed) % len(KINDS)], frame, d_sae, 100 * seed + i))
    return found


def batches(size: int) -> Batches:
    """So many rows at a time."""

    def of(count: int, positions: int, work: Callable[[slice], Tensor]) -> Iterator[Tensor]:
        for start in range(0, count, size):
            yield work(slice(start, min(start + size, count)))

    return of


def close(ours: Any, theirs: Any, within: float, what: object = "", *, floor: float = 0.0) -> None:
    """Within a share of the largest, or within `floor`."""
    ours, theirs = (torch.cat(list(x)) if isinstance(x, list) else x for x in (ours, theirs))
    assert ours.shape == theirs.shape, what
    assert ours.numel(), what
    error, largest = (ours.double() - theirs.double()).abs().max(), theirs.double().abs().max()
    assert error <= max(within * largest, floor), f"{what}: {error / largest:.1e} of the largest, {largest:.2g}"
