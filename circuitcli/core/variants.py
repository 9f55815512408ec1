"""Variants of a dictionary: ways to read it that go wrong, each a single change to how it is read, made or unmade.

`CHANGES` is the table of them; a new one is one entry. A change that would change nothing, or makes no sense
here (centring under LayerNorm, for z, or where the model's norms keep the mean), makes no variant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from circuitcli.core import misread
from circuitcli.core.activations.standard import Relu
from circuitcli.core.activations.topk import TopK
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.frame import Frame, Normalisation, centrable
from circuitcli.core.reading import Change, Reading, Variant
from circuitcli.core.sites import Site
from circuitcli.core.surroundings import Make, Surroundings

_RESIDUAL = ("resid_pre", "resid_mid", "resid_post")
# The k of published TopK SAEs.
_KS = (16, 32, 64)
# More active features than d_in / DENSE at a position aren't sparse: no published SAE is read so, one whose TopK was
# taken for ReLU is.
DENSE = 4


def variants(stated: Variant, around: Callable[[Dictionary], Surroundings]) -> list[Variant]:
    """Every change that makes sense for a dictionary.

    Args:
        stated: As its files state it.
        around: The surroundings of it, and of others that are read with it.
    """
    seen, kept = {_tensor(stated.reads)}, []
    for change in CHANGES:
        reading = Reading(change, around)
        if not reading.new(stated.stated, stated.others):
            continue
        found = replace(
            stated,
            name=change.name,
            words=change.words,
            reading=reading,
            flips_bos=change.flips_bos,
            lacking=stated if change.fits else None,
            unheard=change.unheard,
        )
        if not stated.stated.elsewhere and found.reads != stated.reads:
            if _tensor(found.reads) in seen:  # the layer before a resid_post is the resid_pre of its block
                continue
            seen.add(_tensor(found.reads))
        kept.append(found)
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
        if sae.frame.normalisation == how or (how == "layer_norm" and sae.elsewhere):
            return None  # a transcoder has the model's own norm before it, or behind it
        centre = sae.frame.centre and how != "layer_norm"  # which takes the mean away itself
        return _framed(sae, replace(sae.frame, normalisation=how, centre=centre))

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
    return replace(sae, b_enc=sae.b_enc + 2 * sae.b_dec @ sae.encoder)


def _negated(sae: Dictionary, around: Surroundings) -> Dictionary | None:
    return replace(sae, b_dec=sae.b_dec - 2 * misread.as_filed(sae, around).b_dec) if sae.b_dec.any() else None


def _subtracted(on: bool) -> Make:
    def make(sae: Dictionary, around: Surroundings) -> Dictionary | None:
        if sae.elsewhere and not sae.apply_b_dec_to_input:
            return misread.b_dec(-1 if on else +1)(sae, around)
        new = sae.apply_b_dec_to_input != on and bool(sae.b_dec.any())
        return replace(sae, apply_b_dec_to_input=on) if new else None

    return make


def _residual(name: str) -> Make:
    def make(sae: Dictionary, around: Surroundings) -> Dictionary | None:
        there = name != "resid_mid" or not around.shape.parallel
        new = sae.reads.name in _RESIDUAL and sae.reads.name != name and not sae.elsewhere
        site = Site(sae.reads.layer, name)
        return replace(sae, reads=site, writes=site) if there and new else None

    return make


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
    Change("layer before", "at the layer before", misread.layer(-1), moves=True),
    Change("layer after", "at the layer after", misread.layer(+1), moves=True),
    *(Change(name, f"at {name} of its block", _residual(name)) for name in _RESIDUAL),
    Change("raw z", "on z as it is", _raw_z),
    Change("processed z", "on z of the processed model, its value biases taken out", _processed_z),
    Change("before the norm", "before the norm (resid_mid)", misread.before_norm),
    Change("gain", "behind the norm with its gain and bias (mlp_in)", misread.behind_norm(gain=True)),
    Change("no gain", "behind the norm without its gain and bias", misread.behind_norm(gain=False)),
    Change("no skip", "without its skip connection", misread.without_skip),
    Change("skip transposed", "with W_skip transposed", misread.skip_transposed),
    Change("skip left out", "with a skip connection, which seems to be left out", misread.skip_left_out, fits=True),
    Change("W_enc transposed", "with W_enc transposed", misread.encoder_transposed),
    Change("W_dec transposed", "with W_dec transposed", misread.decoder_transposed),
    Change("transposed", "with W_enc and W_dec transposed", misread.both_transposed),
    Change("written before", "with what it writes one layer before", misread.written(-1)),
    Change("written after", "with what it writes one layer after", misread.written(+1)),
    Change(
        "centred output", "with the mean over d_model left to the MLP's own", misread.centre_out(True), unheard=True
    ),
    Change("no centred output", "with the mean over d_model that it writes", misread.centre_out(False), unheard=True),
)
