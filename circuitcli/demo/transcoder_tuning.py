"""The last stage of the transcoders: together they say what lets the model say what it says.

To the loss is added β·KL(clean ‖ replaced) in nats, where in the replaced model all MLPs of a set are stood for at
once, at every position of text, each layer reading the stream as it is by then (as `tuning` does for one autoencoder).
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GPT2LMHeadModel

from circuitcli.core.sites import Site
from circuitcli.demo.activations import harvest, hooked
from circuitcli.demo.corpus import BOS_ID, Stream, draw_rows
from circuitcli.demo.dictionaries import Recipe
from circuitcli.demo.transcoders import Activations, Transcoders

BETA = 1.0
RATE = 5e-4


def tune(
    model: GPT2LMHeadModel,
    sets: Sequence[Transcoders],
    streams: Sequence[Stream],
    recipe: Recipe,
    seed: int,
    report: Callable[[str], None],
) -> None:
    """Tune every set in place, each on a copy of the model, since a hook is the model's."""
    generator = torch.Generator().manual_seed(seed + 2)
    copies = [copy.deepcopy(model).requires_grad_(False) for _ in sets]
    optimisers = [torch.optim.Adam(one.parameters(), lr=RATE) for one in sets]
    started = time.monotonic()
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for step in range(recipe.transcoder_tuning_steps):
            rate = RATE * min((step + 1) / 20, 1 - step / recipe.transcoder_tuning_steps)
            rows = draw_rows(streams[step % len(streams)], recipe.rows // 2, model.config.n_positions, generator)
            steps = [pool.submit(_step, rows, rate, *each) for each in zip(copies, sets, optimisers, strict=True)]
            done = [each.result() for each in steps]
            if (step + 1) % 50 == 0:
                report(f"tuning: step {step + 1}/{recipe.transcoder_tuning_steps}, {time.monotonic() - started:.0f} s")
                for one, kl_nats in zip(sets, done, strict=True):
                    report(f"  {one.state()}; KL {kl_nats:.3f} nats")


@contextmanager
def _replaced(model: GPT2LMHeadModel, one: Transcoders, text: Tensor) -> Iterator[None]:
    """Within the block the set stands for all MLPs, where `text`, bool [n, t], says so."""
    said: dict[int, list[Tensor]] = {layer: [] for layer in one.layers}

    def read(x: Tensor, layer: int) -> None:
        for later, part in one.read(layer, x[text]).items():
            said[later].append(part)

    def say(y: Tensor, layer: int) -> Tensor:
        return y.masked_scatter(text[..., None], torch.stack(said[layer]).sum(0))

    with ExitStack() as stack:
        for layer in one.layers:
            stack.enter_context(hooked(model, Site(layer, "mlp_in"), partial(read, layer=layer)))
            stack.enter_context(hooked(model, Site(layer, "mlp_out"), partial(say, layer=layer)))
        yield


def _step(
    rows: Tensor, rate: float, model: GPT2LMHeadModel, one: Transcoders, optimiser: torch.optim.Optimizer
) -> float:
    """One step on rows int64 [n, t]; returns the KL of the replaced model's predictions. Nats."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    text, mask = rows != BOS_ID, torch.ones_like(rows)
    where = [Site(layer, name) for layer in one.layers for name in ("mlp_in", "mlp_out")]
    found: Activations = {site: x[text] for site, x in harvest(model, rows, where).items()}
    with torch.no_grad():
        clean = model(rows, attention_mask=mask, use_cache=False).logits[text].log_softmax(-1)
    with _replaced(model, one, text):
        replaced = model(rows, attention_mask=mask, use_cache=False).logits[text].log_softmax(-1)
    kl = functional.kl_div(replaced, clean, log_target=True, reduction="batchmean")
    (one.loss(found) + BETA * kl).backward()
    torch.nn.utils.clip_grad_norm_(one.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    one.keep_unit_norm()
    return kl.item()
