"""The sizes of a model, as plain records: what can be said of it before any of it is loaded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model, and two things about its blocks.

    Attributes:
        parallel: Whether attention and MLP of a block both read the block's input.
        norms_subtract_mean: Whether its norms subtract the mean over d_model, as LayerNorm does and RMSNorm doesn't:
            centring the stream then changes nothing that the model computes.
    """

    n_layers: int
    d_model: int
    d_z: int
    d_vocab: int
    n_ctx: int
    parallel: bool = False
    norms_subtract_mean: bool = True

    def width(self, site: str) -> int:
        """d_in of an SAE at a site."""
        return self.d_z if site == "z" else self.d_model


@dataclass(frozen=True)
class BlockSizes:
    """How many weights the matrices of one block have: to attention's queries, keys and values, from z, in the MLP."""

    attention_in: int
    attention_out: int
    mlp: int
