"""Attribution and circuits of transcoders by the second route: plain transformers with hooks, float64.

Dictionaries are written out, by their tensors alone. They read sites that none of them writes, and several may write
one site: of that what they don't say together is the error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitcli.core.activations.jumprelu import JumpRelu
from circuitcli.core.activations.topk import TopK
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from support.families import Hf
from support.plain import PlainTranscoder

BOTTOM = Site(0, "resid_pre")
Sites = dict[Site, Tensor]


def by_hand(one: Dictionary) -> PlainTranscoder:
    """A dictionary without a frame, by its tensors alone."""
    act, weights = one.activation, {"W_enc": one.w_enc, "b_enc": one.b_enc, "b_dec": one.b_dec}
    if one.w_skip is not None:
        weights["W_skip"] = one.w_skip
    if isinstance(act, JumpRelu):
        weights["threshold"] = act.threshold
    architecture = "jumprelu" if isinstance(act, JumpRelu) else "topk" if isinstance(act, TopK) else "standard"
    decoders = {tuple(decoder.site): decoder.w_dec for decoder in one.decoders}
    if one.centre_out:  # what they add has no mean
        decoders = {place: w_dec - w_dec.mean(-1, keepdim=True) for place, w_dec in decoders.items()}
    made = PlainTranscoder.of(architecture, weights, decoders, getattr(act, "k", 0))
    made.config["apply_b_dec_to_input"] = one.apply_b_dec_to_input
    return made


@dataclass(frozen=True)
class Node:
    """A token (no site), a feature by where its dictionary reads, or an error (no feature) by its site."""

    pos: int
    site: Site | None = None
    feature: int | None = None


class Transcoded:
    """A prompt in plain transformers.

    Attributes:
        clean: Activations [t, d] of what is read and written, and of 0.resid_pre.
        m: The metric of the clean pass.
    """

    def __init__(
        self,
        hf: Hf,
        tokens: Tensor,
        counts: Tensor,
        dictionaries: Mapping[Site, PlainTranscoder],
        metric: Callable[[Tensor], Tensor],
    ) -> None:
        """`hf` is float64; dictionaries go by what they read."""
        self.hf, self.tokens, self.counts, self.metric, self.all = hf, tokens, counts, metric, dictionaries
        written = {Site(*place) for one in dictionaries.values() for place in one.decoders}
        self.written = sorted(written, key=lambda site: site.order)
        self.clean, self.m = self.passed(tokens, {})

    @torch.no_grad()
    def passed(self, tokens: Tensor, change: Mapping[Site, Callable[[Tensor, Sites], Tensor]]) -> tuple[Sites, float]:
        """What reaches each site, and m; what goes on from some is a function of that and of what came before."""
        seen: Sites = {}

        def at(site: Site) -> Callable[[Tensor], Tensor]:
            def noted(x: Tensor) -> Tensor:
                seen[site] = x[0]
                return change[site](x[0], seen)[None] if site in change else x

            return noted

        _, logits = self.hf.run(tokens[None], [], {site: at(site) for site in {BOTTOM, *self.all, *self.written}})
        return seen, float(self.metric(logits[:, -1]))

    def says(self, site: Site, acts: Mapping[Site, Tensor], seen: Sites) -> Tensor:
        """What all dictionaries that write a site say of it."""
        said = torch.zeros_like(seen[site])
        for reads, one in self.all.items():
            if tuple(site) in one.decoders:
                said = said + acts[reads] @ one.decoders[tuple(site)]
                said = said + (one.constant(seen[reads]) if next(iter(one.decoders)) == tuple(site) else 0)
        return said

    def acts(self, seen: Sites, site: Site | None = None) -> Sites:
        """Activations of dictionaries, of those that write a site."""
        return {r: one.encode(seen[r]) for r, one in self.all.items() if site is None or tuple(site) in one.decoders}

    def error(self, site: Site, seen: Sites) -> Tensor:
        """What none says of a site."""
        return seen[site] - self.says(site, self.acts(seen, site), seen)

    def added(self, node: Node, become: Tensor) -> Sites:
        """What is added where a node is edited, at its position, so that it becomes that."""
        if node.site is None:
            return {BOTTOM: become - self.clean[BOTTOM][node.pos]}
        if node.feature is None:
            return {node.site: become - self.error(node.site, self.clean)[node.pos]}
        one = self.all[node.site]
        by = become - one.encode(self.clean[node.site])[node.pos, node.feature]
        return {Site(*written): by * w_dec[node.feature] for written, w_dec in one.decoders.items()}

    def effect(self, pos: int, added: Sites) -> float:
        """m where this is added at one position, less m."""

        def adding(delta: Tensor) -> Callable[[Tensor, Sites], Tensor]:
            def change(x: Tensor, seen: Sites) -> Tensor:
                x = x.clone()
                x[pos] += delta
                return x

            return change

        return self.passed(self.tokens, {site: adding(delta) for site, delta in added.items()})[1] - self.m

    def edge(self, up: Node, added: Sites, down: Node | None) -> float:
        """The direct effect of a node on another, or on m.

        What dictionaries write behind it is put back to what it is on the clean pass, but for what a skip connection
        changes, which is of no node; what the node adds is added to that.
        """
        first = min(added, key=lambda site: site.order)

        def change(site: Site) -> Callable[[Tensor, Sites], Tensor]:
            def changed(x: Tensor, seen: Sites) -> Tensor:
                if site != first:
                    x = torch.where(self.counts[:, None], self.clean[site] + self._skipped(site, seen), x)
                if site in added:
                    x = x.clone()
                    x[up.pos] += added[site]
                return x

            return changed

        later = [site for site in self.written if site.order > first.order]
        seen, m = self.passed(self.tokens, {site: change(site) for site in {first, *added, *later}})
        if down is None:
            return m - self.m
        assert down.site is not None
        if down.feature is None:
            now = self.error(down.site, seen)[down.pos]
        else:
            now = self.all[down.site].encode(seen[down.site])[down.pos, down.feature]
        return self.effect(down.pos, self.added(down, now))

    def doubtful(self) -> bool:
        """Whether rounding may decide what fires on the clean pass."""
        return any(bool(one.doubtful(self.clean[r])[self.counts].any()) for r, one in self.all.items())

    def _skipped(self, site: Site, seen: Sites) -> Tensor:
        """What a change of what is read changes through the skip connection that leads here."""
        own = [(r, one) for r, one in self.all.items() if next(iter(one.decoders)) == tuple(site)]
        return sum(one.constant(seen[r]) - one.constant(self.clean[r]) for r, one in own)

    def kept(self, keep: Mapping[Site, Tensor], become: Mapping[Site, Tensor], lost: Mapping[Site, Tensor]) -> float:
        """m where features outside a circuit become what `become` says, and errors of `lost` that.

        Every dictionary reads the stream as it is by then.
        """

        def change(site: Site) -> Callable[[Tensor, Sites], Tensor]:
            def changed(x: Tensor, seen: Sites) -> Tensor:
                acts = self.acts(seen, site)
                some = {r: torch.where(keep[r], a, become[r].to(a)) for r, a in acts.items()}
                error = lost[site] if site in lost else x - self.says(site, acts, seen)
                return torch.where(self.counts[:, None], self.says(site, some, seen) + error, x)

            return changed

        return self.passed(self.tokens, {site: change(site) for site in self.written})[1]
