"""Edges: of a node's effect what goes through one other node, and through no third.

    E(u → d) = ∂m/∂d · ∂d/∂u|direct · (replacement − clean of u)       in the metric's unit

*Direct*: every site that a dictionary writes is cut, at all positions that count, between what reaches it and what goes
on from there; what a node adds, it adds behind the cuts. What reaches d from u is then what no other node had a hand
in. Tokens come before all cuts: a dictionary may write where they are. Through a skip connection, which is no node,
what reaches its transcoder goes on. With g = ∂m/∂y where d is written, total, k_j and d_j as in `parts`, a row of
∂m/∂d·∂d/∂x is

    feature j    (Σ g·d_j) k_j                     the sum over the sites that it writes; at the one that is read
    error        g − Σ_j (g·d_j) k_j − W_skipᵀg    over the features that write there, at its position: e is what the
                                                   site is beside them
    target       ∂m/∂(the last stream)

so that for every u its edges to features, errors and the target add up to g_u·δ_u, its estimated effect. Many such rows
with the Jacobians of one pass back give all edges into their nodes at once; whoever asks keeps of each product what
matters, so that no matrix of nodes by nodes is ever held.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.attribution.gradients import backwards
from circuitcli.core.attribution.parts import Errors, Features, Skip, Source, Tokens
from circuitcli.core.edits import Change, Edits, in_turn, noting, watching
from circuitcli.core.model import Model, Pass
from circuitcli.core.sites import Site

Rows = Iterator[Float[Tensor, "r u"]]  # edges of all sources into some nodes, a row each
_Output = tuple[Tensor, Int[Tensor, " n"], Float[Tensor, "n _"]]  # what a pass led to, positions, and vectors there


@dataclass(frozen=True, eq=False)
class Cut:
    """Sites cut in two: what reaches each, and what goes on from there.

    Attributes:
        counts: The positions that are cut.
        skips: By site what goes by the cut.
        before: What reaches each site on a pass.
        after: What goes on from there: the same numbers, but nothing depends on what came before, skips apart; or, of
            sites that are `held`, what these say.
        held: By site what goes on instead, [t, d].
        read: What dictionaries with skip connections read.
    """

    counts: Bool[Tensor, " t"]
    skips: Mapping[Site, Skip]
    held: Mapping[Site, Float[Tensor, "t _"]]
    before: dict[Site, Tensor] = field(default_factory=dict)
    after: dict[Site, Tensor] = field(default_factory=dict)
    read: dict[Site, Tensor] = field(default_factory=dict)

    def edits(self, sites: Sequence[Site]) -> Edits:
        """The edits that cut these sites."""
        skips = [self.skips[site].reads for site in sites if site in self.skips]
        return in_turn(noting(skips, self.read), {site: self._cut(site) for site in sites})

    def reaches(self, reads: Site, run: Pass) -> Tensor:
        """What a dictionary encodes on a pass: at a site that is cut what reaches it, before the cut."""
        return self.before[reads] if reads in self.before else run.sites[reads]

    def _cut(self, site: Site) -> Change:
        def cut(x: Tensor) -> Tensor:
            self.before[site] = x
            held = self.held.get(site)
            leaf = x.detach().requires_grad_() if held is None else held.to(x.dtype).expand_as(x)
            self.after[site] = leaf
            goes_on = leaf + self._by(site) if site in self.skips else leaf
            return torch.where(self.counts.unsqueeze(-1), goes_on, x if self._leaks else x.detach())

        return cut

    def _by(self, site: Site) -> Tensor:
        """What goes by the cut: a change of what is read, through the skip connection."""
        skip = self.skips[site]
        x = self.read[skip.reads]
        return (skip.of(x) - skip.clean).to(x.dtype)

    @cached_property
    def _leaks(self) -> bool:
        """Whether anything goes by the cut: at positions that aren't cut and come behind some that are.

        What comes before them all depends on no node; so a pass back needn't go there, and ends at the cut.
        """
        return bool((~self.counts & (self.counts.cumsum(0) > 0)).any())


def cutting(
    counts: Bool[Tensor, " t"], sources: Sequence[Source], held: Mapping[Site, Float[Tensor, "t _"]] | None = None
) -> Cut:
    """A cut that was used on no pass yet."""
    skips = {one.site: one.skip for one in sources if isinstance(one, Errors) and one.skip is not None}
    return Cut(counts, skips, held or {})


def written(sources: Sequence[Source]) -> list[Site]:
    """The sites that dictionaries write, in the model's order."""
    return [source.site for source in sources if isinstance(source, Errors)]


