"""Variants of an SAE: ways to read it that go wrong, each a single change to how it is read, made or unmade.

`CHANGES` is the table of them; a new one is one entry. A change that would change nothing, or makes no sense
here (centring under LayerNorm, for z, or where the model's norms keep the mean), makes no variant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from circuitcli.core.activations.standard import Relu
from circuitcli.core.activations.topk import TopK
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.frame import Frame, Normalisation, centrable
from circuitcli.core.shape import ModelShape
from circuitcli.core.sites import Site

_RESIDUAL = ("resid_pre", "resid_mid", "resid_post")
# The k of published TopK SAEs.
_KS = (16, 32, 64)
# More active features than d_in / DENSE at a position aren't sparse: no published SAE is read so, one whose TopK was
# taken for ReLU is.
DENSE = 4


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What decides which changes make sense.

    Attributes:
        shape: Of the model.
        norms_subtract_mean: Whether the model's norms subtract the mean over d_model, as measured on it.
        z_offset: What value biases add to z in the SAE's layer.
        bos: Whether the text starts with BOS; None where the model has no BOS.
        l0: Mean number of active features, as the SAE is stated.
    """

    shape: ModelShape
    norms_subtract_mean: bool
    z_offset: Float[Tensor, " d_z"]
    bos: bool | None
    l0: float


@dataclass(frozen=True, eq=False)
class Variant:
    """An SAE as stated, or with one change: read otherwise, at another site, or on text with BOS flipped."""

    name: str
    words: str
    sae: Dictionary
    flips_bos: bool = False


Make = Callable[[Dictionary, Surroundings], Dictionary | None]


@dataclass(frozen=True)
class Change:
    """One thing that may be wrong with how an SAE is read.

    Attributes:
        name: What it is called in tables and documents.
        words: The end of the sentence “it would fit better …”.
        make: The SAE read so, or None where that is nothing new.
        flips_bos: Whether the text gets BOS, or loses it.
    """

    name: str
    words: str
    make: Make
    flips_bos: bool = False


def variants(sae: Dictionary, around: Surroundings) -> list[Variant]:
    """Every change that makes sense for an SAE."""
    made = ((change, change.make(sae, around)) for change in CHANGES)
    found = [Variant(c.name, c.words, changed, c.flips_bos) for c, changed in made if changed is not None]
    seen, kept = {_tensor(sae.reads)}, []
    for variant in found:  # the layer before a resid_post is the resid_pre of its block
        elsewhere = variant.sae.reads != sae.reads
        if elsewhere and _tensor(variant.sae.reads) in seen:
            continue
        seen.add(_tensor(variant.sae.reads))
        kept.append(variant)
    return kept


def _tensor(site: Site) -> Site:
    """One name for each tensor: resid_post of a layer is resid_pre of the next."""
    return Site(site.layer + 1, "resid_pre") if site.name == "resid_post" else site


def _centre(on: bool) -> Make:
    def make(sae: Dictionary, around: Surroundings) -> Dictionary | None:
        able = centrable(sae.reads, norms_subtract_mean=around.norms_subtract_mean)
        new = able and sae.frame.normalisation != "layer_norm" and sae.frame.centre != on
        return _framed(sae, replace(sae.frame, centre=on)) if new else None

    return make


def _normalised(how: Normalisation) -> Make:
    def make(sae: Dictionary, around: Surroundings) -> Dictionary | None:
        centre = sae.frame.centre and how != "layer_norm"  # which takes the mean away itself
        new = replace(sae.frame, normalisation=how, centre=centre)
        return _framed(sae, new) if sae.frame.normalisation != how else None

    return make


def _framed(sae: Dictionary, frame: Frame) -> Dictionary:
    return replace(sae, frame=frame)


def _relu(sae: Dictionary, around: Surroundings) -> Dictionary | None:
    """Not of an activation with biases of its own: ReLU has none to put in their place."""
    bent = sae.activation.biased and not isinstance(sae.activation, Relu)
    return replace(sae, activation=Relu()) if bent else None


