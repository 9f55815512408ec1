"""Where features rank by |mean effect|, on random halves of all examples.

The strongest features, which the discovery half measures, are measured on the evaluation half too, and kept apart: of
these only ranks are made, and no circuit is chosen by them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from circuitcli.core.evidence.audited import ranked_on
from circuitcli.core.rows import key, keys, rows_of
from circuitcli.core.sites import FeatureId
from circuitcli.stages.evaluation import Evaluation
from circuitcli.stages.halves import halves
from circuitcli.stages.portions import Portions
from circuitcli.stages.scoring import BySite, Scoring
from circuitcli.store import tables

CUTS = 10  # of all examples, by as many seeds, the first of them the run's own


@dataclass(eq=False)
class Standing:
    """Ranks features among those that are measured.

    Attributes:
        of: What circuits are judged with.
        scoring: What measures effects of single features.
        among: The features that are measured.
    """

    of: Evaluation
    scoring: Scoring
    among: BySite

    def ranks(
        self, features: Sequence[FeatureId], audit: Sequence[tables.Columns], portions: Portions
    ) -> list[tables.Columns]:
        """Parts of ranks.parquet, one a feature.

        Args:
            features: Those that are ranked, each among the measured ones and itself.
            audit: m with and without each, as `auditing` measures it.
            portions: What was measured.
        """
        effects, others = self._effects(portions), self._others
        own = {name: np.concatenate([part[name] for part in audit]) for name in audit[0]}
        parts = []
        for one, here in rows_of(own, features).items():
            effect = np.zeros(len(self.of.examples))
            effect[own["example"][here]] = own["without"][here] - own["m"][here]
            mean = self._sides @ effect / self._sides.sum(1)
            rest = effects[:, others != key(one)]
            parts.append(
                {
                    "layer": one.site.layer,
                    "site": one.site.name,
                    "feature": one.index,
                    "draw": np.arange(1, len(mean) + 1),
                    "rank": ranked_on(mean, rest),
                    "n": rest.shape[1] + 1,
                    "exact": mean,
                }
            )
        return parts

    @cached_property
    def _others(self) -> np.ndarray:
        """The key of each measured feature, ascending."""
        return np.sort([key(FeatureId(site, index)) for site, here in self.among.items() for index in here.tolist()])

    @cached_property
    def _sides(self) -> np.ndarray:
        """Which examples each half has; both halves of a cut one after the other."""
        seeds = range(self.of.job.settings.seed, self.of.job.settings.seed + CUTS)
        cuts = [np.asarray(halves(self.of.examples, 0.5, seed)) == "discovery" for seed in seeds]
        return np.stack([side for cut in cuts for side in (cut, ~cut)])

    def _effects(self, portions: Portions) -> np.ndarray:
        """The mean effect of each measured feature on each half."""
        measured = itertools.chain(
            self.scoring.measured(self.of.discovery, self.among, portions),
            self.scoring.measured(self.of.evaluation, self.among, portions, apart=True),
        )
        totals = np.zeros((len(self._sides), len(self._others)))
        for table in measured:
            place = np.searchsorted(self._others, keys(table))
            for total, side in zip(totals, self._sides, strict=True):
                total += np.bincount(place, table["exact"] * side[table["example"]], minlength=len(total))
        return np.asarray(totals / self._sides.sum(1)[:, None])
