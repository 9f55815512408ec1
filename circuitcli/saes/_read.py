"""Dictionaries from files of every layout: what to record of one, and the dictionary itself.

1. Its layout says what the files hold, in SAELens's words, and what each tensor is called there.
2. Check both against each other; fold into the weights what the core has no word for.
3. Add what the release states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from circuitcli import plugins
from circuitcli.core.activations import Activation, tensors
from circuitcli.core.dictionary import Decoder, Dictionary
from circuitcli.core.frame import Frame, Normalisation, centrable
from circuitcli.core.matrix import Matrix, Stored, whole
from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.saes import _weights
from circuitcli.saes._facts import Facts
from circuitcli.saes._files import Files, Stated, digest, stated_site
from circuitcli.saes._spec import Spec, decoder
from circuitcli.saes.layouts import Layout

LAYOUTS = "saes.layouts"

_NORMALISATIONS: dict[str, Normalisation] = {"layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}


def facts(files: Files, *, norms_subtract_mean: bool = True) -> Facts:
    """What there is to record of an SAE, its weights read and checked.

    Args:
        files: Its files.
        norms_subtract_mean: Whether the norms of its model subtract the mean over d_model.

    Raises:
        InputError: The files are missing, corrupt, don't belong together, or are of a kind that isn't supported.
    """
    spec, made, where = _read(files, norms_subtract_mean, thorough=True)
    return replace(_known(made, spec, files.stated, norms_subtract_mean, where), sha256=digest(files))


def sae(files: Files) -> Dictionary:
    """The SAE, in float32 on the CPU, for a model whose norms subtract the mean; its offset is the model's to give.

    Weights stay in the mapped file as far as they are float32 and nothing is folded into them: what isn't used is never
    read. So NaNs are looked for by `facts` alone.

    Raises:
        InputError: As `facts`, but for weights that aren't finite.
    """
    return _read(files, True, thorough=False)[1]


def _made(
    spec: Spec, weights: Mapping[str, Tensor], stated: Stated, norms_subtract_mean: bool, where: str
) -> Dictionary:
    """The dictionary of weights that were checked; `where` is their file."""
    site = stated_site(spec, stated, where)
    w = _weights.folded(weights, spec, stated.scaling_factor, where)
    centred = bool(_centred(spec, stated, site, norms_subtract_mean))
    return Dictionary(
        reads=site,
        writes=_written(spec, site, where),
        activation=_activation(spec, w, where),
        w_enc=w["W_enc"],
        b_enc=w["b_enc"] if spec.kind.biased else torch.zeros(w["W_enc"].shape[1]),
        w_dec=w["W_dec"],
        b_dec=w["b_dec"],
        apply_b_dec_to_input=spec.apply_b_dec_to_input,
        frame=Frame(
            _NORMALISATIONS.get(spec.normalisation, "none"),
            centre=centred and centrable(site, norms_subtract_mean=norms_subtract_mean),
        ),
        w_skip=w.get("W_skip"),
        centre_out=centred and spec.transcodes,
        further=tuple(Decoder(further, w[decoder(further)]) for further in spec.further),
    )


def _known(made: Dictionary, spec: Spec, stated: Stated, norms_subtract_mean: bool, where: str) -> Facts:
    """What there is to record of a dictionary, without sha256."""
    site = made.reads
    centred = _centred(spec, stated, site, norms_subtract_mean)
    return Facts(
        site=site,
        sha256="",
        d_in=made.d_in,
        d_sae=made.d_sae,
        architecture=spec.architecture,
        normalisation=made.frame.normalisation,
        prepend_bos=bool(_first(stated.prepend_bos, spec.prepend_bos)),
        context_size=spec.context_size,
        centre=made.frame.centre,
        centre_stated=centred is not None or (made.frame.normalisation == "layer_norm" and not made.elsewhere),
        fold_value_biases=bool(_first(stated.fold_value_biases, spec.fold_value_biases)) and site.name == "z",
        neuronpedia=spec.neuronpedia,
        writes=made.written,
        skip=made.w_skip is not None,
        normalized=_normalized(spec, stated, norms_subtract_mean, where),
        centre_out=made.centre_out,
    )


def _written(spec: Spec, site: Site, where: str) -> Site:
    """Where it writes: of a transcoder what the MLP of the layer that it reads gives.

    Raises:
        InputError: It is a transcoder of something else.
    """
    if not spec.transcodes:
        return site
    if spec.writes is None:
        raise InputError(
            f"{where} is a transcoder whose configuration names no hook that it writes.",
            hint=f"Its cfg.json needs hook_name_out, such as {Site(site.layer, 'mlp_out').hook}.",
        )
    if site.name not in ("resid_mid", "mlp_in") or spec.writes != Site(site.layer, "mlp_out"):
        raise InputError(
            f"{where} reads {site} and writes {spec.writes}.",
            hint="Supported are transcoders of one MLP: they read mlp_in or resid_mid and write mlp_out of that layer.",
        )
    return spec.writes


def _normalized(spec: Spec, stated: Stated, norms_subtract_mean: bool, where: str) -> bool:
    """Whether it reads what the MLP's norm makes before its gain and bias.

    Raises:
        InputError: Nobody says.
    """
    if stated.normalized is not None:
        return stated.normalized
    if spec.normalized == "unknown" and norms_subtract_mean:
        raise InputError(
            f"{where} reads ln2.hook_normalized, which may be with the weights of LayerNorm or without them.",
            hint="Say fold_ln in model_from_pretrained_kwargs of its cfg.json, or name the hook blocks.L.mlp.hook_in.",
        )
    return spec.normalized in ("yes", "unknown") or (spec.normalized == "rms" and not norms_subtract_mean)


def _centred(spec: Spec, stated: Stated, site: Site, norms_subtract_mean: bool) -> bool | None:
    """Whether it is of a model with centred weights, where that matters; None where it does and nobody says."""
    touched = [site, *([spec.writes] if spec.writes else [])]
    matters = any(centrable(one, norms_subtract_mean=norms_subtract_mean) for one in touched)
    return _first(stated.center_writing_weights, spec.center_writing_weights) if matters else False


def _activation(spec: Spec, weights: Mapping[str, Tensor], where: str) -> Activation:
    made = spec.kind(**spec.numbers, **{name: weights[name] for name in tensors(spec.kind)})
    needed = made.unfit(weights["W_enc"].shape[1])
    if needed is not None:
        has = ", ".join(f"{name} = {value}" for name, value in spec.numbers.items())
        raise InputError(f"{where} has {has}.", hint=f"A {spec.architecture} SAE needs {needed}.")
    return made


def _read(files: Files, norms_subtract_mean: bool, *, thorough: bool) -> tuple[Spec, Dictionary, str]:
    """What its files say, the dictionary, and its file."""
    layout: Layout = plugins.load(LAYOUTS, files.layout)
    held = layout.read(files)
    spec = _stated(held.spec, files.stated)
    finite = thorough and not held.stored
    weights = _weights.checked(held.weights, spec, held.where, finite=finite, lying=held.lies)
    if thorough:
        _refuse_negative(weights, spec, held.where)
        for path, names in held.stored.items():
            _weights.refuse_infinite(path, names)
    made = _made(spec, weights, files.stated, norms_subtract_mean, held.where)
    return spec, _lying(made, weights, spec, held.lies), held.where


def _lying(made: Dictionary, checked: Mapping[str, Tensor], spec: Spec, lies: Mapping[str, Stored]) -> Dictionary:
    """The dictionary with those matrices left in their files into which nothing was folded."""

    def there(key: str, matrix: Matrix) -> Matrix:
        found = lies.get(spec.named(key).name)
        if found is None:
            return matrix
        return found if matrix is checked[key] else whole(matrix).contiguous()

    return replace(
        made,
        w_enc=there("W_enc", made.w_enc),
        w_dec=there("W_dec", made.w_dec),
        further=tuple(one._replace(w_dec=there(decoder(one.site), one.w_dec)) for one in made.further),
    )


def _refuse_negative(weights: Mapping[str, Tensor], spec: Spec, where: str) -> None:
    if spec.unclipped and "threshold" in weights and weights["threshold"].min() < 0:
        raise InputError(
            f"{where} has thresholds below 0, above which activations may be negative.",
            hint="A feature's activation is 0 or more: set them to 0 where they are meant so.",
        )


def _stated(spec: Spec, stated: Stated) -> Spec:
    """What the configuration says, of what its release knows to be a transcoder."""
    if stated.writes is None:
        return spec
    return replace(spec, writes=stated.writes)


def _first(stated: bool | None, said: bool | None) -> bool | None:
    return said if stated is None else stated
