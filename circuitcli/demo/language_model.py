"""The demo's language model: a four-layer GPT-2 trained with AdamW and Muon on rows of one stream.

Next-token cross-entropy, in nats. Matrices inside the blocks are stepped by Muon (Jordan et al. 2024: momentum,
orthogonalised), everything else by AdamW (Loshchilov & Hutter 2019). The rate warms up linearly over the first 3% of
the steps and falls along a cosine to 2% of its peak. Embeddings are tied, there is no dropout.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from circuitcli.demo.corpus import BOS, BOS_ID, Stream, draw_rows


@dataclass(frozen=True)
class Shape:
    """The size of the model: blocks, width of the residual stream, attention heads, context in tokens, vocabulary."""

    layers: int = 4
    width: int = 128
    heads: int = 4
    context: int = 128
    vocabulary: int = 4096


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: optimiser steps, rows a step, peak learning rate (of Muon's matrices too), weight decay.

    Where `minutes` would be over first, the rate falls sooner, so that training still ends well (but the result then
    depends on the machine's speed).
    """

    steps: int
    minutes: float = math.inf
    rows: int = 32
    rate: float = 4e-3
    decay: float = 0.1


def build(shape: Shape, seed: int) -> GPT2LMHeadModel:
    """A freshly initialised model, float32."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=shape.vocabulary,
        n_positions=shape.context,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=BOS_ID,
        eos_token_id=BOS_ID,
        pad_token_id=BOS_ID,
    )
    return GPT2LMHeadModel(config)


def backward(model: GPT2LMHeadModel, rows: Tensor, chunk: int = 4) -> float:
    """Add the gradients of the mean next-token cross-entropy of rows int64 [n, t]; returns it, in nats.

    The unembedding is done `chunk` rows at a time, so that the logits [n·t, vocabulary] never exist as a whole.
    """
    inputs, targets = rows[:, :-1], rows[:, 1:]
    hidden = model.transformer(inputs, attention_mask=torch.ones_like(inputs), use_cache=False).last_hidden_state
    leaf = hidden.detach().requires_grad_()
    total = 0.0
    for i in range(0, len(rows), chunk):
        logits = model.lm_head(leaf[i : i + chunk]).flatten(0, 1)
        loss = functional.cross_entropy(logits, targets[i : i + chunk].flatten(), reduction="sum") / targets.numel()
        loss.backward()
        total += loss.item()
    hidden.backward(leaf.grad)
    return total


def train(
    model: GPT2LMHeadModel, streams: Sequence[Stream], schedule: Schedule, seed: int, report: Callable[[str], None]
) -> None:
    """Train the model in place. `streams` are re-shuffled copies of one corpus, taken in turn."""
    generator = torch.Generator().manual_seed(seed)
    optimisers = _optimisers(model, schedule)
    context = model.config.n_positions
    for block in model.transformer.h:
        block.mlp.act = nn.GELU(approximate="tanh")  # gelu_new as one kernel: the same function, much faster
    started, total, counted = time.monotonic(), 0.0, 0
    model.train()
    for step in range(schedule.steps):
        seconds = time.monotonic() - started
        done = max(step / schedule.steps, seconds / (60 * schedule.minutes))
        if done >= 1:
            break
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate * _rate(done)
        rows = draw_rows(streams[step % len(streams)], schedule.rows, context, generator)
        loss = backward(model, rows)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        total, counted = total + loss, counted + 1
        if (step + 1) % 200 == 0 or step + 1 == schedule.steps:
            report(
                f"language model: step {step + 1}/{schedule.steps}, loss {total / counted:.3f} nats, {seconds:.0f} s"
            )
            total, counted = 0.0, 0
    model.eval()


def save(model: GPT2LMHeadModel, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the transformers checkpoint: float16 safetensors, config, a fast GPT-2 tokenizer that adds no BOS."""
    model.half().save_pretrained(folder)
    fast = GPT2Tokenizer(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        unk_token=BOS,
        pad_token=BOS,
        model_max_length=model.config.n_positions,
    )
    fast.save_pretrained(folder)


def load(folder: Path) -> GPT2LMHeadModel:
    """The checkpoint as shipped, its float16 numbers held in float32."""
    model = GPT2LMHeadModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    assert isinstance(model, GPT2LMHeadModel)
    return model.eval()


def _optimisers(model: GPT2LMHeadModel, schedule: Schedule) -> list[torch.optim.Optimizer]:
    inside = [p for name, p in model.named_parameters() if ".h." in name and p.ndim == 2]
    known = {id(p) for p in inside}
    outside = [p for p in model.parameters() if id(p) not in known and p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": outside, "weight_decay": schedule.decay}, {"params": vectors, "weight_decay": 0.0}]
    muon = torch.optim.Muon(
        inside, lr=schedule.rate, weight_decay=schedule.decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    return [torch.optim.AdamW(groups, lr=schedule.rate, betas=(0.9, 0.98)), muon]


def _rate(done: float, warm: float = 0.03, floor: float = 0.02) -> float:
    """The share of the peak rate at `done` in [0, 1] of the steps."""
    if done < warm:
        return (done + 1e-3) / (warm + 1e-3)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm)))
