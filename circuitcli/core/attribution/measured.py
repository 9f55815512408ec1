"""Effects of nodes, measured: a node is replaced at its position, the rest of the model runs again, and m is read.

Nothing before the node's site is computed again, and no earlier position; see `core.ablation`. Where nothing that is
done to a node can reach what m is read of, its effect is 0, and nothing is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.attribution.metric import AnyMetric, of_likeliest
from circuitcli.core.model import Addition, Model, Pass, Places
from circuitcli.core.shape import ModelShape
from circuitcli.core.sites import Site
from circuitcli.errors import InputError


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt that was run clean.

    Attributes:
        tokens: Its tokens.
        run: Clean activations of all sites that are edited or read, and what resuming there needs.
        metric: What is asked of it.
        clean: m.
        logits: Of the next token.
    """

    tokens: Int[Tensor, " t"]
    run: Pass
    metric: AnyMetric
    clean: float
    logits: Float[Tensor, " v"]

    def __len__(self) -> int:
        return len(self.tokens)


def read(
    model: Model,
    tokens: Int[Tensor, " t"],
    sites: list[Site],
    metric: AnyMetric | None,
    *,
    centred: bool = False,
    most: int = 1,
) -> Prompt:
    """A prompt, run clean, with what editing at some sites, and reading there, needs.

    Without a metric it is the log-probability of the likeliest next token, or, `centred`, its logit, or the mean logit
    of the likeliest ones, at most so many.

    Raises:
        InputError: The metric is no number.
    """
    needed = sorted({*sites, *(base for site in sites for base in model.bases(site))}, key=lambda site: site.order)
    run = model.run(tokens.unsqueeze(0), needed, final=True, keep=0)
    assert run.final is not None
    logits = model.logits(run.final[:, -1])
    asked = metric or of_likeliest(logits[0], most, centred=centred)
    return Prompt(tokens, run, asked, float(_numbers(asked.of(logits))[0]), logits[0])


def seen(shape: ModelShape, site: Site, pos: Int[Tensor, " n"], length: int) -> Bool[Tensor, " n"]:
    """Whether m, which is read at the last position, can depend on a site at some positions.

    Behind the last block's attention nothing goes from one position to another.
    """
    attended = site.layer < shape.n_layers - 1 or site.name == "resid_pre"
    return (pos == length - 1) | attended


def measured(
    model: Model,
    prompt: Prompt,
    pos: Int[Tensor, " n"],
    deltas: Mapping[Site, Float[Tensor, "n _"]],
    batches: Callable[[int, int, Callable[[slice], Tensor]], Iterator[Tensor]],
) -> Float[Tensor, " n"]:
    """m(x + δ at one position) − m(clean) of each row, in the metric's unit.

    Args:
        model: The model.
        prompt: Its clean pass.
        pos: The position of each row's edit.
        deltas: What it adds there, site by site.
        batches: Makes work over consecutive slices of so many rows, of which each has so many positions again.

    Raises:
        InputError: The metric is no number after one.
    """
    found = torch.full((len(pos),), prompt.clean, device=pos.device)
    there = seen(model.shape, min(deltas, key=lambda site: site.order), pos, len(prompt))
    for start in pos[there].unique().tolist():
        rows = (there & (pos == start)).nonzero().squeeze(1)
        first = start if model.resumes_at_places else 0

        def work(part: slice, rows: Tensor = rows, start: int = start, first: int = first) -> Tensor:
            here = {site: delta[rows[part]] for site, delta in deltas.items()}
            return _after(model, prompt, start, first, here)

        found[rows] = torch.cat(list(batches(len(rows), len(prompt) - first, work)))
    return found - prompt.clean


def _after(
    model: Model, prompt: Prompt, pos: int, first: int, deltas: Mapping[Site, Float[Tensor, "n _"]]
) -> Float[Tensor, " n"]:
    """The metric of each row, in which δ is added at one position; all from `first` on is computed again."""
    again, edits = len(prompt) - first, {}
    for site, delta in deltas.items():
        edits[site] = torch.zeros(len(delta), again, delta.shape[1], device=delta.device)
        edits[site][:, pos - first] = delta
    edit = Addition.of(edits)
    count, device = len(edit.delta), edit.delta.device
    base = {name: prompt.run.sites[name][:, first:].expand(count, -1, -1) for name in model.bases(edit.site)}
    places = None
    if model.resumes_at_places:
        where = torch.arange(first, len(prompt), device=device).expand(count, -1)
        places = Places(torch.zeros(count, dtype=torch.long, device=device), where, chained=True)
    run = model.resume(prompt.run, base, edit, [], final=True, places=places)
    assert run.final is not None
    return _numbers(prompt.metric.of(model.logits(run.final[:, -1])))


def _numbers(metric: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    if not bool(metric.isfinite().all()):
        raise InputError("The model's logits are no numbers here.", hint="Use --dtype float32: float16 ends at 65,504.")
    return metric
