"""What Gemma Scope 2 calls a dictionary's tensors.

    w_enc [d_in, d_sae], b_enc, w_dec [d_sae, d_out], b_dec, threshold, perhaps affine_skip_connection [d_in, d_out]

Of a cross-layer transcoder w_dec is [d_sae, layers, d_out].
"""

from __future__ import annotations

from collections.abc import Container

from circuitcli.saes._spec import Named

SKIP = "affine_skip_connection"


def named(tensors: Container[str]) -> dict[str, Named]:
    """The names, if these are such tensors; else none."""
    if "w_enc" not in tensors:
        return {}
    return {"W_enc": Named("w_enc"), "W_dec": Named("w_dec"), "W_skip": Named(SKIP, transposed=True)}
