"""dictionary_learning's SAEs: folders with ae.pt, a state dict, and config.json.

`trainer.dict_class` says what the tensors are called and mean:

    AutoEncoder            encoder.weight [d_sae, d_in], encoder.bias, decoder.weight [d_in, d_sae], bias, which is
                           subtracted and added
    AutoEncoderNew         the same with decoder.bias, which is added alone
    AutoEncoderTopK        the same with b_dec, subtracted and added; k; its threshold isn't used
    BatchTopKSAE           the same, and one threshold for all features, which takes k's place once it is trained
    MatryoshkaBatchTopKSAE W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_in], b_dec, threshold
    JumpReluAutoEncoder    the same with a threshold for each feature; b_dec added alone; activations times |W_dec[j]|
    GatedAutoEncoder       encoder.weight, gate_bias, mag_bias, r_mag, decoder.weight, decoder_bias; likewise times
                           |W_dec[j]|

The model is raw. BOS is part of its texts where the tokenizer adds it, which Gemma's and Llama's do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.runtime import foreign
from circuitcli.saes._files import Files, Stated
from circuitcli.saes._place import Located, Place
from circuitcli.saes._spec import Named, Spec
from circuitcli.saes.layouts import Held

if TYPE_CHECKING:
    from torch import Tensor

_CONFIG, _WEIGHTS = "config.json", "ae.pt"
_SITE = re.compile(r"(resid_post|resid_out|resid|mlp_out|mlp|attn_out|attn)_?layer_?(\d{1,9})")
_SITES = {"resid_post": "resid_post", "resid_out": "resid_post", "resid": "resid_post",
          "mlp_out": "mlp_out", "mlp": "mlp_out", "attn_out": "attn_out", "attn": "attn_out"}  # fmt: skip
_WITH_BOS = re.compile("gemma|llama", re.IGNORECASE)


class _Kind(NamedTuple):
    """What a class of theirs is in SAELens's words.

    Attributes:
        architecture: The activation.
        names: Of its tensors.
        subtracts: Whether b_dec is subtracted before encoding.
        rescale: Whether activations are multiplied by the norms of the decoder's rows.
        idle: Tensors that do nothing.
    """

    architecture: str
    names: Mapping[str, Named]
    subtracts: bool
    rescale: bool = False
    idle: tuple[str, ...] = ()


_LINEAR = {"W_enc": Named("encoder.weight", transposed=True), "W_dec": Named("decoder.weight", transposed=True)}
_BIASED = {**_LINEAR, "b_enc": Named("encoder.bias")}
_KINDS = {
    "AutoEncoder": _Kind("standard", {**_BIASED, "b_dec": Named("bias")}, subtracts=True),
    "AutoEncoderNew": _Kind("standard", {**_BIASED, "b_dec": Named("decoder.bias")}, subtracts=False),
    "AutoEncoderTopK": _Kind("topk", _BIASED, subtracts=True, idle=("k", "threshold")),
    "BatchTopKSAE": _Kind("jumprelu", _BIASED, subtracts=True, idle=("k",)),
    "MatryoshkaBatchTopKSAE": _Kind("jumprelu", {}, subtracts=True, idle=("k", "group_sizes")),
    "JumpReluAutoEncoder": _Kind("jumprelu", {}, subtracts=False, rescale=True),
    "GatedAutoEncoder": _Kind(
        "gated",
        {**_LINEAR, "b_gate": Named("gate_bias"), "b_mag": Named("mag_bias"), "b_dec": Named("decoder_bias")},
        subtracts=True,
        rescale=True,
    ),
}


class DictionaryLearning:
    """A folder an SAE."""

    files = f"folders with {_CONFIG} and {_WEIGHTS} (dictionary_learning)"

    def find(self, place: Place) -> list[Located]:
        folders = place.folders(_CONFIG, _WEIGHTS)
        found = []
        for folder, path in zip(folders, place.here([f"{folder}{_CONFIG}" for folder in folders]), strict=True):
            site = _reads(foreign.json_object(path), f"{place.name}/{folder}", str(path))
            weights, config = place.files[f"{folder}{_WEIGHTS}"], place.files[f"{folder}{_CONFIG}"]
            found.append(Located(site, weights, config, Stated(site=site), layout="dictionary-learning"))
        return found

    def read(self, files: Files) -> Held:
        from circuitcli.saes import _pickled

        assert files.config is not None
        said, where = foreign.json_object(files.config), str(files.config)
        trainer, buffer = _part(said, "trainer", where), said.get("buffer") or {}
        kind = _kind(trainer, where)
        weights = _pickled.tensors(files.weights)
        k = weights.get("k")
        tensors = {name: tensor for name, tensor in weights.items() if name not in kind.idle}
        if kind.architecture == "jumprelu":
            tensors["threshold"] = _thresholds(tensors, kind, str(files.weights))
        context = buffer.get("ctx_len") if isinstance(buffer, dict) else None
        spec = Spec(
            site=files.stated.site,
            architecture=kind.architecture,
            numbers={"k": _k(trainer, k, where)} if kind.architecture == "topk" else {},
            d_in=_size(trainer, "activation_dim", where),
            d_sae=_size(trainer, "dict_size", where),
            apply_b_dec_to_input=kind.subtracts,
            rescale=kind.rescale,
            prepend_bos=bool(_WITH_BOS.search(str(trainer.get("lm_name")))),
            context_size=context if type(context) is int and context > 0 else None,
            names=kind.names,
        )
        return Held(spec, tensors, str(files.weights))


def _reads(said: Mapping[str, Any], folder: str, where: str) -> Site:
    """The site that the configuration names, or else the folders that it lies in."""
    trainer, buffer = _part(said, "trainer", where), said.get("buffer")
    _kind(trainer, where)
    named = trainer.get("submodule_name")
    found = _SITE.search(named if isinstance(named, str) else "") or _SITE.search(folder)
    side = buffer.get("io", "out") if isinstance(buffer, dict) else "out"
    if found is None or side != "out":
        what = f"io = {foreign.shown(side)}" if found else f"submodule_name = {foreign.shown(named)}"
        raise InputError(
            f"{where} has {what}, which is no site of this tool.",
            hint="Supported are outputs of modules named resid_post_layer_3, mlp_out_layer_3 or attn_out_layer_3.",
        )
    layer = trainer.get("layer", int(found[2]))
    if layer != int(found[2]):
        raise InputError(
            f"{where} has layer = {foreign.shown(layer)} and is of {found[0]}.", hint="One of the two is wrong."
        )
    return Site(int(found[2]), _SITES[found[1]])


def _kind(trainer: Mapping[str, Any], where: str) -> _Kind:
    name = trainer.get("dict_class")
    if not isinstance(name, str) or name not in _KINDS:
        raise InputError(f"{where} has dict_class = {foreign.shown(name)}.", hint=f"Supported: {', '.join(_KINDS)}.")
    return _KINDS[name]


def _thresholds(tensors: Mapping[str, Tensor], kind: _Kind, where: str) -> Tensor:
    """A threshold for each feature, of one for all or as many."""
    found = tensors.get("threshold")
    if found is None:
        raise InputError(f"{where} has no threshold.", hint="Such an SAE has one, or one for each feature.")
    if found.ndim or not kind.idle:
        return found
    if not found >= 0:
        raise InputError(
            f"{where} has the threshold {found.item():g}: it was never set in training.",
            hint="A BatchTopK SAE needs one in place of k: train it for longer.",
        )
    bias = tensors.get(kind.names.get("b_enc", Named("b_enc")).name)
    return found if bias is None or bias.ndim != 1 else found.expand(len(bias))


def _k(trainer: Mapping[str, Any], stored: Tensor | None, where: str) -> int:
    found = trainer.get("k")
    if type(found) is not int or found < 1:
        raise InputError(f"{where} has k = {foreign.shown(found)}.", hint="It should be a whole number above 0.")
    if stored is not None and (stored.numel() != 1 or int(stored) != found):
        raise InputError(f"{where} has k = {found}, and its weights have {stored.tolist()}.", hint="Get it again.")
    return found


def _size(trainer: Mapping[str, Any], key: str, where: str) -> int | None:
    found = trainer.get(key)
    if found is not None and (type(found) is not int or found < 1):
        raise InputError(f"{where} has {key} = {foreign.shown(found)}.", hint="It should be a whole number above 0.")
    return found


def _part(said: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    found = said.get(key)
    if not isinstance(found, dict):
        raise InputError(f"{where} has {key} = {foreign.shown(found)}.", hint="It should be dictionary_learning's.")
    return found


plugin = DictionaryLearning()
