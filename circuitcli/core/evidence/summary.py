"""What is told of a validation: curves at each size, areas under them, shares of nodes, and the whole in short."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import numpy as np

from circuitcli.core.attributed import Measure
from circuitcli.core.evidence import faithfulness
from circuitcli.core.evidence.faithfulness import measured
from circuitcli.core.evidence.measured import RANDOM, Measured
from circuitcli.core.evidence.validated import Budget, Errors, Half, Rival

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Float, Int

    Resampled = Float[np.ndarray, " r"]

NOTHING = Measure(None)


@dataclass(frozen=True)
class Point:
    """A set of n components on the examples of one half.

    Attributes:
        half, errors, curve, n: What the set is, and how it was measured.
        examples, draws: So many; `draws` of random sets.
        m: Mean m(C); m_nothing, m_everything: of nothing and of the whole model.
        faithfulness, completeness: f(C) and f(M∖C).
        above_random: f(C) less that of random sets of as many features, paired over examples.
    """

    half: str
    errors: str
    curve: str
    n: int
    examples: int
    draws: int
    m: float
    m_nothing: float
    m_everything: float
    faithfulness: Measure
    completeness: Measure
    above_random: Measure


@dataclass(frozen=True)
class Area:
    """Analogues of MIB's CPR and CMD: areas under a curve's f, and |1 − f|, over shares of the `scored` components."""

    half: str
    errors: str
    curve: str
    scored: int
    cpr: Measure
    cmd: Measure


@dataclass(frozen=True, eq=False)
class Shares:
    """The marginal share of each node of a set: what the set loses without it, as a share of m(M) − m(∅).

    Attributes:
        half, errors, curve, n: What the set is, and how it was measured.
        node: Numbers in nodes.parquet.
        share: Each with its interval.
        p: Of the share being 0, by flips of signs over examples.
        q: The same, for all nodes together.
        alone: f of the node alone; not defined where that wasn't measured.
    """

    half: str
    errors: str
    curve: str
    n: int
    node: Int[np.ndarray, " k"]
    share: list[Measure]
    p: Float[np.ndarray, " k"]
    q: Float[np.ndarray, " k"]
    alone: list[Measure]


def points(found: Measured) -> Iterator[Point]:
    """Every set that was measured: the evaluation first, then by variant, curve and size."""
    for half, errors in found.variants:
        for curve in found.curves:
            for n in found.sizes(half, errors, curve):
                m, scale = found.m(half, errors, curve, n), found.scale(half, errors, curve)
                if m is not None and scale is not None:
                    yield Point(
                        half=half,
                        errors=errors,
                        curve=curve,
                        n=n,
                        examples=m.shape[1],
                        draws=len(m),
                        m=float(m.mean()),
                        m_nothing=float(scale.nothing.mean()),
                        m_everything=float(scale.everything.mean()),
                        faithfulness=_measure(_f(found, half, errors, curve, n)),
                        completeness=_measure(_f(found, half, errors, curve, n, "complement")),
                        above_random=_above(found, half, errors, (curve, n), RANDOM),
                    )


def areas(found: Measured, scored: Mapping[str, int]) -> Iterator[Area]:
    """Of each curve that was measured at every size that MIB asks for.

    Args:
        found: What was measured.
        scored: How many components each curve ranks.
    """
    for half, errors in found.variants:
        for curve in found.curves:
            ranked = scored.get(curve, 0)
            f = [_f(found, half, errors, curve, n) for n in faithfulness.sizes(ranked)]
            known = [one for one in f if one is not None]
            if ranked and len(known) == len(f):
                cpr, cmd = faithfulness.areas(np.stack(known))
                yield Area(half, errors, curve, ranked, measured(cpr), measured(cmd))


def shares(found: Measured) -> Iterator[Shares]:
    """Of the nodes of the set that some were left out of."""
    for half, errors in found.variants:
        left = found.nodes(half, errors, "without")
        if left is None:
            continue
        curve, n, node, without = left
        whole, scale = found.m(half, errors, curve, n), found.scale(half, errors, curve)
        if whole is None or scale is None:
            continue
        p = faithfulness.sign_flip(whole[0] - without, found.seed)
        yield Shares(
            half=half,
            errors=errors,
            curve=curve,
            n=n,
            node=node,
            share=[measured(values) for values in scale.marginal(whole[0], without).T],
            p=p,
            q=faithfulness.false_discovery(p),
            alone=_alone(found, half, errors, node),
        )


def budgets(found: Measured) -> tuple[Budget, ...]:
    """The circuit on each half with each variant of the errors, and other sets of as many components."""
    curve, n = found.subject
    told = []
    for half, errors in found.variants:
        m, scale = found.m(half, errors, curve, n), found.scale(half, errors, curve)
        if m is None or scale is None:
            continue
        rivals = [other for other in found.curves if other != curve and n in found.sizes(half, errors, other)]
        told.append(
            Budget(
                half=cast("Half", half),
                examples=m.shape[1],
                errors=cast("Errors", errors),
                everything=float(scale.everything.mean()),
                nothing=float(scale.nothing.mean()),
                faithfulness=_measure(_f(found, half, errors, curve, n)),
                completeness=_measure(_f(found, half, errors, curve, n, "complement")),
                rivals=tuple(
                    Rival(
                        other,
                        _measure(_f(found, half, errors, other, n)),
                        _above(found, half, errors, (curve, n), other),
                    )
                    for other in rivals
                ),
            )
        )
    return tuple(told)


def errors_alone(found: Measured, half: str) -> Measure:
    """What the dictionaries' errors do without a feature: where m(∅) with them is, from m(∅) without them to m(M).

    Not defined where one of these wasn't measured.
    """
    kept, removed = found.scale(half, "kept", ""), found.scale(half, "removed", "")
    return NOTHING if kept is None or removed is None else measured(removed.faithfulness(kept.nothing[None]))


def doubtful(found: Measured) -> list[str]:
    """The halves on which the model and nothing at all can't be told apart, whatever the variant."""
    scales = {(half, errors): found.scale(half, errors, "") for half, errors in found.variants}
    return list(dict.fromkeys(half for (half, _), scale in scales.items() if scale is not None and scale.doubtful))


def _f(found: Measured, half: str, errors: str, curve: str, n: int, part: str = "circuit") -> Resampled | None:
    """Faithfulness of a set; of none 0, by definition; None where it wasn't measured."""
    scale, m = found.scale(half, errors, curve), found.m(half, errors, curve, n, part)
    if scale is None:
        return None
    if m is None:
        return 0 * scale.whole if n == 0 and part == "circuit" else None
    return scale.faithfulness(m)


def _above(found: Measured, half: str, errors: str, one: tuple[str, int], other: str) -> Measure:
    """Of a set less that of another of as many components: above it where the interval is above 0."""
    curve, n = one
    if curve == other:
        return NOTHING
    first, second = _f(found, half, errors, curve, n), _f(found, half, errors, other, n)
    return NOTHING if first is None or second is None else measured(first - second)


def _alone(found: Measured, half: str, errors: str, wanted: Int[np.ndarray, " k"]) -> list[Measure]:
    """Of single nodes."""
    kept = found.nodes(half, errors, "alone")
    if kept is None:
        return [NOTHING] * len(wanted)
    curve, _, node, m = kept
    scale = found.scale(half, errors, curve)
    known = {i: scale.faithfulness(one[None]) for i, one in zip(node.tolist(), m, strict=True)} if scale else {}
    return [_measure(known.get(i)) for i in wanted.tolist()]


def _measure(values: Resampled | None) -> Measure:
    return NOTHING if values is None else measured(values)
