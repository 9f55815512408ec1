"""SAELens folders: cfg.json beside sae_weights.safetensors, as SAELens 6 writes them and as older versions did."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from circuitcli.core.sae import Sae
from circuitcli.core.sites import SITES, Site
from circuitcli.errors import InputError
from circuitcli.saes import SaeEntry

_HOOK = re.compile(r"^blocks\.(\d+)\.(?:attn\.)?hook_([a-z_]+)$")
_ACTIVATIONS = {"standard": "relu", "topk": "topk", "jumprelu": "jumprelu"}
_NESTED = ("metadata", "activation_fn_kwargs", "model_from_pretrained_kwargs")
_NORMALISATIONS = ("none", "layer_norm")


def discover(root: Path) -> dict[Site, Path]:
    """The SAELens folders in a folder, or the folder itself, by the site that each one's cfg.json names.

    Raises:
        InputError: There is none, or two read the same site.
    """
    found: dict[Site, Path] = {}
    for cfg in sorted([*root.glob("cfg.json"), *root.glob("*/cfg.json")]):
        site = _site(_config(cfg.parent), cfg)
        if site in found:
            raise InputError(
                f"Two SAEs in {root} read {site}: {found[site].name} and {cfg.parent.name}.",
                hint="Give a folder with one SAE a site.",
            )
        found[site] = cfg.parent
    if not found:
        raise InputError(
            f"There is no SAE in {root}.", hint="It needs folders with a cfg.json and an sae_weights.safetensors each."
        )
    return found


def entry(site: Site, folder: Path) -> SaeEntry:
    """What there is to record of an SAE; its weights are read once and checked."""
    config = _config(folder)
    sae = _sae(site, folder, config)
    metadata = config["metadata"]
    return SaeEntry(
        layer=site.layer,
        site=site.name,
        source=str(folder.resolve() / "sae_weights.safetensors"),
        revision=None,
        sha256=_digest(folder),
        d_in=sae.d_in,
        d_sae=sae.d_sae,
        architecture=_architecture(config),
        prepend_bos=bool(metadata.get("prepend_bos", config.get("prepend_bos", True))),
        centre=sae.centre,
        centre_stated="center_writing_weights" in _model_options(config),
    )


def load(recorded: SaeEntry) -> Sae:
    """The SAE of an entry, if its files are still those that were recorded."""
    folder = Path(recorded.source).parent
    try:
        unchanged = _digest(folder) == recorded.sha256
    except OSError:
        unchanged = False
    if not unchanged:
        raise InputError(
            f"The SAE at {recorded.at} isn't the one that was recorded: {folder} changed.",
            hint="Run `circuit fetch-saes --force` on this run.",
        )
    return _sae(recorded.at, folder, _config(folder))


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "cfg.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can't be read: {error}.", hint="Get the SAE again.") from None
    if not isinstance(config, dict) or not all(isinstance(config.get(key) or {}, dict) for key in _NESTED):
        raise InputError(f"{path} isn't a SAELens configuration.", hint="Get the SAE again.")
    return config | {key: config.get(key) or {} for key in _NESTED}


def _site(config: dict[str, Any], path: Path) -> Site:
    metadata = config["metadata"]
    hook = str(metadata.get("hook_name") or config.get("hook_name") or config.get("hook_point"))
    found = _HOOK.match(hook)
    if found is None or found[2] not in SITES:
        raise InputError(
            f"{path} names the hook {hook!r}, which is no site of this tool.", hint=f"Sites: {', '.join(SITES)}."
        )
    return Site(int(found[1]), found[2])


def _model_options(config: dict[str, Any]) -> dict[str, Any]:
    """With what options TransformerLens loaded the model that the SAE was trained on."""
    found = config["metadata"].get("model_from_pretrained_kwargs") or config["model_from_pretrained_kwargs"]
    return found if isinstance(found, dict) else {}


def _architecture(config: dict[str, Any]) -> str:
    """The architecture; before SAELens 6, TopK was a standard SAE with another activation function."""
    name = str(config.get("architecture", "standard"))
    old_topk = config.get("activation_fn_str", config.get("activation_fn")) == "topk"
    return "topk" if name == "standard" and old_topk else name


def _sae(site: Site, folder: Path, config: dict[str, Any]) -> Sae:
    architecture = _architecture(config)
    normalisation = config.get("normalize_activations") or "none"
    _supported(folder, architecture, normalisation, config)
    weights = _weights(folder / "sae_weights.safetensors", architecture)
    k = config.get("k", config["activation_fn_kwargs"].get("k"))
    if architecture == "topk" and (not isinstance(k, int) or not 1 <= k <= weights["W_enc"].shape[1]):
        raise InputError(f"The SAE in {folder} has k = {k!r}.", hint="Its cfg.json must give k between 1 and d_sae.")
    return Sae(
        site=site,
        activation=_ACTIVATIONS[architecture],  # type: ignore[arg-type]
        w_enc=weights["W_enc"],
        b_enc=weights["b_enc"],
        w_dec=weights["W_dec"],
        b_dec=weights["b_dec"],
        threshold=weights.get("threshold"),
        k=k if architecture == "topk" else None,
        apply_b_dec_to_input=bool(config.get("apply_b_dec_to_input", True)),
        normalisation="layer_norm" if normalisation == "layer_norm" else "none",
        centre=bool(_model_options(config).get("center_writing_weights", False)) and site.name != "z",
    )


def _supported(folder: Path, architecture: str, normalisation: str, config: dict[str, Any]) -> None:
    known = ", ".join(_ACTIVATIONS)
    if architecture not in _ACTIVATIONS:
        raise InputError(f"The SAE in {folder} is a {architecture} SAE.", hint=f"Supported architectures: {known}.")
    if normalisation not in _NORMALISATIONS:
        raise InputError(
            f"The SAE in {folder} normalises its input by {normalisation}.",
            hint=f"Supported normalisations: {', '.join(_NORMALISATIONS)}.",
        )
    if config.get("rescale_acts_by_decoder_norm"):
        raise InputError(
            f"The SAE in {folder} rescales activations by decoder norms.", hint="Fold the norms into its weights first."
        )


def _weights(path: Path, architecture: str) -> dict[str, Tensor]:
    """The weights in float32, of matching shapes and finite."""
    names = ["W_enc", "b_enc", "W_dec", "b_dec", *(["threshold"] if architecture == "jumprelu" else [])]
    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name).float() for name in names}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} can't be read: {error}.", hint="Get the SAE again.") from None
    if weights["W_enc"].ndim != 2:
        raise InputError(f"{path}: W_enc isn't a matrix.", hint="It should be [d_in, d_sae].")
    d_in, d_sae = weights["W_enc"].shape
    shapes = {
        "W_enc": (d_in, d_sae),
        "b_enc": (d_sae,),
        "W_dec": (d_sae, d_in),
        "b_dec": (d_in,),
        "threshold": (d_sae,),
    }
    for name, tensor in weights.items():
        if tuple(tensor.shape) != shapes[name]:
            raise InputError(f"{path}: {name} has shape {tuple(tensor.shape)}.", hint=f"It should be {shapes[name]}.")
        if not torch.isfinite(tensor).all():
            raise InputError(f"{path}: {name} has NaN or infinite values.", hint="Get the SAE again.")
    return weights


def _digest(folder: Path) -> str:
    """sha256 over the hashes of the configuration and the weights."""
    digest = hashlib.sha256()
    for name in ("cfg.json", "sae_weights.safetensors"):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
