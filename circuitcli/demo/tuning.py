"""The last stage of the standard dictionaries: reconstruct what matters to the model.

To reconstruction error and penalty is added β·KL(clean ‖ spliced) in nats, where the spliced model has x̂ in place of
x at every position of text. A short tuning at the end does what training on it from the start would (Karvonen 2025).
"""

import copy
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from torch.nn import functional
from transformers import GPT2LMHeadModel

from circuitcli.demo.activations import hooked
from circuitcli.demo.corpus import BOS_ID, Stream, draw_rows
from circuitcli.demo.dictionaries import Autoencoder

BETA = 3.0
RATE = 5e-4
GAIN = 0.03
"""Of the controller that keeps the mean L0: few steps, and a new force to balance."""


def tune(
    model: GPT2LMHeadModel,
    dictionaries: Sequence[Autoencoder],
    streams: Sequence[Stream],
    seed: int,
    report: Callable[[str], None],
) -> None:
    """Tune every dictionary in place, each on a copy of the model, since a hook is the model's."""
    generator = torch.Generator().manual_seed(seed + 1)
    copies = [copy.deepcopy(model).requires_grad_(False) for _ in dictionaries]
    optimisers = [torch.optim.Adam(d.parameters(), lr=RATE) for d in dictionaries]
    for dictionary in dictionaries:
        dictionary.gain = GAIN
    recipe = dictionaries[0].recipe
    started = time.monotonic()
    with ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for step in range(recipe.tuning_steps):
            progress = max(step / recipe.tuning_steps, (time.monotonic() - started) / (60 * recipe.tuning_minutes))
            if progress >= 1:
                break
            for optimiser in optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = RATE * min((step + 1) / 20, 1 - progress)
            rows = draw_rows(streams[step % len(streams)], recipe.rows // 2, model.config.n_positions, generator)
            with torch.no_grad():
                clean = model(rows, attention_mask=torch.ones_like(rows), use_cache=False).logits[rows != BOS_ID]
                clean_log_probs = clean.log_softmax(-1)
            done = list(
                pool.map(lambda *one: _step(rows, clean_log_probs, *one), copies, dictionaries, optimisers)  # noqa: B023
            )
            if (step + 1) % 50 == 0:
                report(f"tuning: step {step + 1}/{recipe.tuning_steps}, {time.monotonic() - started:.0f} s")
                for dictionary, kl_nats in zip(dictionaries, done, strict=True):
                    report(f"  {state(dictionary)}, KL {kl_nats:.3f} nats")


def state(dictionary: Autoencoder) -> str:
    """A dictionary's last batch in a few words."""
    unexplained = dictionary.error.pow(2).mean().item() / dictionary.variance
    idle = int((dictionary.idle >= dictionary.recipe.patience).sum())
    return f"{dictionary.site.hook}: FVU about {unexplained:.3f}, L0 {dictionary.l0:.1f}, idle {idle}"


def _step(
    rows: Tensor,
    clean_log_probs: Tensor,
    model: GPT2LMHeadModel,
    dictionary: Autoencoder,
    optimiser: torch.optim.Optimizer,
) -> float:
    """One step on rows int64 [n, t]; returns the KL of the spliced model's predictions. Nats."""
    text = rows != BOS_ID
    losses: list[Tensor] = []

    def splice(x: Tensor) -> Tensor:
        loss, x_hat = dictionary.loss(x[text], progress=1.0)
        losses.append(loss)
        return x.masked_scatter(text[..., None], x_hat)

    with hooked(model, dictionary.site, splice):
        logits = model(rows, attention_mask=torch.ones_like(rows), use_cache=False).logits[text]
    log_probs = logits.log_softmax(-1)
    kl = functional.kl_div(log_probs, clean_log_probs, log_target=True, reduction="batchmean")
    (losses[0] + BETA * kl).backward()
    torch.nn.utils.clip_grad_norm_(dictionary.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    dictionary.keep_unit_norm()
    return kl.item()
