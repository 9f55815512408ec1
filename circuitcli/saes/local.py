"""SAEs and transcoders in a folder on disk, in any layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from circuitcli.core.sites import Site
from circuitcli.saes import Offer, SaeEntry, _locate
from circuitcli.saes._place import Located


class Local:
    """A release is a folder that is a dictionary, or holds some."""

    def knows(self, release: str) -> bool:
        """Whether there is such a folder."""
        return bool(release.strip()) and _folder(release).is_dir()

    def offers(self) -> list[Offer]:
        """None: folders have no list."""
        return []

    def sites(self, release: str, revision: str) -> list[Site]:
        """Every dictionary in it."""
        return [located.site for located in _locate.in_folder(_folder(release))]

    def default_sites(self, release: str) -> None:
        """All that it has."""
        return

    def locate(self, release: str, revision: str, sites: Sequence[Site]) -> list[Located]:
        """In the folder."""
        _locate.unversioned(release, revision)
        return _locate.at(_locate.in_folder(_folder(release)), sites)

    def again(self, entry: SaeEntry) -> Located:
        """Where it was."""
        return _locate.again(entry)


def _folder(release: str) -> Path:
    return Path(os.path.expanduser(release)).resolve()


plugin = Local()
