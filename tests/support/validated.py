"""A run that was validated with made-up numbers: what reads validations is tested on this, whatever measures them.

The model is additive: m of a set is m(∅) plus what each of its components adds on the example, so that every number
has a closed form. Where errors are removed m(∅) is lower and components add a share of that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from circuitcli.core.sites import FeatureId, Site, parse_feature
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.store import records, tables, validations
from circuitcli.store.records import Record
from circuitcli.store.run import Run
from circuitcli.store.tables import Columns
from circuitcli.store.validations import Example

HALVES = ("discovery", "evaluation")
KINDS = {"neurons": "mlp_post", "dimensions": "resid_post"}  # of other components, where they are


@dataclass(frozen=True, kw_only=True)
class Made:
    """How the numbers are made up.

    Attributes:
        examples: How many in each half.
        scored: Components of each kind.
        size: How many features C has.
        sizes: How many components are kept, of every curve; of the first, which is C, no more than it has.
        curves: Ways of ranking; `random` is drawn so many times.
        errors: Variants.
        through: The share of what components add that is left where errors aren't kept.
        without, alone: Whether each node of C was left out, and kept alone; on the evaluation, errors kept.
        flat: Whether the whole model does no better than nothing.
        name: Of each example, before its number.
        named: What the first components are called; others are of layers 0 and 1.
        seed: Of all draws.
    """

    examples: tuple[int, int] = (20, 24)
    scored: int = 60
    size: int = 12
    sizes: tuple[int, ...] = (3, 12, 30)
    curves: tuple[str, ...] = ("circuit", "atp", "activation", "random", "neurons", "dimensions")
    draws: int = 4
    errors: tuple[str, ...] = ("kept", "sites", "removed")
    through: float = 0.3
    without: bool = True
    alone: bool = True
    flat: bool = False
    name: str = "the light of the earth"
    named: tuple[str, ...] = ()
    seed: int = 0


class Numbers:
    """The made-up numbers themselves."""

    def __init__(self, made: Made) -> None:
        self.made = made
        self.draw = np.random.default_rng(made.seed)
        self.half = np.repeat(HALVES, made.examples)
        self.nothing = self.draw.normal(-6, 0.5, sum(made.examples))
        self.worth = np.sort(self.draw.gamma(0.3, 1.0, made.scored))[::-1] * (not made.flat)
        noise = self.draw.normal(1, 0.3, (sum(made.examples), made.scored))
        self.adds = self.worth * noise / max(self.worth.sum(), 1e-9) * 4
        self.everything = self.nothing + self.adds.sum(1)

    @cached_property
    def rankings(self) -> dict[str, list[np.ndarray]]:
        """What each curve ranks, the highest first; a list of as many as it was drawn."""
        made, found = self.made, {}
        for curve in made.curves:
            if curve == "random":
                found[curve] = [self.draw.permutation(made.scored) for _ in range(made.draws)]
            else:
                spoilt = {"circuit": 0.0, "exact": 0.0, "atp": 0.1}.get(curve, 1.0)
                found[curve] = [np.argsort(-self.worth - spoilt * self.draw.random(made.scored), kind="stable")]
        return found

    def m(self, kept: Any, errors: str = "kept", curve: str = "") -> np.ndarray:
        """Of each example, where these components are kept."""
        share = 1.0 if errors == "kept" else self.made.through if errors == "removed" else (1 + self.made.through) / 2
        lower = {"kept": 0.0, "sites": 1.0, "removed": 2.0}[errors] + 0.5 * (curve in KINDS)
        return np.asarray(self.nothing - lower + share * self.adds[:, list(kept)].sum(1))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Parts of validation.parquet."""
        made = self.made
        yield from self._part(self.everything, "", 0, "kept", "everything", made.scored)
        for errors in made.errors:
            for kind in ("", *(kind for kind in KINDS if kind in made.curves)):
                yield from self._part(self.m([], errors, kind), kind, 0, errors, "nothing", 0)
            for curve, orders in self.rankings.items():
                most = made.size if curve == made.curves[0] else made.scored
                sizes = sorted({n for n in (*made.sizes, made.size) if n <= most})
                for (i, order), n in ((pair, n) for pair in enumerate(orders) for n in sizes):
                    about = (curve, i, errors)
                    yield from self._part(self.m(order[:n], errors, curve), *about, "circuit", n)
                    if curve not in KINDS:
                        yield from self._part(self.m(order[n:], errors, curve), *about, "complement", n)
        first, n = made.curves[0], made.size
        order = self.rankings[first][0][:n]
        for node, component in enumerate(order.tolist()):
            rest = [other for other in order.tolist() if other != component]
            for part, kept, wanted in (("without", rest, made.without), ("alone", [component], made.alone)):
                if wanted:
                    found = self._part(self.m(kept), first, 0, "kept", part, n, node)
                    yield list(found)[1]

    def _part(
        self, m: np.ndarray, curve: str, draw: int, errors: str, part: str, n: int, node: int = -1
    ) -> Iterator[dict[str, Any]]:
        about = {"curve": curve, "draw": draw, "errors": errors, "part": part, "n": n, "node": node}
        for half in HALVES:
            here = np.flatnonzero(self.half == half)
            yield {"half": half, "example": here, "m": m[here], **about}

    def nodes(self) -> Iterator[dict[str, Any]]:
        """Parts of nodes.parquet."""
        for curve, orders in self.rankings.items():
            n = self.made.size if curve == self.made.curves[0] else max(self.made.sizes)
            order = orders[0][:n]
            features = [self.called(component) for component in order.tolist()]
            yield {
                "node": np.arange(n),
                "curve": curve,
                "rank": np.arange(n),
                "layer": np.asarray([one.site.layer for one in features]),
                "site": [KINDS.get(curve, one.site.name) for one in features],
                "feature": np.asarray([one.index for one in features]),
                "score": self.worth[order],
            }

    def called(self, component: int) -> FeatureId:
        """A component's name."""
        named = self.made.named
        return parse_feature(named[component]) if component < len(named) else feature(component)


