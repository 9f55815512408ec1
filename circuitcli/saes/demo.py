"""The SAEs of the embedded model, which lie inside the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from circuitcli import demo
from circuitcli.core.sites import SITES, Site
from circuitcli.saes import Offer, SaeEntry, _locate
from circuitcli.saes._place import CONFIG, WEIGHTS, Located
from circuitcli.saes._saelens import read_config
from circuitcli.saes._said import Said

# Recorded in place of the folder of the installed package, so that a run says the same on every machine.
_PACKAGE = PurePosixPath("circuitcli/demo/saes")


@dataclass(frozen=True)
class Packaged(Located):
    """An SAE of the package."""

    @property
    def source(self) -> str:
        """Within the package."""
        return self._inside(WEIGHTS)

    @property
    def config_source(self) -> str:
        """Within the package."""
        return self._inside(CONFIG)

    def _inside(self, name: str) -> str:
        assert isinstance(self.weights, Path)
        return str(_PACKAGE / self.weights.parent.name / name)


class Demo:
    """The release `demo`: resid_post, attn_out and mlp_out of every layer."""

    def knows(self, release: str) -> bool:
        """Whether it is called demo."""
        return release == "demo"

    def offers(self) -> list[Offer]:
        """The demo's own release, by the sites and widths that its configurations say.

        They aren't read whole: what an architecture's activation is takes torch to import.
        """
        paths = sorted(demo.SAES.glob(f"*/{CONFIG}"))
        said = [Said(read_config(path), str(path)) for path in paths]
        sites = [site for one in said if (site := one.site())]
        return [
            Offer(
                name="demo",
                sites=tuple(name for name in SITES if any(site.name == name for site in sites)),
                widths=tuple(sorted({width for one in said if (width := one.number("d_sae"))})),
                layers=tuple(sorted({site.layer for site in sites})),
                bytes_each=max((path.parent / WEIGHTS).stat().st_size for path in paths),
                neuronpedia=None,
            )
        ]

    def sites(self, release: str, revision: str) -> list[Site]:
        """Every SAE in the package."""
        return [located.site for located in _locate.in_folder(demo.SAES)]

    def default_sites(self, release: str) -> tuple[str, ...]:
        """The residual stream alone."""
        return ("resid_post",)

    def locate(self, release: str, revision: str, sites: Sequence[Site]) -> list[Located]:
        """In the package."""
        _locate.unversioned(release, revision)
        return [Packaged(**vars(located)) for located in _locate.at(_locate.in_folder(demo.SAES), sites)]

    def again(self, entry: SaeEntry) -> Located:
        """In the package, wherever that is now."""
        folder = demo.SAES / PurePosixPath(entry.source).relative_to(_PACKAGE).parent
        return Packaged(entry.at, folder / WEIGHTS, folder / CONFIG)


plugin = Demo()
