"""What there is to record of a dictionary itself, wherever it is from."""

from __future__ import annotations

from dataclasses import dataclass

from circuitcli.core.sites import Site


@dataclass(frozen=True)
class Facts:
    """What its files and its release say of a dictionary: an SAE, a transcoder, or a layer of a cross-layer transcoder.

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
        writes: The sites that it reconstructs, in the model's order: of an SAE the one that it reads.
        skip: Whether what it reads is added to its reconstruction through a matrix.
        normalized: Whether it reads what the MLP's norm makes before its gain and bias.
        centre_out: Whether it writes a stream whose mean over d_model was removed, while the model keeps it.
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
    writes: tuple[Site, ...] = ()
    skip: bool = False
    normalized: bool = False
    centre_out: bool = False

    def __post_init__(self) -> None:
        """What was recorded before there were others is of an SAE."""
        object.__setattr__(self, "writes", self.writes or (self.site,))

    @property
    def elsewhere(self) -> bool:
        """Whether it writes where it doesn't read."""
        return self.writes[0] != self.site
