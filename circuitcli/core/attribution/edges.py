"""Edges: of a node's effect what goes through one other node, and through no third.

    E(u → d) = ∂m/∂d · ∂d/∂u|direct · (replacement − clean of u)       in the metric's unit

*Direct*: every site that a dictionary writes is cut, at all positions that count, between what reaches it and what goes
on from there. What reaches d from u is then what no other node had a hand in. Tokens come before all cuts: a dictionary
may write where they are. With g = ∂m/∂y where d is written, total,
k_j and d_j as in `parts`, a row of ∂m/∂d·∂d/∂x is

    feature j    (g·d_j) k_j                    at the site that its dictionary reads
    error        g − Σ_j (g·d_j) k_j            over the features at its position: e is what x is beside them
    target       ∂m/∂(the last stream)

so that for every u its edges to features, errors and the target add up to g_u·δ_u, its estimated effect. Many such rows
with the Jacobians of one pass back give all edges into their nodes at once; whoever asks keeps of each product what
matters, so that no matrix of nodes by nodes is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.attribution.gradients import require_finite
from circuitcli.core.attribution.parts import Part, Source
from circuitcli.core.edits import Change, Edits, in_turn, watching
from circuitcli.core.model import Model, Pass
from circuitcli.core.sites import Site

Rows = Iterator[Float[Tensor, "r u"]]  # edges of all sources into some nodes, a row each


@dataclass(frozen=True, eq=False)
class Cut:
    """Sites cut in two: what reaches each, and what goes on from there.

    Attributes:
        counts: The positions that are cut.
        before: What reaches each site on a pass.
        after: What goes on from there: the same numbers, but nothing depends on what came before; or, of sites that are
            `held`, what these say.
        held: By site what goes on instead, [t, d].
    """

    counts: Bool[Tensor, " t"]
    before: dict[Site, Tensor]
    after: dict[Site, Tensor]
    held: Mapping[Site, Float[Tensor, "t _"]]

    def edits(self, sites: Sequence[Site]) -> Edits:
        """The edits that cut these sites."""
        return {site: self._cut(site) for site in sites}

    def reaches(self, part: Part, run: Pass) -> Tensor:
        """What a dictionary encodes on a pass: an SAE what reaches its own site, before the cut."""
        return self.before[part.site] if part.reads == part.site else run.sites[part.reads]

    def _cut(self, site: Site) -> Change:
        def cut(x: Tensor) -> Tensor:
            self.before[site] = x
            held = self.held.get(site)
            leaf = x.detach().requires_grad_() if held is None else held.to(x.dtype).expand_as(x)
            self.after[site] = leaf
            return torch.where(self.counts.unsqueeze(-1), leaf, x if self._leaks else x.detach())

        return cut

    @cached_property
    def _leaks(self) -> bool:
        """Whether anything goes by the cut: at positions that aren't cut and come behind some that are.

        What comes before them all depends on no node; so a pass back needn't go there, and ends at the cut.
        """
        return bool((~self.counts & (self.counts.cumsum(0) > 0)).any())


def cutting(counts: Bool[Tensor, " t"], held: Mapping[Site, Float[Tensor, "t _"]] | None = None) -> Cut:
    """A cut that was used on no pass yet."""
    return Cut(counts, {}, {}, held or {})


def written(sources: Sequence[Source]) -> list[Site]:
    """The sites that dictionaries write, in the model's order."""
    return sorted({source.site for source in sources if isinstance(source, Part)}, key=lambda site: site.order)


def read_elsewhere(sources: Sequence[Source]) -> list[Site]:
    """The sites that dictionaries read and don't write, in the model's order."""
    found = {part.reads for part in sources if isinstance(part, Part) and part.reads != part.site}
    return sorted(found, key=lambda site: site.order)


