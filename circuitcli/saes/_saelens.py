"""What an SAE's configuration says: SAELens's since 6.0 and before it, and that of hook-z-kk.

Before 6.0 some keys had names of their own (`hook_point`, `activation_fn_str`, …), and what was left out had a default.
Both are read the same way here: the newer place and name first, then the older, then the default. The SAEs of hook-z-kk
have a configuration of another kind (`act_name`), whose SAEs are all alike. What would change the numbers and isn't
supported is refused by name; see `_meaning`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from circuitcli import plugins
from circuitcli.errors import InputError
from circuitcli.runtime import foreign
from circuitcli.saes import _hooks, _meaning
from circuitcli.saes._said import Said
from circuitcli.saes._spec import ACTIVATIONS, SHIFT, Named, Normalized, Spec, kind_of

NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale", "expected_average_only_in")
_RESHAPES = ("none", "hook_z")
# Of the first transcoders, which subtracted b_dec as SAEs do, and had another bias for what they write.
_WITH_TWO_BIASES = {SHIFT: Named("b_dec"), "b_dec": Named("b_dec_out")}


def read_config(path: Path) -> dict[str, Any]:
    """A configuration in JSON.

    Raises:
        InputError: It can't be read, or isn't an object.
    """
    return foreign.json_object(path, hint="Get the SAE again.")


def spec(config: Mapping[str, Any], where: str, *, transcodes: bool = False) -> Spec:
    """What a configuration says.

    Args:
        config: As it was read; before SAELens 6, since, or of hook-z-kk.
        where: The file that it is from, for messages.
        transcodes: Whether it is known to be of a transcoder, which SAELens had no word for before 6.

    Raises:
        InputError: It isn't a configuration of an SAE, or of one that isn't supported, or names a hook that is no site.
    """
    said = Said(_of_hook_z_kk(config, where) if "act_name" in config else config, where, transcodes=transcodes)
    architecture = _architecture(said)
    found = Spec(
        site=said.site(),
        architecture=architecture,
        normalisation=said.normalisation(),
        d_in=said.number("d_in"),
        d_sae=said.number("d_sae"),
        numbers=_numbers(said, architecture),
        apply_b_dec_to_input=said.flag("apply_b_dec_to_input") is not False and not said.transcodes(),
        rescale=said.flag("rescale_acts_by_decoder_norm") or False,
        finetuned=said.flag("finetuning_scaling_factor") or False,
        prepend_bos=said.flag("prepend_bos") is not False and not said.processed(),
        center_writing_weights=True if said.processed() else said.option("center_writing_weights"),
        fold_value_biases=said.option("fold_value_biases") or False,
        context_size=said.number("context_size"),
        neuronpedia=said.text("neuronpedia_id"),
        writes=said.writes() if said.transcodes() else None,
        transcodes=said.transcodes(),
        skip=said.skips(),
        normalized=_normalized(said),
        d_out=said.number("d_out"),
        names=_WITH_TWO_BIASES if said.processed() else {},
    )
    _check(said, found)
    hook_out = said.hook_out() if found.transcodes else None
    reads = _meaning.Reads(
        said.hook(), found.site, found.d_in, found.context_size, hook_out, found.transcodes, found.skip
    )
    for part in said.parts:
        _meaning.refuse({key: value for key, value in part.items() if key not in found.numbers}, reads, where)
    return found


def _architecture(said: Said) -> str:
    """The architecture, which must be one that there is."""
    found = said.architecture()
    if found in ("batchtopk", "matryoshka_batchtopk"):
        said.refuse(
            f"is of a {found} SAE in training.",
            hint="SAELens saves it for use with save_inference_model, as a jumprelu SAE.",
        )
    _known(said, "architecture", found, plugins.names(ACTIVATIONS))
    return found


def _normalized(said: Said) -> Normalized:
    """Whether it reads what the MLP's norm makes before its gain and bias; see `_hooks`."""
    site, folded = said.site(), said.option("fold_ln")
    if site is None or site.name != "mlp_in":
        return "no"
    if folded or said.processed():
        return "yes"
    if not _hooks.normalized(said.hook()):
        return "no"
    return "unknown" if folded is None else "rms"


def _numbers(said: Said, architecture: str) -> dict[str, int | float]:
    """The numbers that the architecture's activation takes."""
    from circuitcli.core.activations import numbers

    found = {name: said.own(name, kind) for name, kind in numbers(kind_of(architecture)).items()}
    for name, value in found.items():
        if value is None:
            said.refuse(f"has {name} = None.", hint=f"A {architecture} SAE needs {name}.")
    return {name: value for name, value in found.items() if value is not None}


def _known(said: Said, word: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        said.refuse(
            f"has the {word} {foreign.shown(value)}, which isn't supported.", hint=f"Supported: {', '.join(known)}."
        )


def _check(said: Said, found: Spec) -> None:
    """Refuse by name what isn't supported."""
    own = () if found.architecture == "standard" else (found.architecture,)
    _known(said, "activation function", said.activation(), (*own, "relu"))
    _known(said, "normalisation", found.normalisation, NORMALISATIONS)
    _known(said, "reshaping of activations", said.text("reshape_activations") or "none", _RESHAPES)
    if found.transcodes and said.flag("apply_b_dec_to_input"):
        said.refuse(
            "subtracts b_dec, which a transcoder adds to what it writes, from what it reads.",
            hint="Fold what is subtracted into b_enc, and set apply_b_dec_to_input to false.",
        )
    if found.fold_value_biases and not said.option("fold_ln"):
        said.refuse(
            "was trained on a model whose value biases were folded and whose LayerNorm was not.",
            hint="Both or neither are supported.",
        )
    # Of the SAEs that SAELens saves for inference only TopK's keep the word; where it stands, it was never folded.
    if found.rescale and not found.kind.rescaled:
        said.refuse(
            f"rescales activations by decoder norms in a {found.architecture} SAE.",
            hint="Only a topk SAE can say so: fold the norms into the weights of another first.",
        )


def _of_hook_z_kk(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The configuration of an SAE of hook-z-kk in SAELens's words.

    They are all ReLU SAEs of z that subtract b_dec, trained on TransformerLens's processed model, which they don't say.
    """
    if not str(config["act_name"]).endswith("hook_z"):
        raise InputError(
            f"{where} names the hook {foreign.shown(config['act_name'])} in the format of hook-z-kk.",
            hint="It is known for z only.",
        )
    return {
        "hook_name": config["act_name"],
        "d_in": config.get("act_size"),
        "d_sae": config.get("dict_size"),
        "context_size": config.get("seq_len"),
        "model_from_pretrained_kwargs": {"fold_ln": True, "fold_value_biases": True, "center_writing_weights": True},
    }
