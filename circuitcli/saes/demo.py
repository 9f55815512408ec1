"""The SAEs of the embedded model, which lie inside the package."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from circuitcli import demo
from circuitcli.core.sae import Sae
from circuitcli.core.sites import Site
from circuitcli.saes import SaeEntry, _saelens

# Recorded in place of the folder of the installed package, so that a run says the same on every machine.
_PACKAGE = "circuitcli/demo/saes"


class Demo:
    """The release `demo`: resid_post, attn_out and mlp_out of every layer."""

    def knows(self, release: str) -> bool:
        """Whether it is the demo."""
        return release == "demo"

    def folders(self, release: str) -> dict[Site, Path]:
        """Every SAE in the package."""
        return _saelens.discover(demo.SAES)

    def default_sites(self, release: str) -> tuple[str, ...]:
        """The residual stream alone."""
        return ("resid_post",)

    def entry(self, site: Site, folder: Path) -> SaeEntry:
        """See `SaeSource.entry`."""
        found = _saelens.entry(site, folder)
        return replace(found, source=f"{_PACKAGE}/{folder.name}/sae_weights.safetensors")

    def load(self, entry: SaeEntry) -> Sae:
        """See `SaeSource.load`."""
        inside = os.path.relpath(entry.source, _PACKAGE)
        return _saelens.load(replace(entry, source=str(demo.SAES / inside)))


plugin = Demo()
