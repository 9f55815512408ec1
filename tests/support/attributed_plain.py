"""The second route of attribution: plain transformers with hooks, dictionaries written out; all of it float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitcli.core.activations.gated import Gated
from circuitcli.core.activations.jumprelu import JumpRelu
from circuitcli.core.activations.topk import TopK
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from support.families import Hf

Metric = Callable[[Tensor], Tensor]  # of logits [n, v]


@dataclass(frozen=True, eq=False)
class Written:
    """A dictionary's arithmetic on rows of activations, by its tensors alone."""

    one: Dictionary

    def scale(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Shift, divisor and σ."""
        frame, mean = self.one.frame, x.mean(-1, keepdim=True)
        if frame.normalisation == "layer_norm":
            std = ((x - mean).pow(2).sum(-1, keepdim=True) / (x.shape[-1] - 1)).sqrt()
            return mean, std + 1e-5, std
        shift = mean if frame.centre else torch.zeros_like(mean)
        size = (x - shift).pow(2).mean(-1, keepdim=True).sqrt()
        return (shift, size, size) if frame.normalisation == "constant_norm" else (shift, *[torch.ones_like(mean)] * 2)

    def encode(self, x: Tensor) -> Tensor:
        shift, divisor, _ = self.scale(x)
        w, act = self.one.w_enc.double(), self.one.activation
        pre = ((x - shift) / divisor - self.one.b_dec.double()) @ w + self.one.b_enc.double()
        if isinstance(act, TopK):
            return pre.relu() * (pre >= pre.sort(-1, descending=True).values[:, act.k - 1, None])
        if isinstance(act, JumpRelu):
            return pre.relu() * (pre > act.threshold.double())
        if isinstance(act, Gated):
            return (pre * act.r_mag.double().exp() + act.b_mag.double()).relu() * (pre + act.b_gate.double() > 0)
        return pre.relu()

    def direction(self, x: Tensor) -> Tensor:
        """d_j of every feature, [n, d_sae, d], for each row."""
        found = self.scale(x)[2].unsqueeze(1) * self.one.w_dec.double()
        return found - found.mean(-1, keepdim=True) if self.one.frame.centre else found

    def error(self, x: Tensor) -> Tensor:
        shift, _, sigma = self.scale(x)
        return x - sigma * (self.encode(x) @ self.one.w_dec.double() + self.one.b_dec.double()) - shift


class PlainPrompt:
    """A prompt in plain transformers.

    Attributes:
        clean: Activations [t, d] of the dictionaries' sites, and of 0.resid_pre.
        m: The metric of the clean pass.
    """

    def __init__(self, hf: Hf, tokens: Tensor, counts: Tensor, saes: Mapping[Site, Dictionary], metric: Metric) -> None:
        self.hf = Hf(copy.deepcopy(hf.model).double(), hf.family)
        self.tokens, self.counts, self.metric = tokens, counts, metric
        self.saes = {site: Written(one) for site, one in saes.items()}
        self.clean = self.read(tokens)
        with torch.no_grad():
            self.m = float(metric(self.hf.run(tokens[None], [])[1][:, -1]))

    @torch.no_grad()
    def read(self, tokens: Tensor) -> dict[Site, Tensor]:
        return {site: x[0] for site, x in self.hf.run(tokens[None], [*{*self.saes, Site(0, "resid_pre")}])[0].items()}

    def after(self, edits: Mapping[Site, Callable[[Tensor], Tensor]], rows: int = 1) -> Tensor:
        """m of edited passes."""
        return self.metric(self.hf.run(self.tokens.expand(rows, -1), [], edits)[1][:, -1])

    @torch.no_grad()
    def effects(self, site: Site, pos: Tensor, delta: Tensor) -> Tensor:
        """m(x + δ) − m of each row, each with its own δ at its own position."""
        whole = torch.zeros(len(pos), *self.clean[site].shape, dtype=torch.float64)
        whole[torch.arange(len(pos)), pos] = delta
        return self.after({site: lambda x: x + whole}, len(pos)) - self.m

    @torch.no_grad()
    def edge(
        self, up: Site, pos: int, delta: Tensor, *, token: bool, down: Site | None, at: int, feature: int | None
    ) -> float:
        """The direct effect of a node on another: what lies between is put back to what it is on the clean pass."""
        reached: dict[Site, Tensor] = {}

        def added(x: Tensor) -> Tensor:
            x = x.clone()
            x[0, pos] += delta
            return x

        def held(site: Site) -> Callable[[Tensor], Tensor]:
            def hold(x: Tensor) -> Tensor:
                x = added(x) if site == up else x
                reached[site] = x[0]
                return torch.where(self.counts[:, None], self.clean[site], x)

            return hold

        later = [site for site in self.saes if site.order > up.order or (token and site == up)]
        m = self.after({up: added} | {site: held(site) for site in later})
        if down is None:
            return float(m - self.m)
        sae, x, before = self.saes[down], reached[down][at, None], self.clean[down][at, None]
        if feature is None:
            moved = sae.error(x) - sae.error(before)
        else:
            moved = (sae.encode(x) - sae.encode(before))[:, feature, None] * sae.direction(before)[:, feature]
        return float(self.effects(down, torch.tensor([at]), moved))
