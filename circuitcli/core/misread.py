"""Ways in which a dictionary that writes elsewhere than it reads, a transcoder, is read wrongly.

    norm       it reads g·x + b for x, or (x − b)/g; see `core.behind`
    b_dec      b_enc ± b_dec W_enc: what is subtracted from the input of a transcoder is part of its b_enc here

Each is a change of one dictionary; of a cross-layer transcoder all of its dictionaries are changed alike.
"""

from __future__ import annotations

from dataclasses import replace

from circuitcli.core.behind import behind, inverse
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from circuitcli.core.surroundings import Make, Surroundings


def before_norm(sae: Dictionary, around: Surroundings) -> Dictionary | None:
    """At resid_mid, with the weights that its files have."""
    if not sae.elsewhere or sae.reads.name != "mlp_in" or around.shape.parallel:
        return None
    return replace(as_filed(sae, around), reads=Site(sae.reads.layer, "resid_mid"))


def behind_norm(*, gain: bool) -> Make:
    """At mlp_in: of what the norm gives with its gain and bias, or without."""

    def make(sae: Dictionary, around: Surroundings) -> Dictionary | None:
        here = sae.reads.name == "mlp_in"
        if not sae.elsewhere or not (here or sae.reads.name == "resid_mid") or (here and around.normalized != gain):
            return None
        there = replace(as_filed(sae, around), reads=Site(sae.reads.layer, "mlp_in"))
        return there if gain else _without_gain(there, around)

    return make


def as_filed(sae: Dictionary, around: Surroundings) -> Dictionary:
    """With the weights that its files have: those of its norm aren't in them."""
    norm = around.norm(sae.reads.layer) if around.normalized else None
    return sae if norm is None else behind(sae, norm)


def _without_gain(sae: Dictionary, around: Surroundings) -> Dictionary | None:
    """In front of (x − bias)/gain; None where there is nothing that isn't 1 and 0, or a gain of 0."""
    norm = around.norm(sae.reads.layer)
    if norm is None or not norm.gain.all() or (bool((norm.gain == 1).all()) and not norm.bias.any()):
        return None
    return behind(sae, inverse(norm))


def layer(by: int) -> Make:
    """All that it reads and writes so many layers later; what would be in no layer goes."""

    def make(sae: Dictionary, around: Surroundings) -> Dictionary | None:
        if sae.reads.layer + by < 0 or sae.writes.layer + by >= around.shape.n_layers:
            return None
        moved = replace(
            as_filed(sae, around),
            reads=_later(sae.reads, by),
            writes=_later(sae.writes, by),
            further=tuple(
                one._replace(site=_later(one.site, by))
                for one in sae.further
                if one.site.layer + by < around.shape.n_layers
            ),
        )
        return _without_gain(moved, around) if around.normalized else moved

    return make


def _later(site: Site, by: int) -> Site:
    return Site(site.layer + by, site.name)


def written(by: int) -> Make:
    """Each decoder at the site after, or before, the one it writes, and the one at the end at the other end."""

    def make(sae: Dictionary, around: Surroundings) -> Dictionary | None:
        if not sae.further:
            return None
        old = [one.w_dec for one in sae.decoders]
        new = old[-by:] + old[:-by]
        further = tuple(one._replace(w_dec=w) for one, w in zip(sae.further, new[1:], strict=True))
        return replace(sae, w_dec=new[0], further=further)

    return make


def b_dec(sign: int) -> Make:
    """With b_dec added to what it reads, or subtracted from it."""

    def make(sae: Dictionary, around: Surroundings) -> Dictionary | None:
        if not sae.elsewhere or sae.apply_b_dec_to_input or sae.d_in != len(sae.b_dec) or not sae.b_dec.any():
            return None
        filed = as_filed(sae, around)
        return replace(sae, b_enc=sae.b_enc + sign * filed.b_dec @ filed.encoder)

    return make


def without_skip(sae: Dictionary, around: Surroundings) -> Dictionary | None:
    """Nothing but b_dec added to what its features say."""
    return None if sae.w_skip is None else replace(sae, w_skip=None, b_dec=as_filed(sae, around).b_dec)


def skip_transposed(sae: Dictionary, around: Surroundings) -> Dictionary | None:
    """Added as x W_skip in place of x W_skipᵀ."""
    if sae.w_skip is None or sae.w_skip.shape[0] != sae.w_skip.shape[1]:
        return None
    filed = as_filed(sae, around)
    assert filed.w_skip is not None
    turned = replace(filed, w_skip=filed.w_skip.T)
    return _without_gain(turned, around) if around.normalized else turned


def skip_left_out(sae: Dictionary, around: Surroundings) -> Dictionary | None:
    """As it is: a skip connection is fitted to what it lacks; see `core.left_out`."""
    return sae if sae.elsewhere and sae.w_skip is None else None


def encoder_transposed(sae: Dictionary, around: Surroundings) -> Dictionary | None:
    """W_encᵀ in place of W_enc, which has as many rows as columns."""
    if not sae.elsewhere or sae.d_in != sae.d_sae:
        return None
    filed = as_filed(sae, around)
    turned = replace(filed, w_enc=filed.encoder.T)
    return _without_gain(turned, around) if around.normalized else turned


def decoder_transposed(sae: Dictionary, around: Surroundings) -> Dictionary | None:
    """W_decᵀ in place of W_dec, wherever it writes."""
    if not sae.elsewhere or len(sae.b_dec) != sae.d_sae:
        return None
    w_dec, *more = (one.whole().T for one in sae.decoders)
    further = tuple(one._replace(w_dec=turned) for one, turned in zip(sae.further, more, strict=True))
    return replace(sae, w_dec=w_dec, further=further)


def both_transposed(sae: Dictionary, around: Surroundings) -> Dictionary | None:
    """W_encᵀ and W_decᵀ."""
    turned = encoder_transposed(sae, around)
    return None if turned is None else decoder_transposed(turned, around)


def centre_out(on: bool) -> Make:
    """Of what it writes the mean over d_model is the model's, or its own."""

    def make(sae: Dictionary, around: Surroundings) -> Dictionary | None:
        new = sae.elsewhere and around.norms_subtract_mean and sae.centre_out != on
        return replace(sae, centre_out=on) if new else None

    return make
