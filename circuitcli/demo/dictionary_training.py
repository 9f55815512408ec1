"""The training loop of all dictionaries at once: one pass of the language model feeds every one of them.

Dictionaries know nothing of each other, so each core steps its own share of them with single-threaded arithmetic.
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2LMHeadModel

from circuitcli.core.sites import Site
from circuitcli.demo.activations import sites, text_activations
from circuitcli.demo.corpus import Stream
from circuitcli.demo.dictionaries import Autoencoder, Recipe
from circuitcli.demo.tuning import state, tune


def train(
    model: GPT2LMHeadModel, streams: Sequence[Stream], recipe: Recipe, seed: int, report: Callable[[str], None]
) -> list[Autoencoder]:
    """Train a dictionary at every site of every block. BOS is left out: its activations are outliers."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    where = sites(model.config.n_layer)
    first = text_activations(model, streams[0], 4 * recipe.rows, where, generator)
    order = sorted(where, key=lambda site: (site.name != "resid_post", site))  # the slowest first
    dictionaries = [Autoencoder(site, first[site], recipe) for site in order]
    optimisers = [torch.optim.Adam(d.parameters(), lr=recipe.rate, betas=(0.9, 0.999)) for d in dictionaries]
    started = time.monotonic()

    def draw(step: int) -> dict[Site, Tensor]:
        return text_activations(model, streams[step % len(streams)], recipe.rows, where, generator)

    with ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        batch = pool.submit(draw, 0).result()
        for step in range(recipe.steps):
            progress = max(step / recipe.steps, (time.monotonic() - started) / (60 * recipe.minutes))
            if progress >= 1:
                break
            following = pool.submit(draw, step + 1)
            steps = [
                pool.submit(_step, dictionary, optimiser, batch[dictionary.site], step, progress)
                for dictionary, optimiser in zip(dictionaries, optimisers, strict=True)
            ]
            for done in steps:
                done.result()
            batch = following.result()
            if (step + 1) % 100 == 0 or step + 1 == recipe.steps:
                report(f"dictionaries: step {step + 1}/{recipe.steps}, {time.monotonic() - started:.0f} s")
                for dictionary in dictionaries:
                    report("  " + state(dictionary))
    tune(model, [d for d in dictionaries if not d.topk], streams, seed, report)
    return dictionaries


def save(dictionaries: Sequence[Autoencoder], context: int, folder: Path) -> None:
    """Write one SAELens folder a dictionary."""
    for dictionary in dictionaries:
        target = folder / dictionary.site.hook
        target.mkdir(parents=True, exist_ok=True)
        save_file(dictionary.weights(), target / "sae_weights.safetensors")
        (target / "cfg.json").write_text(json.dumps(dictionary.config(context), indent=2) + "\n", encoding="utf-8")


def _step(dictionary: Autoencoder, optimiser: torch.optim.Optimizer, x: Tensor, step: int, progress: float) -> None:
    recipe = dictionary.recipe
    rate = min(1.0, (step + 1) / 100, (1.0 - progress) / 0.3)
    for group in optimiser.param_groups:
        group["lr"] = recipe.rate * rate
    loss, _ = dictionary.loss(x, progress)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(dictionary.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    dictionary.keep_unit_norm()
    if step % 50 == 49 and progress < 0.7:
        dictionary.resample(x, optimiser)
