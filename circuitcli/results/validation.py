"""What a run says of how much its circuit carries: f of every curve, shares of nodes, and the whole in short.

f = (mean m(C) − mean m(∅)) / (mean m(M) − mean m(∅)), over the examples of one half: see `core.evidence.faithfulness`.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from circuitcli.core.attributed import Measure
from circuitcli.core.circuit import Circuit
from circuitcli.core.evidence import summary
from circuitcli.core.evidence.measured import Incomplete, Measured
from circuitcli.core.evidence.summary import Area, Point, Shares
from circuitcli.core.evidence.validated import Validation
from circuitcli.core.sites import FeatureId, Site
from circuitcli.errors import InputError
from circuitcli.results import joint
from circuitcli.results.attribution import flat
from circuitcli.results.audit import Audit, audits, columns
from circuitcli.store import validations
from circuitcli.store.tables import Columns
from circuitcli.store.validations import Example

if TYPE_CHECKING:
    import pandas

    from circuitcli.results.reader import Reader


class Validated:
    """The validation of a run's circuit, from the files of its validate stage; each is read once.

    Whatever is asked of it raises an InputError if the stage isn't done. Every number says which half of the examples
    it is of: a circuit is found on `discovery` and measured on `evaluation`.
    """

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def curves(self) -> pandas.DataFrame:
        """Every set that was measured, a row each: the evaluation first.

        Columns: `half`; `errors`: kept, sites or removed; `curve`: what chose it; `n`: components; `examples`, `draws`;
        `m`, `m_nothing`, `m_everything`: means over the examples, in their unit; `faithfulness`: f, `completeness`: f
        of all the others, and `above_random`: f less that of random sets of as many features, paired over examples;
        each with the ends of its 95% bootstrap interval, as `faithfulness_low`. NaN where one isn't defined or wasn't
        measured.
        """
        import pandas

        return pandas.DataFrame([flat(asdict(point)) for point in self.points])

    def areas(self) -> pandas.DataFrame:
        """Analogues of MIB's CPR and CMD: areas under f and |1 − f| over shares .001 to 1 of all components.

        MIB scores heads and MLPs: these are no numbers of its leaderboard. A curve that wasn't measured at all of MIB's
        sizes has no row.

        Columns: `half`, `errors`, `curve`, `scored`: of so many components, `cpr`, `cmd`, each with its interval.
        """
        import pandas

        return pandas.DataFrame([flat(asdict(area)) for area in self.area_list])

    def nodes(self) -> pandas.DataFrame:
        """The nodes of the circuit: what is lost without each of them.

        Columns: `half`, `errors`; `feature`: as `4.resid_post.112`; `layer`, `site`, `index`; `rank` and `score`: by
        which it was chosen; `share`: m(C) − m(C without it), as a share of m(M) − m(∅), with its interval; `p`: of that
        being 0, by flips of signs over examples; `q`: the same, for all nodes together (Benjamini and Hochberg);
        `alone`: f of this node alone, with its interval, NaN where that wasn't measured.
        """
        import pandas

        return pandas.DataFrame(list(map(flat, self.node_rows)))

    def examples(self) -> pandas.DataFrame:
        """What m was measured on.

        Columns: `example`: its number; `name`; `half`; `sequences`: how many were read, one a choice; `tokens`: of the
        first; `unit`: of m; `m`: of the whole model, and `m_nothing`: of none of its features, errors kept; NaN where
        that wasn't measured.
        """
        import pandas

        rows = [
            {
                "example": i,
                "name": one.name,
                "half": one.half,
                "sequences": len(one.sequences),
                "tokens": len(one.sequences[0]),
                "unit": one.unit,
            }
            for i, one in enumerate(self.told)
        ]
        found = pandas.DataFrame(rows).assign(m=np.nan, m_nothing=np.nan)
        for half in found["half"].unique():
            scale = self.measured.scale(half, "kept", "")
            if scale is not None:
                found.loc[found["half"] == half, ["m", "m_nothing"]] = np.stack([scale.everything, scale.nothing], 1)
        return found

    def joint(self) -> pandas.DataFrame:
        """What changes most where the whole circuit is ablated over the run's sample, at all its positions at once.

        A row each position, the largest change first. Columns: `seq`, `pos`: behind which the token would stand;
        `text`: the tokens up to there; `token`, `token_id`: whose probability changes most there; `follows`: whether it
        is the one that really follows; `base`, `altered`: its probability with the circuit and without; `change`.
        """
        import pandas

        rows = [
            {
                "seq": one.context.seq,
                "pos": one.context.pos,
                "text": "".join(one.context.tokens[: one.context.firing + 1]),
                "token": one.token,
                "token_id": one.token_id,
                "follows": one.follows,
                "base": one.base,
                "altered": one.altered,
                "change": one.altered - one.base,
            }
            for one in joint.changed(self._reader)
        ]
        return pandas.DataFrame(rows)

    def audit(self) -> pandas.DataFrame:
        """The audited features: whether the model needs them, and where they rank among others.

        A row for each feature and half, the evaluation first; none where nothing was audited. Columns: `half`;
        `feature`: as `4.resid_post.112`; `layer`, `site`, `index`; `verdict`: needed, against (m is higher without
        it), not needed (all of the interval of `share` is within ±.05), unclear, or silent (it fires on none of the
        examples); `examples`, `fires`: how many there are, and on how many it fires; `activation`: its mean where it
        does; `drop`: mean m(M) − m(M without it), in the metric's unit, with its 95% interval, as `drop_low`; `share`:
        that as a share of m(M) − m(∅); `p`, `q`: of its being 0, by flips of signs over examples, and for all audited
        features together; `alone`: f of this feature alone; `in_circuit`: its marginal share in the circuit, on the
        evaluation half, NaN of one that the circuit hasn't.

        The same on both halves, as all examples are ranked on: `rank_halves`: random halves of them; `rank_among`:
        features whose effect was measured; `rank_min`, `rank_median`, `rank_max`: its ranks by |mean effect|;
        `rank_first`, `rank_top`: in how many halves it is first, and among the ten strongest; `rank_atp`: its rank by
        |estimate| on the discovery half, among `firing` features that fire there, NaN of one that doesn't;
        `seeds_min`, `seeds_median`, `seeds_max`: its ranks over the seeds of `circuit stability`, NaN where that has
        none of it.
        """
        import pandas

        return pandas.DataFrame(columns(self.audits))

    @cached_property
    def audits(self) -> list[Audit]:
        """The audited features."""
        here = [row for row in self.node_rows if row["half"] == "evaluation"]
        return audits(self._reader, self.measured, {row["feature"]: Measure(**row["share"]) for row in here})

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What the stage reported."""
        return self._reader.run.require(validations.STAGE).facts

    @cached_property
    def told(self) -> list[Example]:
        """What m was measured on."""
        return validations.examples(self._reader.run)

    @cached_property
    def measured(self) -> Measured:
        """Every m."""
        try:
            return Measured.of(self._reader.table(validations.MEASURED), self._reader.settings.seed)
        except Incomplete as error:
            raise InputError(
                f"{validations.MEASURED} of {self._reader.run.root} isn't whole: {error}.",
                hint="Run `circuit validate --force` on this run.",
            ) from None

    @cached_property
    def points(self) -> list[Point]:
        """Every set that was measured."""
        return list(summary.points(self.measured))

    @cached_property
    def area_list(self) -> list[Area]:
        """Areas under curves."""
        return list(summary.areas(self.measured, self.facts.get("scored", {})))

    @cached_property
    def shares(self) -> list[Shares]:
        """What nodes add, by half and variant."""
        return list(summary.shares(self.measured))

    @cached_property
    def record(self) -> Validation:
        """The whole in short, as circuit.json has it."""
        curve, n = self.measured.subject
        return Validation(
            curve=curve,
            n=n,
            unit=self.told[0].unit,
            baseline=str(self.facts.get("baseline", "")),
            run=self._reader.run.title,
            created=self._reader.run.require(validations.STAGE).finished,
            budgets=summary.budgets(self.measured),
        )

    def errors_alone(self, half: str) -> Measure:
        """What the dictionaries' errors do without a feature, on one half."""
        return summary.errors_alone(self.measured, half)

    @cached_property
    def doubtful(self) -> list[str]:
        """Halves on which the model does no better than nothing, as far as can be told."""
        return summary.doubtful(self.measured)

    @cached_property
    def features(self) -> list[FeatureId]:
        """The circuit, the highest rank first."""
        table, (curve, n) = self._nodes, self.measured.subject
        here = np.flatnonzero(table["curve"] == curve)
        return [self._feature(i) for i in here[np.argsort(table["rank"][here], kind="stable")][:n].tolist()]

    def put_on(self, circuit: Circuit) -> Circuit:
        """A circuit with this validation, if its features are those that were validated; else as it is."""
        drawn = {(node.layer, node.site, node.feature) for node in circuit.nodes if node.kind == "feature"}
        same = drawn == {(one.site.layer, one.site.name, one.index) for one in self.features}
        return replace(circuit, validation=self.record) if same else circuit

    @cached_property
    def node_rows(self) -> list[dict[str, Any]]:
        """What `nodes` has, with a measure as {value, low, high}."""
        table, rows = self._nodes, []
        for found in self.shares:
            for i, row in enumerate(self._rows(found)):
                one = self._feature(row)
                rows.append(
                    {
                        "half": found.half,
                        "errors": found.errors,
                        "feature": str(one),
                        "layer": one.site.layer,
                        "site": one.site.name,
                        "index": one.index,
                        "rank": int(table["rank"][row]),
                        "score": float(table["score"][row]),
                        "share": asdict(found.share[i]),
                        "p": float(found.p[i]),
                        "q": float(found.q[i]),
                        "alone": asdict(found.alone[i]),
                    }
                )
        return rows

    @cached_property
    def _nodes(self) -> Columns:
        return self._reader.table(validations.NODES)

    def _feature(self, row: int) -> FeatureId:
        """The one in a row of nodes.parquet."""
        table = self._nodes
        return FeatureId(Site(int(table["layer"][row]), str(table["site"][row])), int(table["feature"][row]))

    def _rows(self, found: Shares) -> list[int]:
        """The rows of nodes.parquet of the nodes whose shares these are."""
        table = self._nodes
        known = {int(table["node"][i]): i for i in np.flatnonzero(table["curve"] == found.curve).tolist()}
        return [known[node] for node in found.node.tolist()]
