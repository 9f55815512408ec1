"""What of a model goes into the weights of a dictionary that is used on it.

A norm's gain g and bias b, where a dictionary reads n = (x − b)/g, what the norm makes before them:

    W_enc ← W_enc/g    b_enc ← b_enc − (b/g)·W_enc    and of a skip connection likewise, see `core.behind`
    W_dec ← g·W_dec    b_dec ← g·b_dec + b            of an SAE, which writes where it reads
"""

from __future__ import annotations

from dataclasses import replace

from circuitcli.core.behind import behind, inverse
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.matrix import whole
from circuitcli.core.model import NormWeights
from circuitcli.errors import InputError


def with_norm(loaded: Dictionary, norm: NormWeights) -> Dictionary:
    """A dictionary of what a norm makes before its gain and bias, as one of what it gives.

    Raises:
        InputError: The gain is 0 somewhere, so that what it multiplied can't be told from what it gives.
    """
    gain, bias = norm
    if not gain.all():
        raise InputError(
            f"The dictionary at {loaded.reads} reads what the norm makes before its gain, which is 0 in "
            f"{int((gain == 0).sum())} of {len(gain)} dimensions of this model.",
            hint="It can't be used on this model: choose others with --release.",
        )
    if loaded.frame.normalisation != "none":
        raise InputError(
            f"The dictionary at {loaded.reads} normalises once more what a norm makes before its gain.",
            hint="Supported are such dictionaries without a normalisation of their own.",
        )
    made = replace(behind(loaded, inverse(norm)), apply_b_dec_to_input=False)
    if loaded.elsewhere:
        return made
    gain, bias = (part.to(loaded.b_dec.device) for part in norm)
    subtracted = loaded.b_dec @ loaded.encoder if loaded.apply_b_dec_to_input else 0
    w_dec, b_dec = whole(loaded.w_dec) * gain, loaded.b_dec * gain + bias
    return replace(made, b_enc=made.b_enc - subtracted, w_dec=w_dec, b_dec=b_dec)
