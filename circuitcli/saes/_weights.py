"""An SAE's tensors: read, checked, and folded until they need no convention but the core's.

    scaling_factor f      activations are multiplied by f before decoding     W_dec ← f·W_dec
    expected average s    the SAE sees s·x, and what it says is divided by s   W_enc ← s·W_enc, W_dec ← W_dec/s,
                                                                               b_dec ← b_dec/s
    shift c               a transcoder sees x − c                              b_enc ← b_enc − c·W_enc
    decoder norms n       activations are n times what they were, and decode along rows of norm 1
                                                       W_enc ← W_enc·n, b_enc ← b_enc·n, W_dec ← W_dec/n,
                                                       threshold ← threshold·n; gated: r_mag ← r_mag + log n,
                                                       b_mag ← b_mag·n

The second comes before the last, as in SAELens: s changes the norms.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from statistics import mode
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from circuitcli.errors import InputError
from circuitcli.runtime.foreign import ordinary, shown, why
from circuitcli.saes._spec import SHIFT, Spec, decoder
from circuitcli.saes._stored import DTYPES

_SCALING = ("scaling_factor", "finetuning_scaling_factor")  # in files, and as SAELens's loader renames it
# Numbers of fewer bits stand for others by scales that no SAE's file has a place for.
_PART = 1 << 26  # bytes
_SHOWN = 5
_SMALLEST_NORM = 1e-8  # SAELens's


def read(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, mapped; or of an .npz file.

    Raises:
        InputError: It can't be read.
    """
    ordinary(path, hint="Get the SAE again.")
    if path.suffix == ".npz":
        return _arrays(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 it isn't a mapping
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} can't be read: {why(error)}.", hint="Get the SAE again.") from None


def _arrays(path: Path) -> dict[str, Tensor]:
    """Every array of numbers in an archive of numpy's, as Gemma Scope has them."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: torch.from_numpy(file[name]) for name in file.files}
    except (OSError, ValueError, TypeError, BadZipFile) as error:
        raise InputError(f"{path} can't be read: {why(error)}.", hint="Get it again.") from None


def checked(
    weights: Mapping[str, Tensor], spec: Spec, where: str, *, finite: bool, lying: Collection[str] = ()
) -> dict[str, Tensor]:
    """The tensors that the architecture has and no others, in float32, of matching shapes and, if asked, finite.

    Those of the names in `lying`, which are read where they lie, are as they are there.

    Raises:
        InputError: They aren't.
    """
    needed = _needed(spec)
    names = [spec.named(name).name for name in needed]
    hint = f"A {spec.architecture} {spec.word} has {', '.join(names)}."
    for name in names:
        if name not in weights:
            raise InputError(f"{where} has no {name}.", hint=hint)
    for name in weights:
        if name not in (*names, *_SCALING):
            raise InputError(f"{where} has {name!r}, which isn't of a {spec.architecture} {spec.word}.", hint=hint)
    ours = {name: weights[spec.named(name).name] for name in needed}
    ours |= {name: weights[name] for name in _SCALING if name in weights}
    shapes = _shapes(ours, spec, where)
    for key, tensor in ours.items():
        name, turned = spec.named(key)
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in DTYPES.values():
            raise InputError(
                f"{where}: {name} isn't a plain tensor of floats, but of {str(tensor.dtype).removeprefix('torch.')}.",
                hint="Supported: float64, float32, float16 and bfloat16.",
            )
        shape = shapes[key][::-1] if turned else shapes[key]
        if tuple(tensor.shape) != shape:
            raise InputError(f"{where}: {name} has shape {tuple(tensor.shape)}.", hint=f"It should be {shape}.")
        if finite and not torch.isfinite(tensor).all():
            raise InputError(f"{where}: {name} has NaN or infinite values.", hint="Get the SAE again.")
    ours = {key: tensor.T if spec.named(key).transposed else tensor for key, tensor in ours.items()}
    return {key: tensor if spec.named(key).name in lying else _kept(tensor, key, spec) for key, tensor in ours.items()}


def _kept(tensor: Tensor, key: str, spec: Spec) -> Tensor:
    """A tensor in float32 and in order; of a transcoder's decoder what its file has, so that it may stay there.

    A per-layer one that lies the other way round is put in order: asking for its rows would read all of it each time.
    """
    decodes = spec.transcodes and key.startswith("W_dec")
    if not decodes:
        return tensor.float().contiguous()
    return tensor if spec.further or key != "W_dec" else tensor.contiguous()


def one(weights: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    """The tensor of that name, in a file that has no other.

    Raises:
        InputError: It isn't so.
    """
    if set(weights) != {name}:
        has = ", ".join(map(shown, sorted(weights)[:_SHOWN])) or "nothing"
        raise InputError(f"{where} should hold {name} alone; it holds {has}.", hint="Get it again.")
    return weights[name]


def refuse_infinite(path: Path, names: Collection[str]) -> None:
    """Look through tensors of a safetensors file part by part: no page of it stays in memory, as it would if mapped.

    Raises:
        InputError: One has NaN or infinite values.
    """
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()
        for name in names:
            dtype = DTYPES.get(header[name]["dtype"])
            if dtype is None:
                continue
            begin, end = header[name]["data_offsets"]
            file.seek(start + begin)
            while begin < end:
                part = bytearray(min(_PART, end - begin))
                begin += file.readinto(part)
                if not torch.frombuffer(part, dtype=dtype).isfinite().all():
                    raise InputError(f"{path}: {name} has NaN or infinite values.", hint="Get the SAE again.")


def _needed(spec: Spec) -> tuple[str, ...]:
    """The tensors that a dictionary has, by SAELens's names."""
    more = [*(["W_skip"] if spec.skip else []), *([SHIFT] if SHIFT in spec.names else []), *map(decoder, spec.further)]
    return ("W_enc", "W_dec", "b_dec", *spec.tensors, *more)


