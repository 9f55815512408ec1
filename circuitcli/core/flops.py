"""Floating-point operations by formula: two for each weight of a matrix that a position goes through.

Attention's scores and sums are 4·d_z·keys a position and block. Norms, activation functions and softmaxes are left out:
they are no products, and a share of a machine's rate of products is what the count is for.
"""

from __future__ import annotations

from circuitcli.core.shape import BlockSizes, ModelShape
from circuitcli.core.sites import Site


def block(sizes: BlockSizes, shape: ModelShape, keys: float) -> float:
    """One whole block at one position that sees so many keys."""
    return 2.0 * (sizes.attention_in + sizes.attention_out + sizes.mlp) + 4 * shape.d_z * keys


def rest_of_block(site: Site, sizes: BlockSizes, shape: ModelShape, keys: float) -> float:
    """What of a block is behind an edit at one of its sites."""
    mlp_in = 2.0 * sizes.mlp
    mlp = 0.0 if shape.parallel else mlp_in
    return {
        "resid_pre": block(sizes, shape, keys),
        "z": 2.0 * sizes.attention_out + mlp,
        "attn_out": mlp,
        "resid_mid": mlp,
        "mlp_in": mlp_in,
    }.get(site.name, 0.0)


def resumed(site: Site, last: int, sizes: BlockSizes, shape: ModelShape, keys: float) -> float:
    """One position from an edit at a site to the end of block `last`; nothing if that lies before the site."""
    if last < site.layer:
        return 0.0
    return rest_of_block(site, sizes, shape, keys) + (last - site.layer) * block(sizes, shape, keys)


def encode(d_in: int, d_sae: int) -> float:
    """An SAE's encoder at one position."""
    return 2.0 * d_in * d_sae


def unembed(shape: ModelShape) -> float:
    """The logits of one position."""
    return 2.0 * shape.d_model * shape.d_vocab
