"""What a run says of audited features: whether the model needs them, on each half, and where they rank."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitcli.core import rows
from circuitcli.core.attributed import Measure
from circuitcli.core.evidence.audited import Audited, Ranks, audited, ranks
from circuitcli.core.evidence.measured import HALVES, Measured
from circuitcli.core.sites import FeatureId, Site
from circuitcli.results.attribution import flat
from circuitcli.store import validations

if TYPE_CHECKING:
    from circuitcli.results.reader import Reader

_FEATURE = ("layer", "site", "feature")


@dataclass(frozen=True)
class Audit:
    """An audited feature.

    Attributes:
        feature: Which.
        halves: What the model loses without it on the examples of each half; the evaluation first.
        in_circuit: Its marginal share in the circuit that was judged; None of a feature that this hasn't.
        ranks: By measured effects, on random halves of all examples.
        by_atp: Its rank by |estimate| on the discovery half; None of a feature that doesn't fire there.
        firing: How many features do.
        over_seeds: Its best, median and worst rank in discoveries with other seeds; None where `circuit stability`
            counted none of it.
    """

    feature: FeatureId
    halves: Mapping[str, Audited]
    in_circuit: Measure | None
    ranks: Ranks
    by_atp: int | None
    firing: int
    over_seeds: tuple[int, float, int] | None


def audits(reader: Reader, measured: Measured, in_circuit: Mapping[str, Measure]) -> list[Audit]:
    """Every audited feature, in the model's order; none of a validation that audits none.

    Args:
        reader: Of the run.
        measured: Every m of its validation.
        in_circuit: The marginal share of each node of the circuit on the evaluation half, by its name.

    Raises:
        InputError: The validate stage isn't done.
    """
    record = reader.run.require(validations.STAGE)
    if validations.AUDIT not in record.files:
        return []
    table, ranked = reader.table(validations.AUDIT), reader.table(validations.RANKS)
    features = sorted(_features(table), key=lambda one: one.order)
    by_half = {half: _audited(measured, table, half, features) for half in reversed(HALVES)}
    seeds = _over_seeds(reader)
    found = []
    for i, feature in enumerate(features):
        name, here = str(feature), rows.rows_of(ranked, [feature])[feature]
        found.append(
            Audit(
                feature=feature,
                halves={half: each[i] for half, each in by_half.items()},
                in_circuit=in_circuit.get(name),
                ranks=ranks(ranked["rank"][here], int(ranked["n"][here][0])),
                by_atp=record.facts["ranks_by_atp"][name],
                firing=record.facts["scored"]["atp"],
                over_seeds=seeds.get(name),
            )
        )
    return found


def audit_rows(found: list[Audit]) -> Iterator[dict[str, Any]]:
    """A row for each feature and half, with measures as {value, low, high}; the evaluation first."""
    for half in reversed(HALVES):
        for one in found:
            seeds = one.over_seeds or (None, None, None)
            yield {
                "half": half,
                "feature": str(one.feature),
                "layer": one.feature.site.layer,
                "site": one.feature.site.name,
                "index": one.feature.index,
                **asdict(one.halves[half]),
                "in_circuit": asdict(one.in_circuit or Measure(None)),
                "rank_halves": one.ranks.halves,
                "rank_among": one.ranks.among,
                "rank_min": one.ranks.best,
                "rank_median": one.ranks.median,
                "rank_max": one.ranks.worst,
                "rank_first": one.ranks.first,
                "rank_top": one.ranks.top,
                "rank_atp": one.by_atp,
                "firing": one.firing,
                **dict(zip(("seeds_min", "seeds_median", "seeds_max"), seeds, strict=True)),
            }


def columns(found: list[Audit]) -> list[dict[str, Any]]:
    """The same as columns of numbers: NaN of what there is none of."""
    return [
        {name: np.nan if value is None else value for name, value in flat(row).items()} for row in audit_rows(found)
    ]


def _features(table: Mapping[str, np.ndarray]) -> set[FeatureId]:
    each = zip(*(table[name].tolist() for name in _FEATURE), strict=True)
    return {FeatureId(Site(layer, site), index) for layer, site, index in each}


def _audited(
    measured: Measured, table: Mapping[str, np.ndarray], half: str, features: list[FeatureId]
) -> list[Audited]:
    """Of one half: a row for each feature, its examples in the order in which the validation has them."""
    scale = measured.scale(half, "kept", "")
    assert scale is not None  # what audits measures nothing and everything, errors kept
    here = rows.pick(table, np.flatnonzero(table["half"] == half))
    of = rows.rows_of(here, features)
    order = np.stack([of[one][np.argsort(here["example"][of[one]], kind="stable")] for one in features])
    return audited(scale, *(here[name][order] for name in ("without", "alone", "fires", "activation")))


def _over_seeds(reader: Reader) -> dict[str, tuple[int, float, int]]:
    """The ranks of features over the seeds of `circuit stability`, if that was done."""
    from circuitcli.results.stability import STAGE, Stability

    if reader.run.record(STAGE) is None:
        return {}
    return {name: one.ranks for name, one in Stability(reader).nodes("seed").items() if one.ranks is not None}
