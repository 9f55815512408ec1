"""The training loop of the transcoders, and their files, which are circuit-tracer's.

The model runs once a step for all of them; each core steps its own share with single-threaded arithmetic.
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import GPT2LMHeadModel

from circuitcli.core.sites import Site
from circuitcli.demo.activations import text_activations
from circuitcli.demo.corpus import Stream
from circuitcli.demo.dictionaries import Recipe
from circuitcli.demo.transcoder_tuning import tune
from circuitcli.demo.transcoders import Activations, Transcoders

_HOOKS = {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}


def train(
    model: GPT2LMHeadModel, streams: Sequence[Stream], recipe: Recipe, seed: int, report: Callable[[str], None]
) -> list[Transcoders]:
    """Train a transcoder a layer, and the cross-layer one. BOS is left out: nothing should fire there."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    layers = range(model.config.n_layer)
    where = [Site(layer, name) for layer in layers for name in ("mlp_in", "mlp_out")]

    def draw(step: int, batches: int = 1) -> Activations:
        return text_activations(model, streams[step % len(streams)], batches * recipe.rows, where, generator)

    first = draw(0, 4)
    sets = [Transcoders(layers, first, recipe, cross=cross) for cross in (False, True)]
    optimisers = [torch.optim.Adam(one.parameters(), lr=recipe.rate, betas=(0.9, 0.999)) for one in sets]
    started = time.monotonic()
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for step in range(recipe.transcoder_steps):
            progress = max(
                step / recipe.transcoder_steps, (time.monotonic() - started) / (60 * recipe.transcoder_minutes)
            )
            if progress >= 1:
                break
            batch = draw(step)
            steps = [
                pool.submit(_step, one, optimiser, recipe.rate, batch, step, progress)
                for one, optimiser in zip(sets, optimisers, strict=True)
            ]
            for done in steps:
                done.result()
            if (step + 1) % 100 == 0 or step + 1 == recipe.transcoder_steps:
                report(f"transcoders: step {step + 1}/{recipe.transcoder_steps}, {time.monotonic() - started:.0f} s")
                for one in sets:
                    report("  " + one.state())
    tune(model, sets, streams, recipe, seed, report)
    for one in sets:
        one.settle([draw(step) for step in range(8)])
    return sets


def save(sets: Sequence[Transcoders], per_layer: Path, cross_layer: Path) -> None:
    """Write circuit-tracer's folder of the per-layer transcoders, and that of the cross-layer one."""
    for folder, kind, name in (
        (per_layer, "transcoder_set", "demo-transcoders"),
        (cross_layer, "cross_layer_transcoder", "demo-clt"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        said = {"model_name": "circuitcli-demo", "model_kind": kind, **_HOOKS, "scan": name}
        text = "".join(f"{key}: {json.dumps(value)}\n" for key, value in said.items())
        (folder / "config.yaml").write_text(text, encoding="utf-8")
    for one in sets:
        for layer, tensors in zip(one.layers, one.tensors(), strict=True):
            if one.cross:
                decoder = tensors.pop("W_dec")
                encoder = {f"{name}_{layer}": tensor for name, tensor in tensors.items()}
                save_file(encoder, cross_layer / f"W_enc_{layer}.safetensors")
                save_file({f"W_dec_{layer}": decoder}, cross_layer / f"W_dec_{layer}.safetensors")
            else:
                save_file(
                    tensors | {"W_dec": tensors["W_dec"][:, 0].contiguous()}, per_layer / f"layer_{layer}.safetensors"
                )


def _step(
    one: Transcoders, optimiser: torch.optim.Optimizer, rate: float, x: Activations, step: int, progress: float
) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * min(1.0, (step + 1) / 100, (1.0 - progress) / 0.3)
    one.loss(x).backward()
    torch.nn.utils.clip_grad_norm_(one.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    one.keep_unit_norm()
    if step % 50 == 49 and progress < 0.7:
        one.resample(x, optimiser)
