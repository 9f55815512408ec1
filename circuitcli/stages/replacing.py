"""Attribution in the local replacement model of a prompt: whether there is one, its edges, and how far it is from real.

An edge u → d is what leaving u out does to the metric through d alone: what it does to d, times what d does to the
metric in all. In this model that is no estimate; that the model is one, calibration tells.

Of several targets k with probabilities p_k the metric is m = Σ_k w_k·(logit k − mean logit), w_k = p_k / Σ p: an edge
u → k is w_k times what leaving u out does to k by no way through a third, so that a node's edges add up to its effect.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from circuitcli.core.attributed import Fidelity
from circuitcli.core.attribution.fidelity import fidelity
from circuitcli.core.attribution.parts import Errors, Features
from circuitcli.core.attribution.replacement import Rows, targets
from circuitcli.core.attribution.traced import trace
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.model import FROZEN
from circuitcli.core.sites import Site
from circuitcli.errors import InputError, UsageError
from circuitcli.stages import questions
from circuitcli.stages.stage import Job
from circuitcli.stages.study import Study
from circuitcli.stages.wiring import Kept, Wired

# Edges smaller than this share of what goes into their target aren't kept: scores are of all of them, nearly.
_LEAST = 1e-6
_ROWS, _POSITIONS = 64, 4096  # most rows of one pass back, and positions


def check(job: Job) -> None:
    """Refuse settings that leave no such model, or ask for what it hasn't.

    Raises:
        UsageError: A setting doesn't go with it.
        InputError: Not every MLP has a transcoder that stands for it.
    """
    how = job.settings.attribute
    if not how.freeze:
        raise UsageError("--replace needs --freeze: the replacement model is linear.", hint="Add --freeze.")
    baseline = questions.baseline(job, questions.written(job))
    for flag, value, fits in (("--method", how.method, "atp"), ("--baseline", baseline, "zero")):
        if value not in ("auto", fits):
            raise UsageError(
                f"--replace doesn't go with {flag} {value}.",
                hint=f"In the replacement model it is {fits}: leave {flag} out, and counterfactuals too.",
            )
    layers = set(range(job.subject.checkpoint.shape.n_layers))
    entries = [entry for entry in job.subject.entries if entry.at != entry.written[0]]
    own = [entry.written[0] for entry in entries]  # what others write there as well isn't all of it
    missing = sorted(layers - {site.layer for site in own if site.name == "mlp_out"})
    if missing:
        some = "no MLP" if len(missing) == len(layers) else f"no MLP of layers {', '.join(map(str, missing))}"
        raise InputError(
            f"Transcoders of this run stand for {some}: there is no replacement model.",
            hint="Choose a release of transcoders, such as demo-transcoders, with all its layers.",
        )


def at_once(length: int, rows: int) -> int:
    """Rows of one pass back, of a prompt of so many tokens: all passes of so many rows in all are as full."""
    passes = -(-max(1, rows) // max(1, min(_ROWS, _POSITIONS // length)))
    return -(-max(1, rows) // passes)


def wire(study: Study, most: int, number: int, done: Callable[[int], None]) -> Wired:
    """The edges of a prompt into its most influential features and the targets, from these, errors and tokens.

    Args:
        study: The prompt.
        most: Most features that have edges into them.
        number: The prompt's.
        done: Told how many features more have theirs.
    """
    model, tokens = study.model, study.prompt.tokens
    metrics = [metric for metric, _ in study.targets]
    weights = torch.tensor([weight for _, weight in study.targets], device=tokens.device)
    given = targets(model, tokens, metrics, weights)
    with model.fixed(tokens.unsqueeze(0), FROZEN):
        able = sum(len(source) for source in study.sources if isinstance(source, Features))
        rows = Rows(model, tokens, study.sources, given, at_once(len(tokens), min(most, able)))
        found = trace(rows, study.sources, weights, most, done)
    kept = Kept(study, _nodes(study, found.nodes.cpu().numpy()), least=_LEAST)
    gradient, _ = study.gradients("atp")
    weight = torch.cat([source.weight(gradient) for source in study.sources])
    for nodes, rows in zip(found.nodes.split(_ROWS), found.into.split(_ROWS), strict=True):
        kept.add(nodes.cpu().numpy(), iter([rows * weight[nodes].unsqueeze(1)]))
    ends = np.arange(study.nodes, study.nodes + len(metrics))
    kept.add(ends, iter([found.into_targets * weights.unsqueeze(1)]))
    return kept.wired(number, "atp")


def _nodes(study: Study, features: np.ndarray) -> np.ndarray:
    """Nodes that edges come from, beside tokens: some features, and all errors."""
    chosen = np.zeros(study.nodes + 1, np.bool_)
    chosen[features] = True
    for start, source in zip(study.starts, study.sources, strict=False):
        chosen[start : start + len(source)] |= isinstance(source, Errors)
    return chosen


def fidelity_of(study: Study, dictionary: Callable[[Site], Dictionary]) -> Fidelity:
    """How far a prompt's replacement model is from the real one, without its errors."""
    written = [source.site for source in study.sources if isinstance(source, Errors)]
    return fidelity(study.model, study.prompt.tokens, study.counts, _reads(study), written, dictionary)


def _reads(study: Study) -> Sequence[Site]:
    return [source.reads for source in study.sources if isinstance(source, Features)]