def _topk(k: int) -> Make:
    def make(sae: Dictionary, around: Surroundings) -> Dictionary | None:
        dense = isinstance(sae.activation, Relu) and around.l0 > sae.d_in / DENSE and k < sae.d_sae
        return replace(sae, activation=TopK(k)) if dense else None

    return make


def _bos(on: bool) -> Make:
    return lambda sae, around: sae if around.bos is (not on) else None


def _added(sae: Dictionary, around: Surroundings) -> Dictionary | None:
    """(x + b_dec) W_enc in place of (x − b_dec) W_enc: every projection is larger by 2 b_dec W_enc."""
    if not (sae.apply_b_dec_to_input and sae.b_dec.any()):
        return None
    return replace(sae, b_enc=sae.b_enc + 2 * sae.b_dec @ sae.w_enc)


def _negated(sae: Dictionary, around: Surroundings) -> Dictionary | None:
    return replace(sae, b_dec=-sae.b_dec) if sae.b_dec.any() else None


def _subtracted(on: bool) -> Make:
    def make(sae: Dictionary, around: Surroundings) -> Dictionary | None:
        new = sae.apply_b_dec_to_input != on and bool(sae.b_dec.any())
        return replace(sae, apply_b_dec_to_input=on) if new else None

    return make


def _layer(by: int) -> Make:
    def make(sae: Dictionary, around: Surroundings) -> Dictionary | None:
        layer = sae.reads.layer + by
        return _moved(sae, Site(layer, sae.reads.name)) if 0 <= layer < around.shape.n_layers else None

    return make


def _residual(name: str) -> Make:
    def make(sae: Dictionary, around: Surroundings) -> Dictionary | None:
        there = name != "resid_mid" or not around.shape.parallel
        elsewhere = sae.reads.name in _RESIDUAL and sae.reads.name != name
        return _moved(sae, Site(sae.reads.layer, name)) if there and elsewhere else None

    return make


def _moved(sae: Dictionary, site: Site) -> Dictionary:
    return replace(sae, reads=site, writes=site)


def _raw_z(sae: Dictionary, around: Surroundings) -> Dictionary | None:
    processed = sae.reads.name == "z" and sae.frame.offset is not None
    return _framed(sae, replace(sae.frame, offset=None)) if processed else None


def _processed_z(sae: Dictionary, around: Surroundings) -> Dictionary | None:
    raw = sae.reads.name == "z" and sae.frame.offset is None and bool(around.z_offset.any())
    return _framed(sae, replace(sae.frame, offset=around.z_offset)) if raw else None


CHANGES = (
    Change("centring", "with the mean over d_model removed first", _centre(True)),
    Change("no centring", "without removing the mean over d_model", _centre(False)),
    Change("LayerNorm", "with LayerNorm", _normalised("layer_norm")),
    Change("no normalisation", "without normalisation", _normalised("none")),
    Change("ReLU", "with ReLU alone", _relu),
    *(Change(f"TopK {k}", f"with TopK, k = {k}", _topk(k)) for k in _KS),
    Change("BOS", "on text with BOS", _bos(True), flips_bos=True),
    Change("no BOS", "on text without BOS", _bos(False), flips_bos=True),
    Change("b_dec added", "with b_dec added to its input, not subtracted", _added),
    Change("b_dec negated", "with b_dec of the other sign", _negated),
    Change("b_dec subtracted", "with b_dec subtracted from its input", _subtracted(True)),
    Change("b_dec not subtracted", "without subtracting b_dec from its input", _subtracted(False)),
    Change("layer before", "at the layer before", _layer(-1)),
    Change("layer after", "at the layer after", _layer(+1)),
    *(Change(name, f"at {name} of its block", _residual(name)) for name in _RESIDUAL),
    Change("raw z", "on z as it is", _raw_z),
    Change("processed z", "on z of the processed model, its value biases taken out", _processed_z),
)
