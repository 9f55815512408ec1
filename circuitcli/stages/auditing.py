"""Features of which somebody asks whether the model needs them: on every example m without each, m of it alone, and
where it fires. They may be in the circuit or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.core.sites import FeatureId, Site, resolve_pins
from circuitcli.results.dictionaries import entries_of
from circuitcli.stages.stage import Job
from circuitcli.store import tables

if TYPE_CHECKING:
    from torch import Tensor

    from circuitcli.executors import Done
    from circuitcli.stages.judging import Judge, Opened
    from circuitcli.stages.portion_task import Bench
    from circuitcli.stages.portions import Portions


def named(job: Job) -> list[FeatureId]:
    """The features that the settings audit, in the model's order.

    Raises:
        UsageError: One is none of the run's features.
    """
    widths = {entry.at: entry.facts.d_sae for entry in entries_of(job.run)}
    return resolve_pins(job.settings.validate.audit, widths, word="feature")


@dataclass(frozen=True)
class Auditing:
    """Measures some features on examples, as a step.

    Attributes:
        features: Those that are audited, in the model's order.
    """

    features: tuple[FeatureId, ...]

    def measured(self, count: int, portions: Portions) -> Iterator[tables.Columns]:
        """Parts of audit.parquet, of so many examples."""
        what = {"features": list(map(str, self.features))}
        return portions.kept("audit", "Auditing features", range(count), what, self)

    def of(self, at: Bench, done: Done) -> list[tables.Columns]:
        """The table of the examples of the bench."""
        parts = []
        for number in at.examples:
            parts.append({"half": at.half[number], "example": number, **_names(self.features), **self.on(at, number)})
            done(1)
        return parts

    def on(self, at: Bench, number: int) -> dict[str, np.ndarray]:
        """What is measured on an example, a row for each feature."""
        from circuitcli.stages.scoring import effects, opened

        example = opened(at, number)
        m, moved = at.judge.clean(example), effects(at, example, self._by_site)
        fires, activation = self._firing(at.judge, example)
        return {
            "m": np.full(len(self.features), m),
            "without": m + np.concatenate(list(moved.values())),
            "alone": self._alone(at, example),
            "fires": fires,
            "activation": activation,
        }

    @property
    def _by_site(self) -> dict[Site, np.ndarray]:
        """Their indices, in their order."""
        sites = dict.fromkeys(one.site for one in self.features)
        return {site: np.asarray([one.index for one in self.features if one.site == site]) for site in sites}

    def _alone(self, at: Bench, opened: Sequence[Opened]) -> np.ndarray:
        """What m is where each is the only one that is kept, with all errors."""
        import torch

        judge, rows = at.judge, len(self.features)
        keep = {s: torch.zeros(rows, n, dtype=torch.bool) for s, n in judge.widths("features").items()}
        for row, one in enumerate(self.features):
            keep[one.site][row, one.index] = True
        every = torch.ones(rows, dtype=torch.bool)
        device = judge.model.device

        def work(part: slice) -> Tensor:
            kept = {site: each[part].to(device) for site, each in keep.items()}
            return judge.m(opened, "features", kept, dict.fromkeys(kept, every[part].to(device)))

        longest = max(len(one.tokens) for one in opened)
        found = torch.cat(list(at.batches(rows, longest, work)))
        return np.asarray(found.double().cpu().numpy())

    def _firing(self, judge: Judge, opened: Sequence[Opened]) -> tuple[np.ndarray, np.ndarray]:
        """At how many positions that count each fires, and the sum of its activation there."""
        import torch

        fires, total = [], []
        dictionaries = {one.reads: one for one in judge.dictionaries}
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
