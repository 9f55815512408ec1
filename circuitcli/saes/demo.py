"""The dictionaries of the embedded model, which lie inside the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from circuitcli import demo
from circuitcli.core.sites import Site
from circuitcli.saes import Offer, SaeEntry, _locate
from circuitcli.saes._place import File, Located

# Recorded in place of the folder of the installed package, so that a run says the same on every machine.
_PACKAGE = PurePosixPath("circuitcli/demo")


@dataclass(frozen=True)
class Packaged(Located):
    """A dictionary of the package."""

    def _address(self, file: File) -> str:
        assert isinstance(file, Path)
        return str(_PACKAGE / file.relative_to(demo.FOLDER))


@dataclass(frozen=True)
class Release:
    """A folder of the package, and what is told of it unread: what an architecture's activation is takes torch.

    Attributes:
        name: Of its folder in the package.
        offer: What is told.
        taken: The names of sites that are taken where nobody says; None: all.
    """

    name: str
    offer: Offer
    taken: tuple[str, ...] | None = None

    def found(self) -> list[Located]:
        """Its dictionaries."""
        return _locate.in_folder(demo.FOLDER / self.name)


def _offer(name: str, sites: tuple[str, ...], width: int, size: int) -> Offer:
    """In all layers of the embedded model, of which the largest dictionary has so many bytes."""
    return Offer(name, sites, (width,), layers=(0, 1, 2, 3), bytes_each=size, neuronpedia=None)


_ALL = (
    Release(demo.SAES.name, _offer("demo", ("attn_out", "mlp_out", "resid_post"), 1024, 526_888), ("resid_post",)),
    Release(demo.TRANSCODERS.name, _offer("demo-transcoders", ("mlp_in",), 1024, 559_728)),
    Release(demo.CLT.name, _offer("demo-clt", ("mlp_in",), 768, 986_752)),
)
RELEASES = {one.offer.name: one for one in _ALL}


class Demo:
    """SAEs of resid_post, attn_out and mlp_out of every layer, a transcoder a layer, and a cross-layer transcoder."""

    def knows(self, release: str) -> bool:
        """Whether it is one of the demo's."""
        return release in RELEASES

    def offers(self) -> list[Offer]:
        """All three."""
        return [release.offer for release in RELEASES.values()]

    def sites(self, release: str, revision: str) -> list[Site]:
        """Every dictionary of the release."""
        return [located.site for located in RELEASES[release].found()]

    def default_sites(self, release: str) -> tuple[str, ...] | None:
        """Of the SAEs the residual stream alone."""
        return RELEASES[release].taken

    def locate(self, release: str, revision: str, sites: Sequence[Site]) -> list[Located]:
        """In the package."""
        _locate.unversioned(release, revision)
        found = _locate.at(RELEASES[release].found(), sites)
        return [Packaged(**vars(located)) for located in found]

    def again(self, entry: SaeEntry) -> Located:
        """In the package, wherever that is now."""
        return Packaged(
            site=entry.at,
            weights=_here(entry.source),
            config=None if entry.config is None else _here(entry.config),
            stated=entry.told,
            more=tuple(map(_here, entry.more)),
            layout=entry.layout,
        )


def _here(address: str) -> Path:
    return demo.FOLDER / PurePosixPath(address).relative_to(_PACKAGE)


plugin = Demo()
