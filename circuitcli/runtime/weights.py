"""A model's weights in transformers: from its files, or random ones; and how many there are."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM
from transformers.activations import NewGELUActivation

from circuitcli.core.shape import BlockSizes
from circuitcli.core.words import amount
from circuitcli.runtime import headers, model_files
from circuitcli.runtime.checkpoint import Checkpoint
from circuitcli.runtime.device import Runtime
from circuitcli.runtime.quiet import silent_transformers
from circuitcli.runtime.unfit import model_errors, unfit

# Others give hooks no attention scores, and some drop Gemma's soft cap.
ATTENTION = "eager"
_ATTENTION_OUT = re.compile(r"\.(?:c_proj|o_proj|dense)\.")


def load(checkpoint: Checkpoint, runtime: Runtime) -> Any:
    """The model in transformers, with every weight from its files.

    Raises:
        InputError: They are damaged, lack a tensor, or have it in another shape: transformers would fill it in at
            random.
    """
    config = checkpoint.config()
    tensors = headers.read(checkpoint.name, model_files.weights(checkpoint.name, checkpoint.folder))
    headers.check(checkpoint.name, config, tensors, attention=ATTENTION)
    with model_errors(checkpoint.name), silent_transformers():
        model, said = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            config=config,
            dtype=runtime.dtype,
            attn_implementation=ATTENTION,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    model.config.architectures = [type(model).__name__]  # what it is, and not what its configuration says
    beyond = sorted(key for key in said["unexpected_keys"] if headers.layer_of(key) >= checkpoint.shape.n_layers)
    if beyond:
        raise unfit(
            checkpoint.name,
            f"its config.json says {amount(checkpoint.shape.n_layers, 'layer')}, its weights go on: {_some(beyond)}",
        )
    missing = sorted(said["missing_keys"])
    if missing:
        raise unfit(checkpoint.name, f"its weights lack {_some(missing)}")
    mismatched = sorted(str(key[0] if isinstance(key, tuple) else key) for key in said["mismatched_keys"])
    if mismatched:
        raise unfit(checkpoint.name, f"its config.json gives other sizes than its weights to {_some(mismatched)}")
    return model.to(runtime.device).eval()


def _some(names: Sequence[str], shown: int = 3) -> str:
    """The first names, and how many there are beyond them."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{', '.join(names[:shown])}{more}"


def random(config: Any, runtime: Runtime, *, attention: str | None = None) -> Any:
    """A model of that configuration whose weights are drawn, as transformers draws them before training.

    They are drawn in float32 and rounded, so that a seed gives the same in each precision and on each device.
    """
    own = copy.deepcopy(config)  # it is the model's from here on: the kind of attention is written into it
    model = AutoModelForCausalLM.from_config(own, attn_implementation=attention, dtype=torch.float32)
    for parameter in model.parameters():  # and not buffers: some stay in float32 whatever a model's precision
        parameter.data = parameter.data.to(runtime.dtype)
    model.config.dtype = runtime.dtype
    return model.to(runtime.device).eval()


def bare(checkpoint: Checkpoint, runtime: Runtime) -> Callable[[Tensor], Tensor]:
    """The pass of transformers itself over a checkpoint: from tokens to logits."""
    with silent_transformers():
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            config=checkpoint.config(),
            dtype=runtime.dtype,
            trust_remote_code=False,
            local_files_only=True,
        )
    return forward(model.to(runtime.device).eval())


def forward(model: Any) -> Callable[[Tensor], Tensor]:
    """The pass of a model of transformers, without gradients or a cache."""

    def logits(tokens: Tensor) -> Tensor:
        with torch.inference_mode():
            found: Tensor = model(tokens, use_cache=False).logits
            return found

    return logits


def fused(model: Any) -> Any:
    """The model with GPT-2's activation function in one pass over memory, in place of eight: the same tanh formula."""
    for module in model.modules():
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(module, name, torch.nn.GELU(approximate="tanh"))
    return model


def sizes(model: Any) -> BlockSizes:
    """The weights of one block by what they do: matrices alone, each used once a position."""
    found = {"attention_in": 0, "attention_out": 0, "mlp": 0}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or headers.layer_of(name) != 0:
            continue
        if "attn" not in name and "attention" not in name:
            found["mlp"] += parameter.numel()
        elif _ATTENTION_OUT.search(name):
            found["attention_out"] += parameter.numel()
        else:
            found["attention_in"] += parameter.numel()
    return BlockSizes(**found)
