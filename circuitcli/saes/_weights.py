"""An SAE's tensors: read, checked, and folded until they need no convention but the core's.

    scaling_factor f      activations are multiplied by f before decoding     W_dec ← f·W_dec
    expected average s    the SAE sees s·x, and what it says is divided by s   W_enc ← s·W_enc, W_dec ← W_dec/s,
                                                                               b_dec ← b_dec/s
    decoder norms n       activations are n times what they were, and decode along rows of norm 1
                                                       W_enc ← W_enc·n, b_enc ← b_enc·n, W_dec ← W_dec/n

The middle one comes before the last, as in SAELens: s changes the norms.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from circuitcli.errors import InputError
from circuitcli.runtime.foreign import ordinary, why
from circuitcli.saes._saelens import Spec

_SCALING = ("scaling_factor", "finetuning_scaling_factor")  # in files, and as SAELens's loader renames it
# Numbers of fewer bits stand for others by scales that no SAE's file has a place for.
_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_SMALLEST_NORM = 1e-8  # SAELens's


def read(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file.

    Raises:
        InputError: It can't be read.
    """
    ordinary(path, hint="Get the SAE again.")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it isn't a mapping
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} can't be read: {why(error)}.", hint="Get the SAE again.") from None


def checked(weights: Mapping[str, Tensor], spec: Spec, where: str, *, finite: bool) -> dict[str, Tensor]:
    """The tensors that the architecture has and no others, in float32, of matching shapes and, if asked, finite.

    Raises:
        InputError: They aren't.
    """
    needed = ("W_enc", "W_dec", "b_dec", *spec.tensors)
    for name in needed:
        if name not in weights:
            raise InputError(f"{where} has no {name}.", hint=f"A {spec.architecture} SAE has {', '.join(needed)}.")
    for name in weights:
        if name not in (*needed, *_SCALING):
            raise InputError(
                f"{where} has {name!r}, which isn't of a {spec.architecture} SAE.",
                hint=f"A {spec.architecture} SAE has {', '.join(needed)}.",
            )
    shapes = _shapes(weights["W_enc"], spec, where)
    ours = {name: weights[name] for name in (*needed, *_SCALING) if name in weights}
    for name, tensor in ours.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in _DTYPES:
            raise InputError(
                f"{where}: {name} isn't a plain tensor of floats, but of {str(tensor.dtype).removeprefix('torch.')}.",
                hint="Supported: float64, float32, float16 and bfloat16.",
            )
        if tuple(tensor.shape) != shapes[name]:
            raise InputError(f"{where}: {name} has shape {tuple(tensor.shape)}.", hint=f"It should be {shapes[name]}.")
        if finite and not torch.isfinite(tensor).all():
            raise InputError(f"{where}: {name} has NaN or infinite values.", hint="Get the SAE again.")
    return {name: tensor.float().contiguous() for name, tensor in ours.items()}


def _shapes(w_enc: Tensor, spec: Spec, where: str) -> dict[str, tuple[int, ...]]:
    """The shape that each tensor should have, by the configuration where it says it, else by W_enc."""
    if w_enc.ndim != 2 or not w_enc.numel():
        raise InputError(f"{where}: W_enc isn't a matrix.", hint="It should be [d_in, d_sae], neither of them 0.")
    d_in, d_sae = spec.d_in or w_enc.shape[0], spec.d_sae or w_enc.shape[1]
    features = dict.fromkeys((*spec.tensors, *_SCALING), (d_sae,))
    return {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,), **features}


def folded(weights: Mapping[str, Tensor], spec: Spec, factor: float | None, where: str) -> dict[str, Tensor]:
    """The tensors after all three foldings of the module's docstring, where the configuration asks for them.

    Args:
        weights: As checked.
        spec: What the configuration says.
        factor: s, which no file holds: a release says it.
        where: The file, for messages.

    Raises:
        InputError: A factor is missing, or is there and not expected.
    """
    w = dict(weights)
    for name in _SCALING:
        _scale(w, w.pop(name, None), spec, where)
    if spec.normalisation == "expected_average_only_in":
        if factor is None:
            # What SAELens saves after training has the factor folded in and says `none`. A file that still says this is
            # of an SAE in training, or one whose factor is kept elsewhere: without it every activation would be wrong.
            raise InputError(
                f"{where} was trained on activations times a factor that it doesn't say (expected_average_only_in).",
                hint="Fold the factor into its weights (SAELens: fold_activation_norm_scaling_factor) and save it.",
            )
        w["W_enc"], w["W_dec"], w["b_dec"] = w["W_enc"] * factor, w["W_dec"] / factor, w["b_dec"] / factor
    if spec.rescale:
        norms = w["W_dec"].norm(dim=-1).clamp(min=_SMALLEST_NORM)
        w["W_enc"], w["b_enc"], w["W_dec"] = w["W_enc"] * norms, w["b_enc"] * norms, w["W_dec"] / norms.unsqueeze(-1)
    return w


def _scale(w: dict[str, Tensor], scaling: Tensor | None, spec: Spec, where: str) -> None:
    """Fold `scaling_factor`, which SAELens saved for a time whether it was used, as ones, or not."""
    if scaling is None or torch.allclose(scaling, torch.ones_like(scaling)):
        return
    if not spec.finetuned:
        raise InputError(
            f"{where} has a scaling_factor, and its configuration says that it isn't used.",
            hint="If it is, set finetuning_scaling_factor to true in the configuration.",
        )
    w["W_dec"] = w["W_dec"] * scaling.unsqueeze(-1)
