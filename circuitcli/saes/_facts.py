"""What there is to record of an SAE itself, wherever it is from."""

from __future__ import annotations

from dataclasses import dataclass

from circuitcli.core.sites import Site


@dataclass(frozen=True)
class Facts:
    """What its files and its release say of an SAE.

    Attributes:
        site: Where it reads.
        sha256: Of its weights, its configuration, and what its release states of it; see `_files.digest`.
        d_in, d_sae: Its widths.
        architecture: `standard`, `topk`, `jumprelu`, `gated`, or another activation's name; see `core.activations`.
        normalisation: What it does to activations, see `core.frame`; what could be folded into the weights is `none`.
        prepend_bos: Whether it was trained on sequences that start with BOS.
        context_size: Tokens in them, if that is known.
        centre: Whether it reads the stream less its mean over d_model, while the model keeps it; see `core.frame`.
        centre_stated: Whether that is known, or makes no difference; if not, it counts as not centred.
        fold_value_biases: Whether it was trained on z of a processed model, without value biases; only of z.
        neuronpedia: Its source on Neuronpedia, if it is known to be there.
    """

    site: Site
    sha256: str
    d_in: int
    d_sae: int
    architecture: str
    normalisation: str
    prepend_bos: bool
    context_size: int | None
    centre: bool
    centre_stated: bool
    fold_value_biases: bool
    neuronpedia: str | None
