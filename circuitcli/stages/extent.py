"""Which nodes of prompts are measured, and which estimate stands for the others.

All are measured, or as many as there is time for: the largest by any estimate, and of the rest some at random. An
estimate of time goes by operations: of each node those of the sites and positions behind it, at the rate of a few that
are measured on trial.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from circuitcli.core import flops
from circuitcli.core.attributed import Method
from circuitcli.core.attribution.measured import seen
from circuitcli.core.concordance import Pairs
from circuitcli.core.strata import StratifiedSample, sample
from circuitcli.stages.study import Batches, Study

# Of a budget that doesn't suffice: what goes to the largest; the rest, at random, tells how good estimates are.
_LARGEST = 0.85
# Nodes that are measured for calibration alone: the largest, and others at random.
CALIBRATED = (20, 180)
_TRIED, _SITES = 64, 4  # nodes of one position, which are measured together, and sites


def operations(study: Study) -> Float[np.ndarray, " n"]:
    """Floating-point operations of measuring each node of a prompt."""
    model, length = study.model, len(study.prompt)
    shape, found = model.shape, []
    for source in study.sources:
        first = source.pos.cpu().numpy() if model.resumes_at_places else np.zeros(len(source), np.int64)
        each = flops.resumed(source.site, shape.n_layers - 1, model.sizes, shape, float(length))
        work = (length - first) * (each + flops.unembed(shape) / 50) + flops.unembed(shape)
        found.append(work * seen(shape, source.site, source.pos, length).cpu().numpy())
    return np.concatenate(found)


def rate(study: Study, batches: Batches) -> float:
    """Seconds of an operation, from the nodes of one position at a few sites, measured here and now."""
    work = operations(study)
    place = int(study.counts.nonzero().squeeze(1).double().quantile(0.5, interpolation="nearest"))
    chosen = np.unique(np.linspace(0, len(study.blocks) - 1, _SITES).round().astype(int)).tolist()
    tried = [
        block.start + np.flatnonzero(study.pos[block] == place)[:_TRIED]
        for block in (study.blocks[number] for number in chosen)
    ]
    study.measured(tried[0], batches)  # whatever is slow the first time only
    seconds = total = 0.0
    for nodes in tried:
        started = time.perf_counter()
        study.measured(nodes, batches)
        seconds += time.perf_counter() - started
        total += float(work[nodes].sum())
    return seconds / total


def all_of(study: Study) -> StratifiedSample:
    """Every node."""
    return StratifiedSample(np.arange(study.nodes), np.ones(study.nodes))


def for_calibration(size: Float[np.ndarray, " n"], seed: int) -> StratifiedSample:
    """A few nodes that tell how good estimates are; `size` is what these say."""
    return sample(size, *CALIBRATED, seed)


def within(
    size: Float[np.ndarray, " n"], seconds: Float[np.ndarray, " n"], budget: float, seed: int
) -> StratifiedSample:
    """The largest, and some of the rest at random, that take about `budget` seconds; all, if they take no more."""
    if seconds.sum() <= budget:
        return StratifiedSample(np.arange(len(size)), np.ones(len(size)))
    order = np.argsort(-size, kind="stable")
    certain = int(np.searchsorted(np.cumsum(seconds[order]), _LARGEST * budget))
    rest = seconds[order[certain:]]
    more = max(CALIBRATED[1] // 4, int((1 - _LARGEST) * budget / rest.mean())) if len(rest) else 0
    return sample(size, certain, more, seed)


def largest(estimates: Mapping[Method, Float[np.ndarray, " n"]]) -> Float[np.ndarray, " n"]:
    """By what nodes are ranked before any is measured: the largest of the estimates' sizes."""
    return np.asarray(np.max([np.abs(values) for values in estimates.values()], axis=0))


def better(
    estimates: Mapping[Method, Float[np.ndarray, " n"]],
    exact: Float[np.ndarray, " n"],
    drawn: Float[np.ndarray, " n"],
) -> Method:
    """The estimate that stands where nothing was measured: the one that ranks best what was.

    As the largest are measured, a linear correlation, which they decide, says little of the others.

    Args:
        estimates: By what they are called.
        exact: What was measured.
        drawn: How many nodes each measured one stands for; 0 of the others.
    """
    there = drawn > 0

    def ranks(method: Method) -> float:
        x, y, weight = (column[there].astype(np.float64) for column in (estimates[method], exact, drawn))
        pairs = Pairs.of(x, y, weight, top=0)
        return float(np.nan_to_num(pairs.measures(pairs.weight[None])[0, 1], nan=-2.0))

    return max(estimates, key=lambda method: (ranks(method), method))
