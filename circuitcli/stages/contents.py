"""What ablations read, said by content and not by place, so that any process that has the files finds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from circuitcli.core.sites import Site
from circuitcli.saes import SaeEntry


@dataclass(frozen=True)
class Content:
    """A file of a run: its path there, where it may lie elsewhere too, its sha256 and, if it is known, its size."""

    name: str
    sha256: str
    bytes: int | None


@dataclass(frozen=True)
class Chosen:
    """A model and its dictionaries.

    Attributes:
        model: The model's name, or its folder, as people typed it.
        identity: What identifies its weights; see `runtime.checkpoint`.
        dtype: Their precision.
        saes: Of all sites, in the model's order; each with the sha256 of its files.
    """

    model: str
    identity: str
    dtype: str
    saes: tuple[SaeEntry, ...]


@dataclass(frozen=True)
class Contents(Chosen):
    """All that ablations of a run read.

    Attributes:
        sample: The sequences.
        sequences: How many of them count, from the first.
        firings: What fires in them at each site.
        next_tokens: In a run on prompts the likeliest next tokens at each position.
        statistics: Of every feature, over the text.
    """

    sample: Content
    sequences: int
    firings: Mapping[Site, tuple[Content, ...]]
    next_tokens: Content | None
    statistics: Content
