"""From the last stream to logits, through the causal model's own head: whatever it scales, caps or adds.

The model's `forward` is called with its body stood in for: the body gives the normed stream at once. Only the product
with the unembedding is ours, since rows that begin at multiples of `_ALIGNED` floats take two thirds of the time where
a vocabulary is odd, as GPT-2's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_ALIGNED = 64


def body(model: Any, n_layers: int) -> tuple[torch.nn.Module, torch.nn.ModuleList]:
    """The module of a model of transformers that holds its list of blocks, and the list.

    Raises:
        LookupError: There is no list of so many blocks.
    """
    for module in model.modules():
        for child in module.children():
            if isinstance(child, torch.nn.ModuleList) and len(child) == n_layers:
                return module, child
    raise LookupError(f"it has no list of {n_layers} blocks")


class _Body(tuple[Tensor]):
    """What a body gives: its last stream, by its place or its name, and None by any other name."""

    __slots__ = ()

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        return None


class Head:
    """What a bridged model does behind its last block."""

    def __init__(self, bridge: Any, n_layers: int) -> None:
        self._model = bridge.original_model
        self._body, _ = body(self._model, n_layers)
        self._norm = bridge.ln_final
        self._unembed = bridge.unembed.original_component
        bias = getattr(self._unembed, "bias", None)
        self._bias = (
            bias if bias is not None and bool(bias.any()) else None
        )  # the bridge adds zeros where there is none

    def __call__(self, final: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """Logits of rows of the last stream, float32. Gradients pass."""
        x = self._norm(final.unsqueeze(0))
        with _standing_in(self._body, lambda *_, **__: _Body((x,))):
            if type(self._unembed) is not torch.nn.Linear:
                return self._forward(x)
            with _standing_in(self._model.get_output_embeddings(), self._product):
                return self._forward(x)

    def unembedded(self, final: Float[Tensor, "n d"]) -> Float[Tensor, "n v"]:
        """What the unembedding makes of these rows, before anything is scaled or capped; float32. Gradients pass."""
        out: Tensor = self._unembed(self._norm(final.unsqueeze(0)))
        return out[0].float()

    def _forward(self, x: Float[Tensor, "1 n d"]) -> Float[Tensor, "n v"]:
        logits: Tensor = self._model(inputs_embeds=x, use_cache=False).logits
        return logits[0].float()

    def _product(self, x: Float[Tensor, "1 n d"]) -> Float[Tensor, "1 n v"]:
        weight, bias = self._unembed.weight, self._bias
        if torch.is_grad_enabled() and x.requires_grad:
            return torch.nn.functional.linear(x, weight, bias)
        width = weight.shape[0]
        out = torch.empty(x.shape[1], -(-width // _ALIGNED) * _ALIGNED, dtype=x.dtype, device=x.device)[:, :width]
        torch.mm(x[0], weight.T, out=out)
        return (out if bias is None else out.add_(bias)).unsqueeze(0)


@contextmanager
def _standing_in(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """While it lasts, calling the module calls `forward`. The bridge passes plain assignments on to what it wraps."""
    object.__setattr__(module, "forward", forward)
    try:
        yield
    finally:
        object.__delattr__(module, "forward")
