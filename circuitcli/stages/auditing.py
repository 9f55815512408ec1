"""Features of which somebody asks whether the model needs them: on every example m without each, m of it alone, and
where it fires. They may be in the circuit or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.core.sites import FeatureId, Site, resolve_pins
from circuitcli.results.dictionaries import entries_of
from circuitcli.stages.stage import Job
from circuitcli.store import tables

if TYPE_CHECKING:
    from torch import Tensor

    from circuitcli.core.evidence.examples import Half
    from circuitcli.stages.judging import Judge, Opened
    from circuitcli.stages.portions import Done, Portions
    from circuitcli.stages.scoring import Scoring


def named(job: Job) -> list[FeatureId]:
    """The features that the settings audit, in the model's order.

    Raises:
        UsageError: One is none of the run's features.
    """
    widths = {entry.at: entry.facts.d_sae for entry in entries_of(job.run)}
    return resolve_pins(job.settings.validate.audit, widths, word="feature")


@dataclass(eq=False)
class Auditing:
    """Measures some features on examples.

    Attributes:
        judge: Measures circuits on examples.
        scoring: Opens examples, and measures effects of single features on them.
        features: Those that are audited, in the model's order.
        halves: The half of each example.
    """

    judge: Judge
    scoring: Scoring
    features: Sequence[FeatureId]
    halves: Sequence[Half]

    def measured(self, portions: Portions) -> Iterator[tables.Columns]:
        """Parts of audit.parquet."""
        numbers, what = range(len(self.halves)), {"features": list(map(str, self.features))}
        return portions.kept("audit", "Auditing features", numbers, what, self._measured)

    def _measured(self, numbers: Sequence[int], done: Done) -> list[tables.Columns]:
        parts = []
        for number in numbers:
            measured = self.on(self.scoring.opened(number))
            parts.append({"half": self.halves[number], "example": number, **_names(self.features), **measured})
            done(1)
        return parts

    def on(self, opened: Sequence[Opened]) -> dict[str, np.ndarray]:
        """What is measured on an example, a row for each feature."""
        m, effects = self.judge.clean(opened), self.scoring.effects(opened, self._by_site)
        fires, activation = self._firing(opened)
        return {
            "m": np.full(len(self.features), m),
            "without": m + np.concatenate(list(effects.values())),
            "alone": self._alone(opened),
            "fires": fires,
            "activation": activation,
        }

    @cached_property
    def _by_site(self) -> dict[Site, np.ndarray]:
        """Their indices, in their order."""
        sites = dict.fromkeys(one.site for one in self.features)
        return {site: np.asarray([one.index for one in self.features if one.site == site]) for site in sites}

    def _alone(self, opened: Sequence[Opened]) -> np.ndarray:
        """What m is where each is the only one that is kept, with all errors."""
        import torch

        judge, rows = self.judge, len(self.features)
        keep = {s: torch.zeros(rows, n, dtype=torch.bool) for s, n in judge.widths("features").items()}
        for row, one in enumerate(self.features):
            keep[one.site][row, one.index] = True
        every = torch.ones(rows, dtype=torch.bool)
        device = judge.model.device

        def work(part: slice) -> Tensor:
            kept = {site: each[part].to(device) for site, each in keep.items()}
            return judge.m(opened, "features", kept, dict.fromkeys(kept, every[part].to(device)))

        longest = max(len(one.tokens) for one in opened)
        found = torch.cat(list(self.scoring.batches(rows, longest, work)))
        return np.asarray(found.double().cpu().numpy())

    def _firing(self, opened: Sequence[Opened]) -> tuple[np.ndarray, np.ndarray]:
        """At how many positions that count each fires, and the sum of its activation there."""
        import torch

        fires, total = [], []
        dictionaries = {one.reads: one for one in self.judge.dictionaries}
        for site, features in self._by_site.items():
            x = torch.cat([one.run.sites[site][0][one.counts] for one in opened]).float()
            a = dictionaries[site].encode(x)[:, torch.as_tensor(features, device=x.device)]
            fires.append((a > 0).sum(0).cpu().numpy())
            total.append(a.double().sum(0).cpu().numpy())
        return np.concatenate(fires), np.concatenate(total)


def _names(features: Sequence[FeatureId]) -> tables.Columns:
    return {
        "layer": [one.site.layer for one in features],
        "site": [one.site.name for one in features],
        "feature": [one.index for one in features],
    }
