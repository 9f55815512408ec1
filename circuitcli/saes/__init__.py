"""Plug point: where SAEs come from. One file a source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from circuitcli import plugins
from circuitcli.core.sae import Sae
from circuitcli.core.sites import Site
from circuitcli.errors import InputError


@dataclass(frozen=True)
class SaeEntry:
    """What saes.json says of one SAE.

    Attributes:
        layer, site: Where it reads.
        source: The file of its weights.
        revision: The hub's commit; None for a local folder.
        sha256: Of its weights and its configuration.
        d_in, d_sae: Its widths.
        architecture: `standard`, `topk` or `jumprelu`.
        prepend_bos: Whether it was trained on sequences that start with BOS.
        centre: Whether it was trained on a stream whose mean over d_model was removed.
        centre_stated: Whether its configuration says so; if not, it counts as not centred.
    """

    layer: int
    site: str
    source: str
    revision: str | None
    sha256: str
    d_in: int
    d_sae: int
    architecture: str
    prepend_bos: bool
    centre: bool
    centre_stated: bool

    @property
    def at(self) -> Site:
        """Where it reads."""
        return Site(self.layer, self.site)


@runtime_checkable
class SaeSource(Protocol):
    """A place that has releases of SAEs."""

    def knows(self, release: str) -> bool:
        """Whether the release is this source's."""
        ...

    def folders(self, release: str) -> dict[Site, Path]:
        """Every SAE of the release, by site, as a SAELens folder on disk."""
        ...

    def default_sites(self, release: str) -> tuple[str, ...]:
        """The sites that `sites = "auto"` takes."""
        ...

    def entry(self, site: Site, folder: Path) -> SaeEntry:
        """What there is to record of an SAE, its weights checked.

        Raises:
            InputError: The files are missing, corrupt, or of a kind that isn't supported.
        """
        ...

    def load(self, entry: SaeEntry) -> Sae:
        """The SAE, in float32 on the CPU.

        Raises:
            InputError: The weights aren't those that were recorded.
        """
        ...


def source_of(release: str) -> SaeSource:
    """The source that knows a release.

    Raises:
        InputError: None does.
    """
    for name in plugins.names("saes"):
        source: SaeSource = plugins.load("saes", name)
        if source.knows(release):
            return source
    raise InputError(
        f"Unknown release of SAEs `{release}`.",
        hint="Known: demo, and any local folder that holds SAELens folders (cfg.json beside sae_weights.safetensors).",
    )