def _shapes(ours: Mapping[str, Tensor], spec: Spec, where: str) -> dict[str, tuple[int, ...]]:
    """The shape that each tensor should have, by the configuration where it says it, else by what most of them have."""
    w_enc, (name, turned) = ours["W_enc"], spec.named("W_enc")
    if w_enc.ndim != 2 or not w_enc.numel():
        axes = "[d_sae, d_in]" if turned else "[d_in, d_sae]"
        raise InputError(f"{where}: {name} isn't a matrix.", hint=f"It should be {axes}, neither of them 0.")
    rows, columns = w_enc.shape[::-1] if turned else w_enc.shape
    decoded = ours["W_dec"].shape[::-1] if spec.named("W_dec").transposed else ours["W_dec"].shape
    features = [columns, *(ours[key].shape[0] for key in spec.tensors if ours[key].ndim == 1), *decoded[:1]]
    d_sae = spec.d_sae or mode(features)
    d_in = spec.d_in or mode([rows, *ours["b_dec"].shape[:1], *decoded[1:]])
    d_out = (spec.d_out or d_in) if spec.transcodes else d_in
    vectors = dict.fromkeys((*spec.tensors, *_SCALING), (d_sae,))
    matrices = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_out), "W_skip": (d_out, d_in)}
    decoders = dict.fromkeys(map(decoder, spec.further), (d_sae, d_out))
    return {**matrices, **decoders, "b_dec": (d_out,), SHIFT: (d_in,), **vectors}


def folded(weights: Mapping[str, Tensor], spec: Spec, factor: float | None, where: str) -> dict[str, Tensor]:
    """The tensors after all foldings of the module's docstring, where the configuration asks for them.

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
        w["W_enc"] = w["W_enc"] * factor
        if not spec.transcodes:  # what another site has is as it is
            w["W_dec"], w["b_dec"] = w["W_dec"] / factor, w["b_dec"] / factor
    if SHIFT in w:
        w["b_enc"] = w["b_enc"] - w.pop(SHIFT) @ w["W_enc"]
    if spec.rescale:
        norms = w["W_dec"].norm(dim=-1).clamp(min=_SMALLEST_NORM)
        w["W_dec"] = w["W_dec"] / norms.unsqueeze(-1)
        if "r_mag" in w:  # a gate stays where it opens
            w["r_mag"], w["b_mag"] = w["r_mag"] + norms.log(), w["b_mag"] * norms
        else:
            w |= {key: w[key] * norms for key in ("W_enc", "b_enc", "threshold") if key in w}
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
