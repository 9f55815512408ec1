"""Which nodes of prompts are measured: all, or as many as there is time for, and of the rest some at random.

An estimate of time goes by operations: of each node those of the sites and positions behind it, at the rate of a few
that are measured on trial.
"""

from __future__ import annotations

import time

import numpy as np
from jaxtyping import Float

from circuitcli.core import flops
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
        found.append((length - first) * (each + flops.unembed(shape) / 50) + flops.unembed(shape))
    return np.concatenate(found)


def rate(study: Study, batches: Batches) -> float:
    """Seconds of an operation, from the nodes of one position at a few sites, measured here and now."""
    work = operations(study)
    chosen = np.unique(np.linspace(0, len(study.sources) - 1, _SITES).round().astype(int)).tolist()
    place = int(study.counts.nonzero().squeeze(1).double().quantile(0.5, interpolation="nearest"))
    tried = [np.flatnonzero((study.sources[n].pos == place).cpu().numpy())[:_TRIED] for n in chosen]
    study.measured(chosen[0], tried[0], batches)  # whatever is slow the first time only
    seconds = total = 0.0
    for number, nodes in zip(chosen, tried, strict=True):
        started = time.perf_counter()
        study.measured(number, nodes, batches)
        seconds += time.perf_counter() - started
        total += float(work[study.starts[number] + nodes].sum())
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
    """The largest, and some of the rest at random, that take about `budget` seconds."""
    order = np.argsort(-size, kind="stable")
    certain = int(np.searchsorted(np.cumsum(seconds[order]), _LARGEST * budget))
    rest = seconds[order[certain:]]
    more = max(CALIBRATED[1] // 4, int((1 - _LARGEST) * budget / rest.mean())) if len(rest) else 0
    return sample(size, certain, more, seed)