class Jacobians:
    """Products of rows with the Jacobians between the cut sites of one prompt, some rows at a time."""

    def __init__(
        self,
        model: Model,
        tokens: Int[Tensor, " t"],
        counts: Bool[Tensor, " t"],
        sources: Sequence[Source],
        rows: int,
    ) -> None:
        """Run the prompt in so many rows, cut at every source's site.

        Args:
            model: The model.
            tokens: The prompt.
            counts: The positions that count.
            sources: All nodes that can be sources, in the model's order.
            rows: Most rows of one product.
        """
        self.rows, self._sources = rows, sources
        self._cut = cutting(counts)
        self._uncut: dict[Site, Tensor] = {}
        writes, reads = written(sources), read_elsewhere(sources)
        bottom = sorted({s.site for s in sources if not isinstance(s, Part)}, key=lambda site: site.order)
        edits = in_turn(watching(bottom, self._uncut), self._cut.edits(writes))
        with torch.enable_grad():
            self._run: Pass = model.run(tokens.expand(rows, -1), reads, final=True, edits=edits)

    def _goes_on(self, source: Source) -> Tensor:
        """What goes on from where a source is."""
        return self._cut.after[source.site] if isinstance(source, Part) else self._uncut[source.site]

    def into_features(self, part: Part, which: Int[Tensor, " n"], g: Float[Tensor, "t d"]) -> Rows:
        """The edges of all sources, one after the other, into some features of a part; g = ∂m/∂y, total.

        They come some rows at a time, in order.
        """
        pos = part.pos[which]
        weight = (g[pos] * part.decoder[which]).sum(-1)
        x = self._cut.reaches(part, self._run)
        return self._products([(x, pos, weight.unsqueeze(1) * part.encoder[which])], len(which))

    def into_errors(self, part: Part, pos: Int[Tensor, " n"], g: Float[Tensor, "t d"]) -> Rows:
        """The edges of all sources into the errors of a part at some positions."""
        where = part.pos[: part.features]
        weight = (g[where] * part.decoder).sum(-1, keepdim=True)
        through = torch.zeros(len(g), part.encoder.shape[1], device=g.device)
        through.index_add_(0, where, weight * part.encoder)
        x, y = self._cut.reaches(part, self._run), self._cut.before[part.site]
        return self._products([(y, pos, g[pos]), (x, pos, -through[pos])], len(pos))

    def into_target(self, gradient: Float[Tensor, " d"]) -> Rows:
        """The edges of all sources into the target; its gradient is that of m by the last stream, last position."""
        assert self._run.final is not None
        return self._products([(self._run.final, torch.tensor([-1], device=gradient.device), gradient.unsqueeze(0))], 1)

    def _products(self, rows: Sequence[tuple[Tensor, Tensor, Tensor]], count: int) -> Rows:
        """Vectors at positions of what the pass led to, back to all sources."""
        for start in range(0, count, self.rows):
            outputs, cotangents = [], []
            for out, pos, vectors in rows:
                if not out.requires_grad:
                    continue  # nothing that is cut comes before it
                cotangent = torch.zeros_like(out)
                here = vectors[start : start + self.rows]
                cotangent[torch.arange(len(here), device=out.device), pos[start : start + self.rows]] = here.to(
                    out.dtype
                )
                outputs.append(out)
                cotangents.append(cotangent)
            yield self._back(outputs, cotangents)[: count - start]

    def _back(self, outputs: list[Tensor], cotangents: list[Tensor]) -> Float[Tensor, "r u"]:
        inputs = [self._goes_on(source) for source in self._sources]
        grads: Sequence[Tensor | None] = [None] * len(inputs)
        if outputs:
            grads = torch.autograd.grad(outputs, inputs, cotangents, retain_graph=True, allow_unused=True)
            require_finite(grads)
        size = [len(source) for source in self._sources]
        found = torch.zeros(self.rows, sum(size), device=self._cut.counts.device)
        for source, grad, column in zip(self._sources, grads, found.split(size, 1), strict=True):
            if grad is not None:
                column.copy_(source.effects(grad.float()))
        return found
