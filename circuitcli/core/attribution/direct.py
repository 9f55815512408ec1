"""Edges, measured: u is replaced, all nodes between are held clean, and what that makes of d is put into a clean run.

1.  u's δ is added at its sites. Every later site that dictionaries write is cut at all positions that count: what
    reaches it is noted, and what goes on from there is its clean activation, with u's δ, and what a skip connection
    makes of a change. What reaches a site is u's alone.
2.  d's new value is what its dictionary makes of what reaches it: a'_d, or e'_d = y' − ŷ'. A target's is m itself.
3.  E(u → d) = m(d's new value in a clean run) − m(clean).

What `edges` estimates: on a linear model the two are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.attribution.edges import Cut, cutting, read_elsewhere, written
from circuitcli.core.attribution.measured import Prompt, measured
from circuitcli.core.attribution.parts import Errors, Features, Source, Tokens
from circuitcli.core.dictionary import Dictionary, Reconstructions
from circuitcli.core.edits import adding_all, in_turn
from circuitcli.core.model import Model, Pass
from circuitcli.core.sites import Site

Batches = Callable[[int, int, Callable[[slice], Tensor]], Iterator[Tensor]]
Load = Callable[[Site], Dictionary]  # the dictionary that reads a site
TARGET = -1


@dataclass(frozen=True, eq=False)
class Pairs:
    """Edges: node `up_node` of source `up` to node `down_node` of source `down`, which is `TARGET` for the target."""

    up: Int[Tensor, " m"]
    up_node: Int[Tensor, " m"]
    down: Int[Tensor, " m"]
    down_node: Int[Tensor, " m"]

    def __len__(self) -> int:
        return len(self.up)


def direct(
    model: Model,
    prompt: Prompt,
    counts: Bool[Tensor, " t"],
    sources: Sequence[Source],
    pairs: Pairs,
    dictionary: Load,
    batches: Batches,
) -> Float[Tensor, " m"]:
    """The measured effect of each edge, in the metric's unit.

    Args:
        model: The model.
        prompt: Its clean pass, with all sites that dictionaries read and write.
        counts: The positions that count.
        sources: All nodes, in the model's order.
        pairs: The edges.
        dictionary: Loads one.
        batches: See `measured.measured`.
    """
    asked = _Direct(model, prompt, counts, sources, pairs)
    for up in pairs.up.unique().tolist():
        asked.follow(up, batches)
    for down, reached in asked.reached.items():
        source = sources[down]
        which = torch.cat([one.which for one in reached])
        node = pairs.down_node[which]
        if isinstance(source, Features):
            deltas = _of_features(source, dictionary(source.reads), node, reached)
        else:
            deltas = _of_errors(source, _writers(sources, source.site), dictionary, node, reached)
        asked.found[which] = measured(model, prompt, source.pos[node], deltas, batches)
    return asked.found


@dataclass(frozen=True, eq=False)
class _Reached:
    """What reaches the other end of some pairs: where its dictionaries read, and where they write."""

    which: Int[Tensor, " m"]
    x: Mapping[Site, Float[Tensor, "m _"]]
    y: Float[Tensor, "m _"] | None


class _Direct:
    """What reaches the other ends of pairs, and the effects of those that end at the target."""

    def __init__(
        self, model: Model, prompt: Prompt, counts: Bool[Tensor, " t"], sources: Sequence[Source], pairs: Pairs
    ) -> None:
        self.model, self.prompt, self.counts, self.sources, self.pairs = model, prompt, counts, sources, pairs
        self.found = torch.zeros(len(pairs), device=prompt.tokens.device)
        self.reached: dict[int, list[_Reached]] = {}  # by the source of the other end

    def follow(self, up: int, batches: Batches) -> None:
        """All pairs that begin at one source."""
        here = (self.pairs.up == up).nonzero().squeeze(1)
        nodes, row = self.pairs.up_node[here].unique(return_inverse=True)

        def reach(part: slice) -> Tensor:
            inside = (row >= part.start) & (row < part.stop)
            return self._reach(up, nodes[part], here[inside], row[inside] - part.start)

        for _ in batches(len(nodes), len(self.prompt), reach):
            pass

    def _reach(
        self, up: int, nodes: Int[Tensor, " b"], which: Int[Tensor, " m"], row: Int[Tensor, " m"]
    ) -> Float[Tensor, " b"]:
        """One pass in which some nodes of a source are replaced, a row each; `which` pairs are of which row."""
        cut, run = self._cut(self.sources[up], nodes)
        assert run.final is not None
        after = self.prompt.metric.of(self.model.logits(run.final[:, -1]))
        target = self.pairs.down[which] == TARGET
        self.found[which[target]] = after[row[target]] - self.prompt.clean
        for down in self.pairs.down[which[~target]].unique().tolist():
            source, here = self.sources[down], self.pairs.down[which] == down
            at = row[here], source.pos[self.pairs.down_node[which[here]]]
            reads = [source.reads] if isinstance(source, Features) else _writers(self.sources, source.site)
            x = {site: cut.reaches(site, run)[at].float() for site in reads}
            y = cut.before[source.site][at].float() if isinstance(source, Errors) else None
            self.reached.setdefault(down, []).append(_Reached(which[here], x, y))
        return after

    def _cut(self, source: Source, nodes: Int[Tensor, " b"]) -> tuple[Cut, Pass]:
        """A pass in which some nodes are replaced, a row each, and all later sites are cut and held."""
        clean, moved = self.prompt.run.sites, {}
        for site, delta in source.deltas(nodes).items():
            moved[site] = torch.zeros(len(nodes), len(self.prompt), delta.shape[1], device=delta.device)
            moved[site][torch.arange(len(nodes), device=delta.device), source.pos[nodes]] = delta
        # A node goes on behind the cuts of its own sites; tokens come before that of a dictionary where they are.
        first = isinstance(source, Tokens)
        later = [s for s in written(self.sources) if s.order > source.site.order or (first and s == source.site)]
        cut = cutting(self.counts, self.sources, {site: clean[site][0] for site in later})
        edits = (adding_all(moved), cut.edits(later)) if first else (cut.edits(later), adding_all(moved))
        run = self.model.run(
            self.prompt.tokens.expand(len(nodes), -1),
            read_elsewhere(self.sources),
            final=True,
            edits=in_turn(*edits),
        )
        return cut, run


def _writers(sources: Sequence[Source], site: Site) -> list[Site]:
    """What the dictionaries that write a site read."""
    return [one.reads for one in sources if isinstance(one, Features) and site in one.rows]


def _of_features(
    source: Features, dictionary: Dictionary, node: Int[Tensor, " m"], reached: Sequence[_Reached]
) -> dict[Site, Float[Tensor, "m _"]]:
    """What putting each feature's new value in its place adds."""
    x = torch.cat([one.x[source.reads] for one in reached])
    now = dictionary.encode(x).gather(1, source.feature[node].unsqueeze(1)).squeeze(1)
    by = (now - source.activation[node]).unsqueeze(1)
    return {site: by * rows[node] for site, rows in source.rows.items()}


def _of_errors(
    source: Source, reads: Sequence[Site], dictionary: Load, node: Int[Tensor, " m"], reached: Sequence[_Reached]
) -> dict[Site, Float[Tensor, "m _"]]:
    """What putting each error's new value in its place adds."""
    assert isinstance(source, Errors)
    said = Reconstructions()
    for site in reads:
        x, one = torch.cat([part.x[site] for part in reached]), dictionary(site)
        said.add(one, one.active(x), x)
    y = torch.cat([part.y for part in reached if part.y is not None])
    return {source.site: y - said.of(source.site, y) - source.clean[node]}
