"""Activations of the language model at its sites, read with ordinary forward hooks.

`resid_post` is what a block returns, `attn_out` and `mlp_out` what its two halves add to the stream, `mlp_in` what the
second of them reads: the norm's output, with its gain and bias.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from transformers import GPT2LMHeadModel

from circuitcli.core.sites import Site
from circuitcli.demo.corpus import BOS_ID, Stream, draw_rows

SITES = ("attn_out", "mlp_out", "resid_post")


def sites(layers: int) -> list[Site]:
    """Every site with an autoencoder, in the order in which the model computes them."""
    return [Site(layer, name) for layer in range(layers) for name in SITES]


def _module(model: GPT2LMHeadModel, site: Site) -> nn.Module:
    block = model.transformer.h[site.layer]
    found = {"attn_out": block.attn, "mlp_in": block.ln_2, "mlp_out": block.mlp, "resid_post": block}[site.name]
    assert isinstance(found, nn.Module)
    return found


@contextmanager
def hooked(model: GPT2LMHeadModel, site: Site, edit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Within the block, `edit` sees each activation [n, t, d_in] at the site and may return another in its stead."""

    def hook(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> object:
        if isinstance(output, Tensor):
            return edit(output)
        edited = edit(output[0])
        return None if edited is None else (edited, *output[1:])

    handle = _module(model, site).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def harvest(model: GPT2LMHeadModel, rows: Tensor, where: Sequence[Site]) -> dict[Site, Tensor]:
    """The activations [n, t, d_in] of rows int64 [n, t] at each site. The unembedding is not run."""
    seen: dict[Site, Tensor] = {}
    with ExitStack() as stack:
        for site in where:
            stack.enter_context(hooked(model, site, lambda x, site=site: seen.__setitem__(site, x)))  # type: ignore[misc]
        model.transformer(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False)
    return seen


def text_activations(
    model: GPT2LMHeadModel, stream: Stream, count: int, where: Sequence[Site], generator: torch.Generator
) -> dict[Site, Tensor]:
    """Activations float32 [n, d_in] at each site, of `count` fresh rows without their BOS tokens."""
    rows = draw_rows(stream, count, model.config.n_positions, generator)
    text = rows != BOS_ID
    return {site: x[text] for site, x in harvest(model, rows, where).items()}
