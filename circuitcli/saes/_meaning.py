"""What makes another thing of a dictionary than an SAE of one site and of whole sequences, by the names it goes by.

Training libraries write all that they were told into a configuration, and most of it changes nothing once the weights
are there: learning rates, losses, noise and ghost gradients in training, buffers, names of projects. Such keys are
passed over, known or not. The keys here change what the weights mean, and no reader of this tool has a word for them:
each is refused by its name unless its value says that there is nothing to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.runtime.foreign import shown


@dataclass(frozen=True)
class Reads:
    """What the rest of the configuration says, which a second mention may repeat."""

    hook: str | None
    site: Site | None
    d_in: int | None
    context_size: int | None
    hook_out: str | None = None
    transcodes: bool = False
    skips: bool = False


def refuse(said: Mapping[str, Any], reads: Reads, where: str) -> None:
    """Refuse a configuration, or the part of one, by the first key that changes the meaning.

    Raises:
        InputError: There is one.
    """
    for key, value in said.items():
        rule = next((rule for rule in _RULES if rule.names.fullmatch(str(key))), None)
        if rule is not None and not rule.means_nothing(value, reads):
            raise InputError(f"{where} has {key} = {shown(value)}: {rule.what}.", hint=rule.hint)


@dataclass(frozen=True)
class _Rule:
    """Keys of one kind.

    Attributes:
        names: They match it whole; of several kinds the first counts.
        what, hint: What they make of the dictionary, and what is supported.
        means_nothing: Whether a value leaves the dictionary what it would be without the key.
    """

    names: re.Pattern[str]
    what: str
    hint: str
    means_nothing: Callable[[Any, Reads], bool]


def _off(value: Any, reads: Reads) -> bool:
    return value is None or value is False


def _transcoder(value: Any, reads: Reads) -> bool:
    return _off(value, reads) or (value is True and reads.transcodes)


def _skip(value: Any, reads: Reads) -> bool:
    return _off(value, reads) or (value is True and reads.skips)


def _unset(value: Any, reads: Reads) -> bool:
    return value is None


def _unscaled(value: Any, reads: Reads) -> bool:
    return value is None or (type(value) in (int, float) and value == 1)


def _nowhere_else(value: Any, reads: Reads) -> bool:
    known = [hook for hook in (reads.hook, reads.hook_out) if hook is not None]
    return value in (None, "", []) or value in known or any(value == [hook] for hook in known)


def _same_layer(value: Any, reads: Reads) -> bool:
    return value is None or (type(value) is int and reads.site is not None and value == reads.site.layer)


def _same_width(value: Any, reads: Reads) -> bool:
    return value is None or (type(value) is int and value == reads.d_in)


def _whole_sequence(value: Any, reads: Reads) -> bool:
    """Start, stop and step of a slice over positions, or its stop alone."""
    if value is None:
        return True
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 3:
        return False
    parts = slice(*value)
    return parts.start in (None, 0) and parts.stop in (None, reads.context_size) and parts.step in (None, 1)


_ONE_SITE = "Supported are SAEs, which write to the site that they read, and transcoders of one MLP."
_SCALED = "Fold the factor into its weights, and leave the key out."

_RULES = tuple(
    _Rule(re.compile(names), what, hint, means_nothing)
    for names, what, hint, means_nothing in (
        (r"is_transcoder|transcode", "it is no SAE", "A transcoder of SAELens has an architecture of that name.",
         _transcoder),
        (r"\w*(?:transcod|crosscod|cross_layer)\w*", "it is no SAE", _ONE_SITE, _off),
        (r"(?:use_|has_)?skip(?:_connection)?", "its input is added to what it writes",
         "A skip transcoder has a tensor W_skip, and an architecture of that name.", _skip),
        (r"\w*layer_out|out_hook\w*_layer", "it writes to another layer", _ONE_SITE, _same_layer),
        (r"(?:hook|hook_point)_head_index(?:_out)?", "it reads a single head", "Supported are SAEs of all heads "
         "together.", _unset),
        (r"\w*hook\w*_out|out(?:put)?_hook\w*|feature_output_hook|hook_names", "it writes to another site, or reads "
         "several", _ONE_SITE, _nowhere_else),
        (r"d_out", "it writes another width than it reads", _ONE_SITE, _same_width),
        (r"seqpos_slice", "it was trained on some positions of each sequence", "Supported are SAEs of whole sequences.",
         _whole_sequence),
        (r"signed", "its activations may be negative", "A feature's activation is 0 or more.", _off),
        (r"(?:jump_?relu_|log_jumprelu_|topk_)?threshold", "a threshold belongs to its weights",
         "A jumprelu SAE has a tensor `threshold`.", _unset),
        (r"norm_activation", "it names its normalisation in words of another library",
         "Say normalize_activations in SAELens's words.", _off),
        (r"scaling_factor|activation_normalization_factor|norm(?:alization)?_scaling_factor",
         "its activations are scaled", _SCALED, _unscaled),
        (r"refactor_factored_attn_matrices", "it was trained on a z whose heads were rotated",
         "Train it on the model without that option.", lambda value, reads: value is None or value is False
         or (reads.site is not None and reads.site.name != "z")),
    )
)  # fmt: skip
