"""SAEs in a folder on disk, in SAELens's format."""

from __future__ import annotations

import os
from pathlib import Path

from circuitcli.core.sae import Sae
from circuitcli.core.sites import SITES, Site
from circuitcli.saes import SaeEntry, _saelens


class Local:
    """A release is a folder that is an SAE, or holds folders that are."""

    def knows(self, release: str) -> bool:
        """Whether there is such a folder."""
        return bool(release.strip()) and Path(os.path.expanduser(release)).is_dir()

    def folders(self, release: str) -> dict[Site, Path]:
        """Every SAE in it."""
        return _saelens.discover(Path(os.path.expanduser(release)))

    def default_sites(self, release: str) -> tuple[str, ...]:
        """All sites that it has."""
        names = {site.name for site in self.folders(release)}
        return tuple(name for name in SITES if name in names)

    def entry(self, site: Site, folder: Path) -> SaeEntry:
        """See `SaeSource.entry`."""
        return _saelens.entry(site, folder)

    def load(self, entry: SaeEntry) -> Sae:
        """See `SaeSource.load`."""
        return _saelens.load(entry)


plugin = Local()
