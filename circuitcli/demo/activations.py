"""Activations of the language model at the three sites, read with ordinary forward hooks.

`resid_post` is what a block returns, `attn_out` and `mlp_out` what its two halves add to the stream.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

SITES = ("attn_out", "mlp_out", "resid_post")


@dataclass(frozen=True, order=True)
class Place:
    """One site of one block."""

    layer: int
    site: str

    @property
    def hook(self) -> str:
        """TransformerLens's name of the place, which is also the folder of its dictionary."""
        return f"blocks.{self.layer}.hook_{self.site}"


def places(layers: int) -> list[Place]:
    """Every site of every block, in the order in which the model computes them."""
    return [Place(layer, site) for layer in range(layers) for site in SITES]


def _module(model: GPT2LMHeadModel, place: Place) -> nn.Module:
    block = model.transformer.h[place.layer]
    found = {"attn_out": block.attn, "mlp_out": block.mlp, "resid_post": block}[place.site]
    assert isinstance(found, nn.Module)
    return found


@contextmanager
def hooked(model: GPT2LMHeadModel, place: Place, edit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Within the block, `edit` sees each activation [n, t, d_in] at the place and may return another in its stead."""

    def hook(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:
        if isinstance(output, Tensor):
            return edit(output)
        edited = edit(output[0])
        return None if edited is None else (edited, *output[1:])

    handle = _module(model, place).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def harvest(model: GPT2LMHeadModel, rows: Tensor, where: Sequence[Place]) -> dict[Place, Tensor]:
    """The activations [n, t, d_in] of rows int64 [n, t] at each place. The unembedding is not run."""
    seen: dict[Place, Tensor] = {}
    with ExitStack() as stack:
        for place in where:
            stack.enter_context(hooked(model, place, lambda x, place=place: seen.__setitem__(place, x)))  # type: ignore[misc]
        model.transformer(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False)
    return seen
