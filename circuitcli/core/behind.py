"""What an affine map of what a transcoder reads makes of its weights: the norm's gain and bias before an MLP are one.

W_enc → g ∘ W_enc    b_enc → b_enc + b W_enc    W_skip → W_skip ∘ g    b_dec → b_dec + W_skip b
"""

from __future__ import annotations

from dataclasses import replace

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.model import NormWeights


def behind(sae: Dictionary, norm: NormWeights) -> Dictionary:
    """The transcoder that makes of x what this one makes of g·x + b; it subtracts nothing from its input."""
    gain, bias = (part.to(sae.b_enc.device) for part in norm)
    found = replace(sae, w_enc=gain.unsqueeze(1) * sae.encoder, b_enc=sae.b_enc + bias @ sae.encoder)
    if sae.w_skip is None:
        return found
    return replace(found, w_skip=sae.w_skip * gain, b_dec=sae.b_dec + sae.w_skip @ bias)


def inverse(norm: NormWeights) -> NormWeights:
    """The map back, (x − b)/g, of gains that aren't 0."""
    return NormWeights(1 / norm.gain, -norm.bias / norm.gain)
