"""Edges, measured: u is replaced, all nodes between are held clean, and what that makes of d is put into a clean run.

1.  u's δ is added at its site. Every later site that a dictionary writes is cut at all positions that count: what
    reaches it is noted, and what goes on from there is its clean activation. What reaches a site is u's alone.
2.  d's new value is what its dictionary makes of what reaches it: a'_d, or e'_d = y' − x̂'. A target's is m itself.
3.  E(u → d) = m(d's new value in a clean run) − m(clean).

What `edges` estimates: on a linear model the two are equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.attribution.edges import cutting, read_elsewhere, written
from circuitcli.core.attribution.measured import Prompt, measured
from circuitcli.core.attribution.parts import Part, Source
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.edits import adding, in_turn
from circuitcli.core.model import Model

Batches = Callable[[int, int, Callable[[slice], Tensor]], Iterator[Tensor]]
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
    dictionary: Callable[[Part], Dictionary],
    batches: Batches,
) -> Float[Tensor, " m"]:
    """The measured effect of each edge, in the metric's unit.

    Args:
        model: The model.
        prompt: Its clean pass, with all the sources' sites and what they read.
        counts: The positions that count.
        sources: All nodes, in the model's order.
        pairs: The edges.
        dictionary: Loads that of a part.
        batches: See `measured.measured`.
    """
    asked = _Direct(model, prompt, counts, sources, pairs)
    for up in pairs.up.unique().tolist():
        asked.follow(up, batches)
    for down, parts in asked.reached.items():
        part = sources[down]
        assert isinstance(part, Part)
        which, x, y = (torch.cat(column) for column in zip(*parts, strict=True))
        node = pairs.down_node[which]
        delta = _delta(part, dictionary(part), prompt, node, x, y)
        asked.found[which] = measured(model, prompt, part.site, part.pos[node], delta, batches)
    return asked.found


class _Direct:
    """What reaches the other ends of pairs, and the effects of those that end at the target."""

    def __init__(
        self, model: Model, prompt: Prompt, counts: Bool[Tensor, " t"], sources: Sequence[Source], pairs: Pairs
    ) -> None:
        self.model, self.prompt, self.counts, self.sources, self.pairs = model, prompt, counts, sources, pairs
        self.found = torch.zeros(len(pairs), device=prompt.tokens.device)
        # By the source of the other end: which pairs, and what its dictionary then reads, and where it writes.
        self.reached: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}

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
        source, clean = self.sources[up], self.prompt.run.sites
        # A node goes on behind the cut of its own site; tokens come before that of a dictionary where they are.
        own = [] if isinstance(source, Part) else [source.site]
        later = [s for s in written(self.sources) if s.order > source.site.order or s in own]
        cut = cutting(self.counts, {site: clean[site][0] for site in later})
        delta = torch.zeros(len(nodes), len(self.prompt), source.delta.shape[1], device=source.delta.device)
        delta[torch.arange(len(nodes), device=delta.device), source.pos[nodes]] = source.delta[nodes]
        run = self.model.run(
            self.prompt.tokens.expand(len(nodes), -1),
            read_elsewhere(self.sources),
            final=True,
            edits=in_turn(adding(source.site, delta), cut.edits(later)),
        )
        assert run.final is not None
        after = self.prompt.metric.of(self.model.logits(run.final[:, -1]))
        target = self.pairs.down[which] == TARGET
        self.found[which[target]] = after[row[target]] - self.prompt.clean
        for down in self.pairs.down[which[~target]].unique().tolist():
            part = self.sources[down]
            assert isinstance(part, Part)
            here = self.pairs.down[which] == down
            at = row[here], part.pos[self.pairs.down_node[which[here]]]
            x = cut.reaches(part, run)
            self.reached.setdefault(down, []).append((which[here], x[at].float(), cut.before[part.site][at].float()))
        return after


def _delta(
    part: Part,
    dictionary: Dictionary,
    prompt: Prompt,
    node: Int[Tensor, " m"],
    x: Float[Tensor, "m r"],
    y: Float[Tensor, "m d"],
) -> Float[Tensor, "m d"]:
    """What putting each node's new value in its place adds, where x reaches its dictionary, and y where that writes."""
    a, feature = dictionary.encode(x), node < part.features
    at, error = node[feature], ~feature
    now = a[feature].gather(1, part.feature[at].unsqueeze(1)).squeeze(1)
    delta = torch.empty_like(y)
    delta[feature] = (now - part.activation[at]).unsqueeze(1) * part.decoder[at]
    pos = part.pos[node[error]]
    before, written = (prompt.run.sites[site][0, pos].float() for site in (part.reads, part.site))
    clean = written - dictionary.decode(dictionary.encode(before), before)
    delta[error] = y[error] - dictionary.decode(a[error], x[error]) - clean
    return delta
