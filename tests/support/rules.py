"""The second route to passes with constants: plain transformers, with the rules written out by hand.

Nothing here is circuitcli's: torch hooks on transformers' own modules, whose formulas are written out for each family.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from support.families import Hf

CENTRED = ("gpt2", "neox")  # LayerNorm; the others RMSNorm, Gemma's with 1 + w
UNGATED = ("gpt2", "neox")


@dataclass(frozen=True, eq=False)
class Clean:
    """Of a clean pass: what each norm divides by, and each block's pattern."""

    scales: dict[Any, Tensor]
    patterns: tuple[Tensor, ...]


def norms(hf: Hf) -> list[Any]:
    return [module for module in hf.model.modules() if "Norm" in type(module).__name__]


def _less_mean(hf: Hf, x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True) if hf.family in CENTRED else x


def _scale(hf: Hf, norm: Any, x: Tensor) -> Tensor:
    eps = next(getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name))
    return (_less_mean(hf, x).pow(2).mean(-1, keepdim=True) + eps).sqrt()


def clean(hf: Hf, tokens: Tensor) -> Clean:
    scales: dict[Any, Tensor] = {}
    with ExitStack() as hooks, torch.no_grad():
        for norm in norms(hf):
            note = lambda module, args: scales.__setitem__(module, _scale(hf, module, args[0]))  # noqa: E731
            hooks.enter_context(_kept(norm.register_forward_pre_hook(note)))
        patterns = hf.model(tokens, use_cache=False, output_attentions=True).attentions
    return Clean(scales, patterns)


@contextmanager
def held_norms(hf: Hf, at: Clean) -> Iterator[None]:
    """y = g ⊙ (x − mean) / (clean scale) + b."""

    def held(module: Any, args: tuple[Tensor], out: Tensor) -> Tensor:
        gain = 1 + module.weight if hf.family == "gemma2" else module.weight
        y = _less_mean(hf, args[0]) / at.scales[module] * gain
        return y + module.bias if hf.family in CENTRED else y

    with ExitStack() as hooks:
        for norm in norms(hf):
            hooks.enter_context(_kept(norm.register_forward_hook(held)))
        yield


@contextmanager
def held_patterns(hf: Hf, at: Clean) -> Iterator[None]:
    """z = clean pattern · values, of GPT-2 and Llama."""
    with ExitStack() as hooks:
        for block, pattern in zip(hf.blocks, at.patterns, strict=True):
            values: list[Tensor] = []
            attention = block.attn if hf.family == "gpt2" else block.self_attn
            if hf.family == "gpt2":
                note = lambda m, a, out, v=values: v.append(out.split(out.shape[-1] // 3, -1)[2])  # noqa: E731
                hooks.enter_context(_kept(attention.c_attn.register_forward_hook(note)))
            else:
                note = lambda m, a, out, v=values: v.append(out)  # noqa: E731
                hooks.enter_context(_kept(attention.v_proj.register_forward_hook(note)))

            def z(module: Any, args: tuple[Tensor], v: list[Tensor] = values, p: Tensor = pattern) -> tuple[Tensor]:
                width = args[0].shape[-1] // p.shape[1]
                heads = v.pop().unflatten(-1, (-1, width)).transpose(1, 2)
                heads = heads.repeat_interleave(p.shape[1] // heads.shape[1], 1)
                return ((p @ heads).transpose(1, 2).flatten(2),)

            projection = attention.c_proj if hf.family == "gpt2" else attention.o_proj
            hooks.enter_context(_kept(projection.register_forward_pre_hook(z)))
        yield


class _Secant(torch.autograd.Function):
    """act(z), whose slope is act(z) / z."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(value / z)
        return value.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.saved_tensors[0], None


class _Half(torch.autograd.Function):
    """x, and half of its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad / 2


@contextmanager
def relp_mlps(hf: Hf) -> Iterator[None]:
    with ExitStack() as hooks:
        for block in hf.blocks:
            act = block.mlp.act if hf.family in UNGATED else block.mlp.act_fn
            secant = lambda m, args, out: _Secant.apply(args[0], out.detach())  # noqa: E731
            hooks.enter_context(_kept(act.register_forward_hook(secant)))
            if hf.family not in UNGATED:
                for factor in (act, block.mlp.up_proj):
                    half = lambda m, args, out: _Half.apply(out)  # noqa: E731
                    hooks.enter_context(_kept(factor.register_forward_hook(half)))
        yield


@contextmanager
def _kept(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
