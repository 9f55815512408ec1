"""What a run has finished, as plain values: dictionaries, what was ablated, and the columns of its tables.

A reader is what the run was when it was first asked for something: each file is checked against its record and read
once. Ask for another reader when a stage has been done since.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import cached_property

import numpy as np

from circuitcli.core import rows
from circuitcli.core.sites import FeatureId, Site, resolve_pins
from circuitcli.results import dictionaries
from circuitcli.saes import SaeEntry
from circuitcli.settings import Settings, resolve
from circuitcli.store import ablations, reduced, tables
from circuitcli.store.run import Run

# Tokens to what each adds to the text.
Pieces = Callable[[Sequence[int]], list[str]]

# Who writes the tables of a folder.
_STAGES = {
    "acts": "cache-acts",
    "effects": "effects",
    "attribution": "attribute",
    "validation": "validate",
    "stability": "stability",
}


class Reader:
    """The files of a run's finished stages.

    Args:
        run: The run.
        settings: What it is read with, such as how many tokens a context shows; its own if none are given.
        pieces: The model's tokenizer, for runs that don't keep their text.
    """

    def __init__(self, run: Run, settings: Settings | None = None, pieces: Pieces | None = None) -> None:
        self.run = run
        self.settings = settings or resolve(run.settings())
        self.pieces = pieces
        self._tables: dict[str, tables.Columns] = {}

    @cached_property
    def saes(self) -> list[SaeEntry]:
        """The dictionaries, in the model's order.

        Raises:
            InputError: None were recorded, or not as this version does.
        """
        return dictionaries.entries_of(self.run)

    @cached_property
    def widths(self) -> dict[Site, int]:
        """How many features the dictionary of each site has."""
        return {entry.at: entry.facts.d_sae for entry in self.saes}

    @cached_property
    def ablated(self) -> list[FeatureId]:
        """All features that were ablated, those that earlier settings led to as well, in the model's order.

        Raises:
            InputError: They weren't yet.
        """
        return [FeatureId(shard.site, index) for shard in ablations.stored(self.run) for index in shard.features]

    @cached_property
    def planned(self) -> list[FeatureId]:
        """Those that the run's settings lead to."""
        return ablations.chosen(self.run)

    @cached_property
    def pinned(self) -> list[FeatureId]:
        """Those that the settings name."""
        return self.named(self.settings.features.pinned, word="pin")

    def named(self, names: Sequence[str | FeatureId], word: str = "feature") -> list[FeatureId]:
        """The features that were typed, in the model's order, each once.

        Raises:
            UsageError: One of them is no feature of the run's dictionaries.
        """
        return resolve_pins(map(str, names), self.widths, word=word)

    def table(self, name: str) -> tables.Columns:
        """The columns of a table of cache-acts, effects, attribute, validate or stability, by its path in the run.

        Raises:
            InputError: Its stage isn't done, or it isn't as it was recorded.
        """
        if name not in self._tables:
            self._tables[name] = tables.read(self.run.verified(_STAGES[name.split("/")[0]], name))
        return self._tables[name]

    def of_features(self, name: str, features: Collection[FeatureId]) -> dict[FeatureId, tables.Columns]:
        """The rows of each of some features in a table."""
        table = self.table(name)
        return {feature: rows.pick(table, here) for feature, here in rows.rows_of(table, features).items()}

    def in_plan(self, name: str) -> np.ndarray:
        """Which rows of effects/effects, or of effects/features, are of features that the present plan ablates."""
        return rows.among(self.table(name), self.planned, "up_" if name == reduced.EFFECTS else "")

    @cached_property
    def measured(self) -> tuple[str, str]:
        """The run's name, and when its ablations were done."""
        return self.run.title, self.run.require("ablate").finished
