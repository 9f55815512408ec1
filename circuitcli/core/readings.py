"""Ways to read an SAE that go wrong: each a single change to how it is read, made or unmade.

`CHANGES` is the table of suspicions; a new one is one entry. A change that would change nothing, or makes no sense
here (centring under LayerNorm, for z, or where the model's norms keep the mean), gives no reading.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from circuitcli.core.sae import Sae
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
        ignores_mean: Whether the model's norms subtract the mean over d_model (LayerNorm; RMS norm doesn't).
        z_offset: What value biases add to z in the SAE's layer.
        bos: Whether the text starts with BOS; None where the model has no BOS.
        l0: Mean number of active features, as the SAE is stated.
    """

    shape: ModelShape
    ignores_mean: bool
    z_offset: Float[Tensor, " d_z"]
    bos: bool | None
    l0: float


@dataclass(frozen=True, eq=False)
class Reading:
    """One way of reading an SAE: it, changed or at another site, on text with BOS flipped or as it is."""

    name: str
    words: str
    sae: Sae
    flips_bos: bool = False


@dataclass(frozen=True)
class Change:
    """One suspicion.

    Attributes:
        name: What it is called in tables and documents.
        words: The end of the sentence “it would fit better …”.
        make: The SAE read so, or None where that is nothing new.
        flips_bos: Whether the text gets BOS, or loses it.
    """

    name: str
    words: str
    make: Callable[[Sae, Surroundings], Sae | None]
    flips_bos: bool = False


def readings(sae: Sae, around: Surroundings) -> list[Reading]:
    """Every change that makes sense for an SAE."""
    made = ((change, change.make(sae, around)) for change in CHANGES)
    found = [Reading(c.name, c.words, changed, c.flips_bos) for c, changed in made if changed is not None]
    seen, kept = {_tensor(sae.site)}, []
    for reading in found:  # the layer before a resid_post is the resid_pre of its block
        elsewhere = reading.sae.site != sae.site
        if elsewhere and _tensor(reading.sae.site) in seen:
            continue
        seen.add(_tensor(reading.sae.site))
        kept.append(reading)
    return kept


def _tensor(site: Site) -> Site:
    """One name for each tensor: resid_post of a layer is resid_pre of the next."""
    return Site(site.layer + 1, "resid_pre") if site.name == "resid_post" else site


def _centre(on: bool) -> Callable[[Sae, Surroundings], Sae | None]:
    def make(sae: Sae, around: Surroundings) -> Sae | None:
        matters = sae.normalisation != "layer_norm" and sae.site.name != "z" and around.ignores_mean
        return replace(sae, centre=on) if matters and sae.centre != on else None

    return make


def _layer_norm(sae: Sae, around: Surroundings) -> Sae | None:
    return replace(sae, normalisation="layer_norm", centre=False) if sae.normalisation != "layer_norm" else None


def _no_norm(sae: Sae, around: Surroundings) -> Sae | None:
    return replace(sae, normalisation="none") if sae.normalisation != "none" else None


def _relu(sae: Sae, around: Surroundings) -> Sae | None:
    bent = sae.activation in ("topk", "jumprelu")
    return replace(sae, activation="relu", k=None, threshold=None) if bent else None


def _topk(k: int) -> Callable[[Sae, Surroundings], Sae | None]:
    def make(sae: Sae, around: Surroundings) -> Sae | None:
        dense = sae.activation == "relu" and around.l0 > sae.d_in / DENSE and k < sae.d_sae
        return replace(sae, activation="topk", k=k) if dense else None

    return make


def _bos(on: bool) -> Callable[[Sae, Surroundings], Sae | None]:
    return lambda sae, around: sae if around.bos is (not on) else None


def _added(sae: Sae, around: Surroundings) -> Sae | None:
    """(x + b_dec) W_enc in place of (x − b_dec) W_enc: every projection is larger by 2 b_dec W_enc."""
    if not (sae.apply_b_dec_to_input and sae.b_dec.any()):
        return None
    shift = 2 * sae.b_dec @ sae.w_enc
    if sae.b_gate is None or sae.r_mag is None:
        return replace(sae, b_enc=sae.b_enc + shift)
    return replace(sae, b_gate=sae.b_gate + shift, b_enc=sae.b_enc + shift * sae.r_mag.exp())


def _negated(sae: Sae, around: Surroundings) -> Sae | None:
    return replace(sae, b_dec=-sae.b_dec) if sae.b_dec.any() else None


def _subtracted(on: bool) -> Callable[[Sae, Surroundings], Sae | None]:
    def make(sae: Sae, around: Surroundings) -> Sae | None:
        new = sae.apply_b_dec_to_input != on and bool(sae.b_dec.any())
        return replace(sae, apply_b_dec_to_input=on) if new else None

    return make


def _layer(by: int) -> Callable[[Sae, Surroundings], Sae | None]:
    def make(sae: Sae, around: Surroundings) -> Sae | None:
        layer = sae.site.layer + by
        return replace(sae, site=Site(layer, sae.site.name)) if 0 <= layer < around.shape.n_layers else None

    return make


def _residual(name: str) -> Callable[[Sae, Surroundings], Sae | None]:
    def make(sae: Sae, around: Surroundings) -> Sae | None:
        there = name != "resid_mid" or not around.shape.parallel
        elsewhere = sae.site.name in _RESIDUAL and sae.site.name != name
        return replace(sae, site=Site(sae.site.layer, name)) if there and elsewhere else None

    return make


def _raw_z(sae: Sae, around: Surroundings) -> Sae | None:
    return replace(sae, offset=None) if sae.site.name == "z" and sae.offset is not None else None


def _processed_z(sae: Sae, around: Surroundings) -> Sae | None:
    raw = sae.site.name == "z" and sae.offset is None and bool(around.z_offset.any())
    return replace(sae, offset=around.z_offset) if raw else None


CHANGES = (
    Change("centring", "with the mean over d_model removed first", _centre(True)),
    Change("no centring", "without removing the mean over d_model", _centre(False)),
    Change("LayerNorm", "with LayerNorm", _layer_norm),
    Change("no normalisation", "without normalisation", _no_norm),
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
