"""What of a model goes into the weights of a dictionary that is used on it.

A norm's gain g and bias b, where a dictionary reads n = (x − b)/g, what the norm makes before them:

    W_enc ← W_enc/g    b_enc ← b_enc − (b/g)·W_enc    and of a skip connection likewise
    W_dec ← g·W_dec    b_dec ← g·b_dec + b            of an SAE, which writes where it reads
"""

from __future__ import annotations

from dataclasses import replace

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.model import NormWeights
from circuitcli.errors import InputError


def with_norm(loaded: Dictionary, norm: NormWeights) -> Dictionary:
    """A dictionary of what a norm makes before its gain and bias, as one of what it gives.

    Raises:
        InputError: The gain is 0 somewhere, so that what it multiplied can't be told from what it gives.
    """
    gain, bias = (part.to(loaded.w_enc.device) for part in norm)
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
    w_enc = loaded.w_enc / gain.unsqueeze(1)
    shift = bias if loaded.elsewhere or not loaded.apply_b_dec_to_input else bias + gain * loaded.b_dec
    made = replace(loaded, w_enc=w_enc, b_enc=loaded.b_enc - shift @ w_enc, apply_b_dec_to_input=False)
    if not loaded.elsewhere:
        return replace(made, w_dec=loaded.w_dec * gain, b_dec=loaded.b_dec * gain + bias)
    if loaded.w_skip is None:
        return made
    w_skip = loaded.w_skip / gain
    return replace(made, w_skip=w_skip, b_dec=loaded.b_dec - w_skip @ bias)
