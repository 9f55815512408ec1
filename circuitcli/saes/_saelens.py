"""What an SAE's configuration says: SAELens's since 6.0 and before it, and that of hook-z-kk.

Since 6.0 what concerns the model stands under `metadata`; before, everything stood together under names of its own
(`hook_point`, `activation_fn_str`, …), and what was left out had a default. Both are read the same way here: the newer
place first, then the older, then the default. The SAEs of hook-z-kk have a configuration of another kind (`act_name`),
whose SAEs are all alike. What no reader here knows is refused by name: nothing that would change the numbers is passed
over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from circuitcli.core.sites import SITES, Site, parse_hook
from circuitcli.errors import InputError

ARCHITECTURES = ("standard", "topk", "jumprelu", "gated")
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale", "expected_average_only_in")
_RESHAPES = ("none", "hook_z")
_NESTED = ("metadata", "activation_fn_kwargs", "model_from_pretrained_kwargs")


@dataclass(frozen=True)
class Spec:
    """What a configuration says, in SAELens's words.

    Attributes:
        site: Where the SAE reads; None where it names no hook.
        architecture: One of `ARCHITECTURES`.
        normalisation: One of `NORMALISATIONS`.
        d_in, d_sae: Its widths, where it gives them.
        k: Of topk.
        apply_b_dec_to_input: Whether b_dec is subtracted before encoding.
        rescale: Whether features are chosen, and their activations given, as if the decoder's rows had norm 1.
        finetuned: Whether activations are multiplied by the weights' `scaling_factor` before decoding.
        prepend_bos: Whether it was trained on sequences that start with BOS.
        center_writing_weights: Whether it was trained on a stream whose mean was removed; None where it doesn't say.
        fold_value_biases: Whether it was trained on a z from which the values' biases had been moved away.
        context_size: The length of those sequences, where it gives it.
        neuronpedia: Its name on Neuronpedia, where it gives it.
    """

    site: Site | None
    architecture: str
    normalisation: str
    d_in: int | None
    d_sae: int | None
    k: int | None
    apply_b_dec_to_input: bool
    rescale: bool
    finetuned: bool
    prepend_bos: bool
    center_writing_weights: bool | None
    fold_value_biases: bool
    context_size: int | None
    neuronpedia: str | None


def read_config(path: Path) -> dict[str, Any]:
    """A configuration in JSON.

    Raises:
        InputError: It can't be read, or isn't an object.
    """
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read: {error}.", hint="Get the SAE again.") from None
    if not isinstance(config, dict):
        _no_configuration(str(path))
    return config


def spec(config: Mapping[str, Any], where: str) -> Spec:
    """What a configuration says.

    Args:
        config: As it was read; before SAELens 6, since, or of hook-z-kk.
        where: The file that it is from, for messages.

    Raises:
        InputError: It isn't a configuration of an SAE, or of one that isn't supported, or names a hook that is no site.
    """
    said = _Said(config, where)
    rescale = said.flag("rescale_acts_by_decoder_norm", default=False)
    found = Spec(
        site=said.site(),
        architecture=said.architecture(),
        normalisation=said.normalisation(),
        d_in=said.number("d_in"),
        d_sae=said.number("d_sae"),
        k=said.k(),
        apply_b_dec_to_input=said.flag("apply_b_dec_to_input", default=True),
        rescale=rescale,
        finetuned=said.flag("finetuning_scaling_factor", default=False),
        prepend_bos=said.flag("prepend_bos", default=True),
        center_writing_weights=said.model_option("center_writing_weights"),
        fold_value_biases=said.model_option("fold_value_biases") or False,
        context_size=said.number("context_size"),
        neuronpedia=said.text("neuronpedia_id"),
    )
    said.check()
    # Of the SAEs that SAELens saves for inference only TopK's keep the word; where it stands, it was never folded.
    if rescale and found.architecture != "topk":
        _refuse(
            f"{where} rescales activations by decoder norms in a {found.architecture} SAE.",
            hint="Only a topk SAE can say so: fold the norms into the weights of another first.",
        )
    return found


class _Said:
    """A configuration's answers, wherever it keeps them; `where` is its file."""

    def __init__(self, config: Mapping[str, Any], where: str) -> None:
        said = _of_hook_z_kk(config, where) if "act_name" in config else config
        nested = {key: said.get(key) or {} for key in _NESTED}
        if not all(isinstance(value, Mapping) for value in nested.values()):
            _no_configuration(where)
        self.config: Mapping[str, Any] = {**said, **nested}
        self.where = where

    def get(self, key: str) -> Any:
        """From the metadata, else from beside it."""
        found = self.config["metadata"].get(key)
        return self.config.get(key) if found is None else found

    def flag(self, key: str, *, default: bool) -> bool:
        found = self.get(key)
        if not isinstance(found, bool | None):
            _refuse(f"{self.where} has {key} = {found!r}.", hint="It should be true or false.")
        return default if found is None else found

    def number(self, key: str) -> int | None:
        found = self.get(key)
        return found if isinstance(found, int) else None

    def text(self, key: str) -> str | None:
        found = self.get(key)
        return found if isinstance(found, str) else None

    def site(self) -> Site | None:
        hook = self.get("hook_name") or self.get("hook_point")
        if hook is None:
            return None
        found = parse_hook(str(hook))
        if found is None:
            _refuse(
                f"{self.where} names the hook {hook!r}, which is no site of this tool.",
                hint=f"Sites: {', '.join(SITES)}.",
            )
        return found

    def activation(self) -> str:
        """Before SAELens 6, TopK was a standard SAE with another activation function."""
        return str(self.get("activation_fn_str") or self.get("activation_fn") or "relu")

    def architecture(self) -> str:
        name = str(self.get("architecture") or "standard")
        return "topk" if name == "standard" and self.activation() == "topk" else name

    def normalisation(self) -> str:
        found = self.get("normalize_activations")
        if found is None or found is False:
            return "none"
        return "expected_average_only_in" if found is True else str(found)  # once a flag, for the only kind there was

    def k(self) -> int | None:
        found = self.config["activation_fn_kwargs"].get("k", self.get("k"))
        if self.architecture() != "topk":
            return None
        if not isinstance(found, int) or found < 1:
            _refuse(f"{self.where} has k = {found!r}.", hint="A topk SAE needs k between 1 and d_sae.")
        return found

    def model_option(self, key: str) -> bool | None:
        """With what option TransformerLens loaded the model that the SAE was trained on."""
        for place in (self.config["metadata"], self.config):
            options = place.get("model_from_pretrained_kwargs")
            found = options.get(key) if isinstance(options, Mapping) else None
            if isinstance(found, bool):
                return found
        return None

    def check(self) -> None:
        """Refuse by name what isn't supported."""
        architecture, activation = self.architecture(), self.activation()
        reshape = str(self.get("reshape_activations") or "none")
        if architecture in ("batchtopk", "matryoshka_batchtopk"):
            _refuse(
                f"{self.where} is of a {architecture} SAE in training.",
                hint="SAELens saves it for use with save_inference_model, as a jumprelu SAE.",
            )
        for word, found, known in (
            ("architecture", architecture, ARCHITECTURES),
            ("activation function", activation, ("topk", "relu") if architecture == "topk" else ("relu",)),
            ("normalisation", self.normalisation(), NORMALISATIONS),
            ("reshaping of activations", reshape, _RESHAPES),
        ):
            if found not in known:
                _refuse(f"{self.where}: the {word} {found!r} isn't supported.", hint=f"Supported: {', '.join(known)}.")
        if self.config["activation_fn_kwargs"].get("signed"):
            _refuse(f"{self.where}: signed activations aren't supported.", hint="A feature's activation is 0 or more.")
        if self.get("hook_head_index") is not None or self.get("hook_point_head_index") is not None:
            _refuse(f"{self.where} reads a single head.", hint="Only SAEs of all heads together are supported.")
        if self.model_option("fold_value_biases") and not self.model_option("fold_ln"):
            _refuse(
                f"{self.where}: the model's value biases were folded and its LayerNorm was not.",
                hint="Both or neither are supported.",
            )


def _of_hook_z_kk(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The configuration of an SAE of hook-z-kk in SAELens's words.

    They are all ReLU SAEs of z that subtract b_dec, trained on TransformerLens's processed model, which they don't say.
    """
    if not str(config["act_name"]).endswith("hook_z"):
        _refuse(
            f"{where} names the hook {config['act_name']!r} in the format of hook-z-kk.", hint="It is known for z only."
        )
    return {
        "hook_name": config["act_name"],
        "d_in": config.get("act_size"),
        "d_sae": config.get("dict_size"),
        "context_size": config.get("seq_len"),
        "model_from_pretrained_kwargs": {"fold_ln": True, "fold_value_biases": True, "center_writing_weights": True},
    }


def _no_configuration(where: str) -> NoReturn:
    _refuse(f"{where} isn't a SAELens configuration.", hint="Get the SAE again.")


def _refuse(message: str, *, hint: str) -> NoReturn:
    raise InputError(message, hint=hint)