def read_elsewhere(sources: Sequence[Source]) -> list[Site]:
    """The sites that dictionaries read and that none writes, in the model's order."""
    found = {one.reads for one in sources if isinstance(one, Features)} - set(written(sources))
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
        """Run the prompt in so many rows, cut at every site that dictionaries write.

        Args:
            model: The model.
            tokens: The prompt.
            counts: The positions that count.
            sources: All nodes that can be sources, in the model's order.
            rows: Most rows of one product.
        """
        self.rows, self._sources = rows, sources
        self._cut = cutting(counts, sources)
        self._uncut: dict[Site, Tensor] = {}
        bottom = sorted({s.site for s in sources if isinstance(s, Tokens)}, key=lambda site: site.order)
        edits = in_turn(watching(bottom, self._uncut), self._cut.edits(written(sources)))
        with torch.enable_grad():
            self._run: Pass = model.run(tokens.expand(rows, -1), read_elsewhere(sources), final=True, edits=edits)

    def into_features(self, part: Features, which: Int[Tensor, " n"], g: Mapping[Site, Float[Tensor, "t _"]]) -> Rows:
        """The edges of all sources, one after the other, into some features; g = ∂m/∂y by site, total.

        They come some rows at a time, in order.
        """
        x = self._cut.reaches(part.reads, self._run)
        weight = part.weight(g)[which].unsqueeze(1)
        return self._products([(x, part.pos[which], weight * part.encoder[which])], len(which))

    def into_errors(self, part: Errors, which: Int[Tensor, " n"], g: Mapping[Site, Float[Tensor, "t _"]]) -> Rows:
        """The edges of all sources into some errors of a site."""
        here, pos = g[part.site], part.pos[which]
        parts: list[_Output] = [(self._cut.before[part.site], pos, here[pos])]
        for one in self._sources:
            if isinstance(one, Features) and part.site in one.rows:
                weight = (here[one.pos] * one.rows[part.site]).sum(-1, keepdim=True)
                through = torch.zeros(len(here), one.encoder.shape[1], device=here.device)
                through.index_add_(0, one.pos, weight * one.encoder)
                parts.append((self._cut.reaches(one.reads, self._run), pos, -through[pos]))
        if part.skip is not None:
            x = self._cut.read[part.skip.reads]
            with torch.enable_grad():
                clean = x[0].detach().requires_grad_()
                (through,) = torch.autograd.grad(part.skip.of(clean), clean, here)
            parts.append((x, pos, -through[pos]))
        return self._products(parts, len(pos))

    def into_target(self, gradient: Float[Tensor, " d"]) -> Rows:
        """The edges of all sources into the target; its gradient is that of m by the last stream, last position."""
        assert self._run.final is not None
        return self._products([(self._run.final, torch.tensor([-1], device=gradient.device), gradient.unsqueeze(0))], 1)

    def _products(self, rows: Sequence[_Output], count: int) -> Rows:
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
        """Edges of all sources into what these rows stand for."""
        cut, uncut = self._cut.after, self._uncut
        inputs = [*cut.values(), *uncut.values()]
        grads = backwards(outputs, inputs, cotangents)
        behind, before = _there(cut, grads[: len(cut)]), _there(uncut, grads[len(cut) :])
        found = torch.zeros(self.rows, sum(map(len, self._sources)), device=self._cut.counts.device)
        for source, column in zip(self._sources, found.split([len(s) for s in self._sources], 1), strict=True):
            there = before if isinstance(source, Tokens) else behind
            if any(site in there for site in source.rows):
                column.copy_(source.effects({site: there[site] for site in source.rows if site in there}))
        return found


def _there(sites: Mapping[Site, Tensor], grads: Sequence[Tensor | None]) -> dict[Site, Tensor]:
    return {site: grad.float() for site, grad in zip(sites, grads, strict=True) if grad is not None}
