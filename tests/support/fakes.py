"""A model small and linear enough that what an edit does to it can be written down."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from circuitcli.core.activations.standard import Relu
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.edits import Edits, adding_all
from circuitcli.core.model import Addition, Fixed, NormWeights, Pass, Places
from circuitcli.core.shape import BlockSizes, ModelShape
from circuitcli.core.sites import Site

D, VOCAB, LAYERS = 4, 11, 2


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A `core.model.Model` of linear blocks: attention sums over all positions so far, the MLP is a matrix.

    z_t = Σ_{s≤t} resid_pre_s V     attn_out = z O     resid_mid = mlp_in = resid_pre + attn_out
    mlp_out = mlp_in M     resid_post = resid_mid + mlp_out     logits = resid_post U
    """

    embedding: Tensor
    v: Tensor
    o: Tensor
    m: Tensor
    u: Tensor
    resumes_at_places: bool = True

    @classmethod
    def random(cls, seed: int = 0) -> "LinearModel":
        generator = torch.Generator().manual_seed(seed)
        shapes = ((VOCAB, D), (D, D), (D, D), (D, D), (D, VOCAB))
        return cls(*(torch.randn(shape, generator=generator) / 2 for shape in shapes))

    @property
    def whole_because(self) -> str:
        return "" if self.resumes_at_places else "it is a fake"

    @property
    def sizes(self) -> BlockSizes:
        return BlockSizes(D * D, D * D, D * D)

    @property
    def device(self) -> torch.device:
        return self.u.device

    @property
    def shape(self) -> ModelShape:
        return ModelShape(LAYERS, D, D, VOCAB, 99)

    def run(
        self,
        tokens: Tensor,
        read: Sequence[Site],
        *,
        final: bool = False,
        edits: Edits | None = None,
        keep: int | None = None,
        until: int | None = None,
    ) -> Pass:
        return self._from(self.embedding[tokens], read, edits or {})

    def bases(self, site: Site) -> tuple[Site, ...]:
        return (Site(0, "resid_pre"),)

    def resume(
        self,
        clean: Pass,
        base: Mapping[Site, Tensor],
        edit: Addition,
        read: Sequence[Site],
        *,
        final: bool = False,
        places: Places | None = None,
    ) -> Pass:
        return self._from(
            base[Site(0, "resid_pre")], read, adding_all({edit.site: edit.delta, **edit.further}), clean.calls, places
        )

    def fixed(self, tokens: Tensor, what: Fixed) -> AbstractContextManager[None]:
        """Its attention's pattern is the same for all inputs, and it has no norms and no activation functions."""
        return nullcontext()

    def z_offset(self, layer: int) -> Tensor:
        return torch.zeros(D)

    def norm_weights(self, layer: int) -> NormWeights:
        """It has no norms."""
        return NormWeights(torch.ones(D), torch.zeros(D))

    def positions(self, tokens: Tensor) -> Tensor:
        return torch.zeros(tokens.shape[1], D)

    def logits(self, final: Tensor, pos: Tensor | None = None) -> Tensor:
        return final @ self.u

    def unembedded(self, final: Tensor) -> Tensor:
        return final @ self.u

    def _from(
        self, x: Tensor, read: Sequence[Site], edits: Edits, values: Any = None, places: Places | None = None
    ) -> Pass:
        sites: dict[Site, Tensor] = {}
        kept: list[Tensor] = []

        def at(site: Site, value: Tensor) -> Tensor:
            sites[site] = edits[site](value) if site in edits else value
            return sites[site]

        def attend(layer: int, own: Tensor) -> Tensor:
            kept.append(own)
            if places is None:
                return own.cumsum(1)
            seq, first = places.seq.unsqueeze(1), places.pos[:, :1] if places.chained else places.pos
            before = values[layer].cumsum(1)[seq, first] - values[layer][seq, first]
            return before + (own.cumsum(1) if places.chained else own)

        for layer in range(LAYERS):
            x = at(Site(layer, "resid_pre"), x)
            z = at(Site(layer, "z"), attend(layer, x @ self.v))
            x = at(Site(layer, "resid_mid"), x + at(Site(layer, "attn_out"), z @ self.o))
            read_by_mlp = at(Site(layer, "mlp_in"), x)
            x = at(Site(layer, "resid_post"), x + at(Site(layer, "mlp_out"), read_by_mlp @ self.m))
        return Pass({site: sites[site] for site in read}, x, kept)


def linear_sae(site: Site, seed: int = 0) -> Dictionary:
    """An SAE whose latents are so far above 0 that its relu is never bent: a = x W_enc + 50."""
    generator = torch.Generator().manual_seed(seed)
    w_enc, w_dec = torch.randn(D, 6, generator=generator), torch.randn(6, D, generator=generator)
    return Dictionary(site, site, Relu(), w_enc, torch.full((6,), 50.0), w_dec, torch.zeros(D))
