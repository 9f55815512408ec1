"""Plug point: what replaces an activation. One file an intervention.

A file's `plugin` is a frozen dataclass whose instances follow `Intervention`. Its fields are its options: a field that
has the name of a setting of [ablate], such as `strength`, has that setting's value, any other its own default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from circuitcli import plugins
from circuitcli.core.seeding import PURPOSE_INTERVENTION, generator
from circuitcli.core.sites import FeatureId, Site

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class Contexts:
    """Where features of one site are ablated, a row each, and what an intervention may go by.

    Attributes:
        site: Of the features.
        feature: Index of each.
        seq: Its sequence in the sample.
        pos: Its position; −1 where the whole sequence is edited.
        activation: The feature's there; of a whole sequence its largest.
        statistics: Of each context's feature, over all counted positions, zeros in: `n_active`, `density`,
            `max_activation` and `mean_activation`.
        seed: Of the run.
        draw: Makes `donor`, if anybody asks for it.
    """

    site: Site
    feature: Int[np.ndarray, " n"]
    seq: Int[np.ndarray, " n"]
    pos: Int[np.ndarray, " n"]
    activation: Float[np.ndarray, " n"]
    statistics: Mapping[str, np.ndarray]
    seed: int
    draw: Callable[[], Float[np.ndarray, " n"]]

    def __len__(self) -> int:
        return len(self.feature)

    @cached_property
    def donor(self) -> Float[np.ndarray, " n"]:
        """The feature's value at a counted position drawn at random outside each context; see `core.donors`."""
        return self.draw()

    def generator(self, row: int) -> np.random.Generator:
        """Random numbers of one context's own, keyed by (seed, feature, sequence, position), never by order."""
        feature = FeatureId(self.site, int(self.feature[row]))
        return generator(self.seed, feature, PURPOSE_INTERVENTION, int(self.seq[row]), int(self.pos[row]) + 1)


@runtime_checkable
class Intervention(Protocol):
    """Says what a feature's activation becomes."""

    def replacements(self, at: Contexts) -> Float[np.ndarray, " n"]:
        """Gives c of δ = σ·(c − a_j)·W_dec[j], of each context by itself: how shards are cut must not matter."""
        ...


def make(name: str, settings: object) -> Intervention:
    """The intervention of that name, with the options that are attributes of the settings of [ablate]."""
    kind = plugins.load("interventions", name)
    return cast(Intervention, kind(**{option: getattr(settings, option) for option in options(name, settings)}))


def options(name: str, settings: object) -> list[str]:
    """The settings of [ablate] that an intervention goes by."""
    kind: Any = plugins.load("interventions", name)
    return [option.name for option in fields(kind) if hasattr(settings, option.name)]