def feature(component: int) -> FeatureId:
    """What is called so: components lie in layers 0 and 1, and some of them have large numbers."""
    return FeatureId(Site(component % 2, "resid_post"), component * 101 % 97)


def validate(job: Job, made: Made = Made()) -> Job:
    """Write the validation of a run; a job on the stages that know it."""
    numbers = Numbers(made)
    run = Run(job.run.root, STAGES.folders)
    told = [
        Example(f"{made.name} {i}", half, (("the", " light", f" {i}"),), "nats")
        for i, half in enumerate(numbers.half.tolist())
    ]
    files = validations.write(run, told, list(numbers.rows()), list(numbers.nodes()))
    facts = {"baseline": "mean", "scored": dict.fromkeys(made.curves, made.scored)}
    record = Record(records.fingerprint({"made": f"{made!r}"}), {}, {}, files, facts, {}, "cpu", 0.0)
    run.save_record("validate", replace(record, finished="2026-11-26T09:00:00+00:00"))
    return replace(job, run=run)


def with_joint(job: Job, columns: Columns) -> Job:
    """The validation of a run with what ablating its circuit over text changes most."""
    entry = validations.write_joint(job.run, columns)
    record = job.run.require(validations.STAGE)
    job.run.save_record(validations.STAGE, replace(record, files={**record.files, validations.JOINT: entry}))
    return job


@dataclass(frozen=True, kw_only=True)
class MadeAudit:
    """An audited feature's numbers.

    Attributes:
        feature: Which.
        loses: Of m on each example without it, on average, and how much that varies.
        silent: The halves on which it doesn't fire.
        ranks: On halves, among 41.
        by_atp: Its rank.
    """

    feature: FeatureId
    loses: tuple[float, float] = (1.0, 0.1)
    silent: tuple[str, ...] = ()
    ranks: tuple[int, ...] = (1, 2, 3, 12)
    by_atp: int | None = 7


def with_audit(job: Job, *made: MadeAudit) -> Job:
    """The validation of a run with features that were audited: each alone does a quarter of what the model does."""
    table = tables.read(job.run.root / validations.MEASURED)
    m = {}
    for part in ("everything", "nothing"):
        here = (table["part"] == part) & (table["errors"] == "kept") & (table["curve"] == "")
        m[part] = table["m"][here][np.argsort(table["example"][here])]
    told, draw = validations.examples(job.run), np.random.default_rng(4)
    half, number = np.asarray([one.half for one in told], dtype=object), np.arange(len(told))
    audit, ranks = [], []
    for one in made:
        about = {"layer": one.feature.site.layer, "site": one.feature.site.name, "feature": one.feature.index}
        fires = np.where(np.isin(half, one.silent), 0, 1 + number % 2).astype(np.int32)
        lost = (one.loses[0] + one.loses[1] * draw.normal(size=len(told))) * (fires > 0)
        alone = m["nothing"] + 0.25 * (m["everything"] - m["nothing"])
        columns = {
            "m": m["everything"],
            "without": m["everything"] - lost,
            "alone": alone,
            "fires": fires,
            "activation": 2.5 * fires,
        }
        audit.append({"half": half, "example": number, **about, **columns})
        drawn = np.arange(1, len(one.ranks) + 1)
        ranks.append({**about, "draw": drawn, "rank": np.asarray(one.ranks), "n": 41, "exact": -lost.mean()})
    entries = validations.write_audit(job.run, audit, ranks)
    record = job.run.require(validations.STAGE)
    facts = {**record.facts, "ranks_by_atp": {str(one.feature): one.by_atp for one in made}}
    job.run.save_record(validations.STAGE, replace(record, files={**record.files, **entries}, facts=facts))
    return job
