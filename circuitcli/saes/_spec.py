"""What the files of a dictionary say of it, whatever their layout, in SAELens's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from circuitcli import plugins
from circuitcli.core.sites import Site

if TYPE_CHECKING:
    from circuitcli.core.activations import Activation

ACTIVATIONS = "core.activations"
SHIFT = "b_dec_in"  # a transcoder's, subtracted from what it reads


Normalized = Literal["yes", "no", "rms", "unknown"]


class Named(NamedTuple):
    """A tensor in a file: its name, and whether it lies there with its axes the other way round."""

    name: str
    transposed: bool = False


@dataclass(frozen=True)
class Spec:
    """What a configuration says, in SAELens's words.

    Attributes:
        site: Where the SAE reads; None where it names no hook.
        writes: Where it writes, of a transcoder; None: where it reads, or the configuration doesn't say.
        transcodes: Whether it is a transcoder.
        skip: Whether that has a skip connection.
        normalized: Whether it reads what the MLP's norm makes before its gain and bias: "yes", "no", "rms" (yes, if
            that is an RMS norm), or "unknown" (yes, if it is, and else nobody can know).
        architecture: The name of a plug-in of `core.activations`.
        normalisation: SAELens's word for what it does to activations.
        d_in, d_sae, d_out: Its widths, where it gives them.
        numbers: What its activation takes of them.
        apply_b_dec_to_input: Whether b_dec is subtracted before encoding.
        rescale: Whether features are chosen, and their activations given, as if the decoder's rows had norm 1.
        finetuned: Whether activations are multiplied by the weights' `scaling_factor` before decoding.
        prepend_bos: Whether it was trained on sequences that start with BOS.
        center_writing_weights: Whether it was trained on a stream whose mean was removed; None where it doesn't say.
        fold_value_biases: Whether it was trained on a z from which the values' biases had been moved away.
        context_size: The length of those sequences, where it gives it.
        neuronpedia: Its name on Neuronpedia, where it gives it.
        names: Of its tensors in the files, by SAELens's, where they have others.
        unclipped: Whether what lies between a threshold below 0 and 0 would be an activation, as nothing here may.
        further: Sites that it writes behind `writes`, by decoders whose names `decoder` gives.
    """

    site: Site | None
    architecture: str
    normalisation: str = "none"
    d_in: int | None = None
    d_sae: int | None = None
    numbers: Mapping[str, int | float] = field(default_factory=dict)
    apply_b_dec_to_input: bool = False
    rescale: bool = False
    finetuned: bool = False
    prepend_bos: bool = True
    center_writing_weights: bool | None = False
    fold_value_biases: bool = False
    context_size: int | None = None
    neuronpedia: str | None = None
    writes: Site | None = None
    transcodes: bool = False
    skip: bool = False
    normalized: Normalized = "no"
    d_out: int | None = None
    names: Mapping[str, Named] = field(default_factory=dict)
    further: tuple[Site, ...] = ()
    unclipped: bool = False

    @property
    def kind(self) -> type[Activation]:
        """Of its activation."""
        return kind_of(self.architecture)

    @property
    def word(self) -> str:
        """What kind of dictionary it is."""
        return "transcoder" if self.transcodes else "SAE"

    @property
    def tensors(self) -> tuple[str, ...]:
        """What its weights have beside W_enc, W_dec and b_dec, each [d_sae]."""
        from circuitcli.core.activations import tensors

        return (*(["b_enc"] if self.kind.biased else []), *tensors(self.kind))

    def named(self, tensor: str) -> Named:
        """What a tensor of SAELens's is called in the files."""
        return self.names.get(tensor, Named(tensor))


def decoder(site: Site) -> str:
    """The name, among SAELens's, of what features write at a later site; see `Spec.further`."""
    return f"W_dec of {site}"


def kind_of(architecture: str) -> type[Activation]:
    """The activation of an architecture; torch is imported by it, not before."""
    kind: type[Activation] = plugins.load(ACTIVATIONS, architecture)
    return kind
