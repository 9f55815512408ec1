"""SAEs from files of every format: what to record of one, and the SAE itself.

1. Read the configuration: SAELens's `cfg.json`, hook-z-kk's `…_cfg.json`, or what a `.pt` file holds with its weights.
2. Read the weights, from safetensors or a `.pt` file.
3. Check both against each other; fold into the weights what the core has no word for.
4. Add what the release states.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from circuitcli.core.activations import Activation, tensors
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.frame import Frame, Normalisation, centrable
from circuitcli.errors import InputError
from circuitcli.saes import _pickled, _saelens, _weights
from circuitcli.saes._facts import Facts
from circuitcli.saes._files import Files, Stated, digest, stated_site

_NORMALISATIONS: dict[str, Normalisation] = {"layer_norm": "layer_norm", "constant_norm_rescale": "constant_norm"}


def facts(files: Files, *, norms_subtract_mean: bool = True) -> Facts:
    """What there is to record of an SAE, its weights read and checked.

    Args:
        files: Its files.
        norms_subtract_mean: Whether the norms of its model subtract the mean over d_model.

    Raises:
        InputError: The files are missing, corrupt, don't belong together, or are of a kind that isn't supported.
    """
    return replace(_read(files, norms_subtract_mean, thorough=True)[0], sha256=digest(files))


def sae(files: Files) -> Dictionary:
    """The SAE, in float32 on the CPU, for a model whose norms subtract the mean; its offset is the model's to give.

    Weights stay in the mapped file as far as they are float32 and nothing is folded into them: what isn't used is never
    read. So NaNs are looked for by `facts` alone.

    Raises:
        InputError: As `facts`, but for weights that aren't finite.
    """
    return _read(files, True, thorough=False)[1]


def _made(
    spec: _saelens.Spec, weights: Mapping[str, Tensor], stated: Stated, norms_subtract_mean: bool, where: str
) -> tuple[Facts, Dictionary]:
    """Facts, without sha256, and SAE, of weights that were checked; `where` is their file."""
    site = stated_site(spec, stated, where)
    w = _weights.folded(weights, spec, stated.scaling_factor, where)
    normalisation = _NORMALISATIONS.get(spec.normalisation, "none")
    centred = _centring(spec, stated, centrable(site, norms_subtract_mean=norms_subtract_mean))
    made = Dictionary(
        reads=site,
        writes=site,
        activation=_activation(spec, w, where),
        w_enc=w["W_enc"],
        b_enc=w["b_enc"] if spec.kind.biased else torch.zeros(w["W_enc"].shape[1]),
        w_dec=w["W_dec"],
        b_dec=w["b_dec"],
        apply_b_dec_to_input=spec.apply_b_dec_to_input,
        frame=Frame(normalisation, centre=bool(centred)),
    )
    known = Facts(
        site=site,
        sha256="",
        d_in=made.d_in,
        d_sae=made.d_sae,
        architecture=spec.architecture,
        normalisation=normalisation,
        prepend_bos=bool(_first(stated.prepend_bos, spec.prepend_bos)),
        context_size=spec.context_size,
        centre=made.frame.centre,
        centre_stated=centred is not None or normalisation == "layer_norm",
        fold_value_biases=bool(_first(stated.fold_value_biases, spec.fold_value_biases)) and site.name == "z",
        neuronpedia=spec.neuronpedia,
    )
    return known, made


def _centring(spec: _saelens.Spec, stated: Stated, matters: bool) -> bool | None:
    """Whether the mean is taken from what it reads; None where that matters and nobody says."""
    return _first(stated.center_writing_weights, spec.center_writing_weights) if matters else False


def _activation(spec: _saelens.Spec, weights: Mapping[str, Tensor], where: str) -> Activation:
    made = spec.kind(**spec.numbers, **{name: weights[name] for name in tensors(spec.kind)})
    needed = made.unfit(weights["W_enc"].shape[1])
    if needed is not None:
        has = ", ".join(f"{name} = {value}" for name, value in spec.numbers.items())
        raise InputError(f"{where} has {has}.", hint=f"A {spec.architecture} SAE needs {needed}.")
    return made


def _read(files: Files, norms_subtract_mean: bool, *, thorough: bool) -> tuple[Facts, Dictionary]:
    given = None if files.config is None else _saelens.read_config(files.config)
    inside: Mapping[str, Any] | None = None
    if files.weights.suffix == ".pt":
        inside, weights = _pickled.read(files.weights)
    else:
        weights = _weights.read(files.weights)
    config = given if given is not None else inside
    if config is None:
        raise InputError(f"{files.weights} has no configuration.", hint="It needs a cfg.json beside it.")
    spec = _saelens.spec(config, str(files.config or files.weights))
    where = str(files.weights)
    return _made(
        spec, _weights.checked(weights, spec, where, finite=thorough), files.stated, norms_subtract_mean, where
    )


def _first(stated: bool | None, said: bool | None) -> bool | None:
    return said if stated is None else stated
