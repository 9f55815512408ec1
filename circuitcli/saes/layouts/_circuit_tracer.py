"""What circuit-tracer's config.yaml says, of its sets of transcoders and of its cross-layer ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from circuitcli import plain_yaml
from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.runtime.foreign import ordinary, shown, why
from circuitcli.saes import _hooks
from circuitcli.saes._spec import Normalized

CONFIG = "config.yaml"
KINDS = ("transcoder_set", "cross_layer_transcoder")
_HINT = f"It should name feature_input_hook, feature_output_hook and model_kind: {' or '.join(KINDS)}."


@dataclass(frozen=True)
class Config:
    """A config.yaml.

    Attributes:
        where: The file, for messages.
        kind: One of `KINDS`; None of a file that isn't circuit-tracer's.
        said: All of it.
    """

    where: str
    kind: str | None
    said: dict[Any, Any]

    def reads(self, layer: int) -> Site:
        """Where the dictionary of a layer reads."""
        return self._site("feature_input_hook", layer)

    def writes(self, layer: int) -> Site:
        """Where those of a layer write."""
        return self._site("feature_output_hook", layer)

    @property
    def normalized(self) -> Normalized:
        """The model's weights are raw and its hooks HookedTransformer's: of RMS norm without its gain; see `_hooks`."""
        return "rms" if _hooks.normalized(self.hook("feature_input_hook")) else "no"

    def hook(self, key: str) -> str:
        """The name of a hook within its block."""
        found = self.said.get(key)
        if not isinstance(found, str):
            raise InputError(f"{self.where} has {key} = {shown(found)}.", hint=_HINT)
        return found

    def _site(self, key: str, layer: int) -> Site:
        hook = f"blocks.{layer}.{self.hook(key)}"
        found = _hooks.read(hook) if key == "feature_input_hook" else _hooks.written(hook)
        if found is None:
            raise InputError(
                f"{self.where} names the {key} {shown(self.said[key])}, which is no site of this tool.",
                hint="Transcoders read mlp.hook_in, ln2.hook_normalized or hook_resid_mid, and write hook_mlp_out.",
            )
        return found


def config(path: Path) -> Config:
    """What a config.yaml says.

    Raises:
        InputError: It can't be read, isn't YAML, or names another kind of set.
    """
    try:
        text = ordinary(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can't be read: {why(error)}.", hint="Get it again.") from None
    holds, example = "configuration of transcoders", f"model_kind: {KINDS[0]}"
    said = plain_yaml.load(text, str(path), holds=holds, example=example, error=InputError)
    kind = said.get("model_kind")
    if kind is not None and kind not in KINDS:
        raise InputError(f"{path} has model_kind = {shown(kind)}.", hint=f"Supported: {', '.join(KINDS)}.")
    return Config(str(path), kind, said)
