"""How much of what is true was found: precision, recall, and the area under the ROC curve.

Something is found where its |effect| is at least `LEAST` of the largest one. The area needs no threshold: it is the
chance that something true has a larger |effect| than something that isn't, equal ones counted half (Mann and Whitney);
what is at most `ROUNDING` of the largest one counts as 0, whichever way it was rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

LEAST, ROUNDING = 1e-3, 1e-6


@dataclass(frozen=True)
class Recovery:
    """How much of what is true was found.

    Attributes:
        precision: Of what was found the share that is true; None where nothing was.
        recall: Of what is true the share that was found.
        auroc: The area under the ROC curve; None where all is true.
    """

    precision: float | None
    recall: float
    auroc: float | None


def found(effect: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Whether each effect counts."""
    size = np.abs(effect)
    largest = float(size.max(initial=0.0))
    return np.asarray(size >= LEAST * largest) if largest else np.zeros(len(effect), np.bool_)


def recovery(effect: Float[np.ndarray, " n"], true: Bool[np.ndarray, " n"]) -> Recovery:
    """How much of what is true, at least one of n, is found by effects."""
    from scipy.stats import rankdata

    here = found(effect)
    both, positive = int((here & true).sum()), int(true.sum())
    negative = len(true) - positive
    size = np.abs(effect)
    ranks = rankdata(np.where(size <= ROUNDING * size.max(), 0.0, size))
    above = float(ranks[true].sum()) - positive * (positive + 1) / 2
    return Recovery(
        precision=both / int(here.sum()) if here.any() else None,
        recall=both / positive,
        auroc=above / (positive * negative) if negative else None,
    )
