"""A configuration's answers, each of the kind that it should be, wherever it keeps them.

Since SAELens 6 what concerns the model stands under `metadata`; before, everything stood together. What is asked for is
looked for in the newer place first, then in the older. A value of another kind is refused with its key: a number in
quotation marks or a `yes` isn't what anybody meant to leave out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from circuitcli.core.sites import SITES, Site
from circuitcli.errors import InputError
from circuitcli.runtime.foreign import shown
from circuitcli.saes import _hooks as hooks

_KNOWN = f"Sites: {', '.join(SITES)}."
# SAELens's transcoders, by what stands before that word, and the SAEs of the same activation.
_TRANSCODER = "transcoder"
_TRANSCODERS = {"": "standard", "skip_": "standard", "jumprelu_": "jumprelu", "jumprelu_skip_": "jumprelu"}
_NESTED = ("metadata", "activation_fn_kwargs", "model_from_pretrained_kwargs")


class Said:
    """Answers, None where nothing is said; `where` is the file that they are from."""

    def __init__(self, config: Mapping[str, Any], where: str, *, transcodes: bool = False) -> None:
        """The configuration as it was read.

        Raises:
            InputError: What should be an object in it is none.
        """
        self.where, self._transcodes = where, transcodes
        self._top = {**config, **{key: self._object(config, key) for key in _NESTED}}
        inner = self._top["metadata"]
        self._options = (self._object(inner, "model_from_pretrained_kwargs"), self._top["model_from_pretrained_kwargs"])

    @property
    def parts(self) -> list[Mapping[str, Any]]:
        """Everything that is said, of each object in it."""
        return [self._top, self._top["metadata"], self._top["activation_fn_kwargs"], *self._options]

    def flag(self, key: str) -> bool | None:
        """True or false."""
        return self._flag(key, self._get(key))

    def number(self, key: str) -> int | None:
        """A whole number above 0."""
        return self._number(key, self._get(key))

    def text(self, key: str) -> str | None:
        """Characters that can be shown."""
        found = self._get(key)
        if found is not None and not (isinstance(found, str) and found.isprintable()):
            self._wrong(key, found, "a text")
        return found

    def option(self, key: str) -> bool | None:
        """With what option TransformerLens loaded the model that the SAE was trained on."""
        found = [self._flag(key, options.get(key)) for options in self._options]
        return found[1] if found[0] is None else found[0]

    def hook(self) -> str | None:
        """The hook that it reads, by its newer or older name."""
        return self.text("hook_name") or self.text("hook_point")

    def hook_out(self) -> str | None:
        """The hook that a transcoder writes, by its newer or older name."""
        return self.text("hook_name_out") or self.text("out_hook_point")

    def site(self) -> Site | None:
        """Where it reads.

        Raises:
            InputError: The hook is no site.
        """
        hook = self.hook()
        return None if hook is None else self._site(hook, hooks.read(hook, self.text("hf_hook_name")))

    def writes(self) -> Site | None:
        """Where a transcoder writes.

        Raises:
            InputError: The hook is no site.
        """
        hook = self.hook_out()
        return None if hook is None else self._site(hook, hooks.written(hook))

    def activation(self) -> str:
        """Before SAELens 6, TopK was a standard SAE with another activation function."""
        return self.text("activation_fn_str") or self.text("activation_fn") or "relu"

    def transcodes(self) -> bool:
        """Whether it is a transcoder: as is known, by its architecture's name, or by the flag that there was before."""
        if self._transcodes:
            return True
        name = self.text("architecture") or ""
        return name.removesuffix(_TRANSCODER) in _TRANSCODERS if name.endswith(_TRANSCODER) else self.processed()

    def skips(self) -> bool:
        """Whether a transcoder has a skip connection."""
        return "skip_" in (self.text("architecture") or "") and self.transcodes()

    def processed(self) -> bool:
        """Whether it is of the first library of transcoders, whose models were processed by TransformerLens."""
        return self.flag("is_transcoder") or False

    def architecture(self) -> str:
        """SAELens's word for the kind of SAE; of a transcoder that of an SAE with the same activation."""
        name = self.text("architecture") or "standard"
        if name.endswith(_TRANSCODER) and self.transcodes():
            return _TRANSCODERS[name.removesuffix(_TRANSCODER)]
        return "topk" if name == "standard" and self.activation() == "topk" else name

    def normalisation(self) -> str:
        """What was done to activations; once a flag, for the only kind there was."""
        found = self._get("normalize_activations")
        if isinstance(found, bool):
            return "expected_average_only_in" if found else "none"
        return self.text("normalize_activations") or "none"

    def own(self, key: str, kind: type) -> int | float | None:
        """A number of the activation's own: a whole one above 0, or any that is finite."""
        inner = self._top["activation_fn_kwargs"].get(key)
        found = self._get(key) if inner is None else inner
        return self._number(key, found) if kind is int else self._real(key, found)

    def refuse(self, what: str, *, hint: str) -> NoReturn:
        """Say what is wrong with the file."""
        raise InputError(f"{self.where} {what}", hint=hint)

    def _site(self, hook: str, found: Site | None) -> Site:
        if found is None:
            self.refuse(f"names the hook {shown(hook)}, which is no site of this tool.", hint=_KNOWN)
        return found

    def _get(self, key: str) -> Any:
        """From the metadata, else from beside it."""
        found = self._top["metadata"].get(key)
        return self._top.get(key) if found is None else found

    def _object(self, place: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        found = place.get(key)
        if found is not None and not isinstance(found, Mapping):
            self.refuse(f"isn't a SAELens configuration: it has {key} = {shown(found)}.", hint="Get the SAE again.")
        return found or {}

    def _flag(self, key: str, found: Any) -> bool | None:
        if found is not None and not isinstance(found, bool):
            self._wrong(key, found, "true or false")
        return found

    def _number(self, key: str, found: Any) -> int | None:
        if found is not None and (type(found) is not int or found < 1):
            self._wrong(key, found, "a whole number above 0")
        return found

    def _real(self, key: str, found: Any) -> float | None:
        if found is not None and (type(found) not in (int, float) or not abs(found) < float("inf")):
            self._wrong(key, found, "a finite number")
        return None if found is None else float(found)

    def _wrong(self, key: str, found: Any, expected: str) -> NoReturn:
        self.refuse(f"has {key} = {shown(found)}.", hint=f"It should be {expected}.")
