"""How well methods agree with exact effects of all nodes of some prompts, by kind of site."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.core.attributed import Measure
from circuitcli.core.calibration import FEWEST, calibrate, recall_by_prompt

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Float, Int, Shaped

KINDS = ("resid", "attention", "mlp", "all")
MEASURES = ("pearson", "spearman", "sign", "slope", "recall")


@dataclass(frozen=True)
class Agreement:
    """How well one method's effects agree with exact ones at one kind of site, over all nodes of all prompts there.

    Intervals are 95% ones over prompts; of fewer than five prompts there are none.

    Attributes:
        method: What its effects are called.
        kind: Of sites: `calibration.kind_of`, or `all`; or one site.
        nodes: How many.
        pearson, spearman, sign, slope: See `concordance`.
        recall: Of each prompt's largest, the mean over prompts.
    """

    method: str
    kind: str
    nodes: int
    pearson: Measure
    spearman: Measure
    sign: Measure
    slope: Measure
    recall: Measure


def agreements(
    effects: Mapping[str, Float[np.ndarray, " n"]],
    exact: Float[np.ndarray, " n"],
    kind: Shaped[np.ndarray, " n"],
    prompt: Int[np.ndarray, " n"],
    *,
    kinds: Sequence[str] = KINDS,
    seed: int,
    top: int,
) -> list[Agreement]:
    """Of each method at each of these kinds of sites that there is.

    Args:
        effects: What each method says of the nodes.
        exact: What was measured.
        kind: Of each node's site, or the site itself.
        prompt: Which each node is of.
        kinds: Those asked for; `all` is of all nodes.
        seed: Of the resampling.
        top: Of the recall.
    """
    found = []
    for method, values in effects.items():
        for name in kinds:
            here = np.flatnonzero((kind == name) | (name == "all"))
            if len(here):
                found.append(_agreement(method, name, values[here], exact[here], prompt[here], seed, top))
    return found


def _agreement(
    method: str,
    kind: str,
    effect: Float[np.ndarray, " n"],
    exact: Float[np.ndarray, " n"],
    prompt: Int[np.ndarray, " n"],
    seed: int,
    top: int,
) -> Agreement:
    pooled = calibrate(
        effect, exact, np.ones(len(exact)),
        of="nodes", method="exact", kind=kind, total=len(exact), seed=seed, prompt=prompt,
    )  # fmt: skip
    several = len(np.unique(prompt)) >= FEWEST

    def kept(one: Measure) -> Measure:
        return one if several else Measure(one.value)

    return Agreement(
        method=method,
        kind=kind,
        nodes=len(exact),
        pearson=kept(pooled.pearson),
        spearman=kept(pooled.spearman),
        sign=kept(pooled.sign),
        slope=kept(pooled.slope),
        recall=recall_by_prompt(effect, exact, prompt=prompt, seed=seed, top=top),
    )
