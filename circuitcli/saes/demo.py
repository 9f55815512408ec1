"""The dictionaries of the embedded model, which lie inside the package."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from safetensors import safe_open

from circuitcli import demo
from circuitcli.core.sites import SITES, Site
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
    """A folder of the package, and the names of sites that are taken of it where nobody says; None: all."""

    name: str
    sites: tuple[str, ...] | None = None

    def found(self) -> list[Located]:
        """Its dictionaries."""
        return _locate.in_folder(demo.FOLDER / self.name)


RELEASES = {
    "demo": Release(demo.SAES.name, ("resid_post",)),
    "demo-transcoders": Release(demo.TRANSCODERS.name),
    "demo-clt": Release(demo.CLT.name),
}


class Demo:
    """SAEs of resid_post, attn_out and mlp_out of every layer, a transcoder a layer, and a cross-layer transcoder."""

    def knows(self, release: str) -> bool:
        """Whether it is one of the demo's."""
        return release in RELEASES

    def offers(self) -> list[Offer]:
        """All three, by the sites that their files say, and the widths of their tensors.

        The files aren't read whole: what an architecture's activation is takes torch to import.
        """
        return [self._offer(name, release.found()) for name, release in RELEASES.items()]

    def _offer(self, name: str, found: Sequence[Located]) -> Offer:
        here = [tuple(file for file in (one.weights, *one.more) if isinstance(file, Path)) for one in found]
        return Offer(
            name=name,
            sites=tuple(name for name in SITES if any(one.site.name == name for one in found)),
            widths=tuple(sorted({_width(weights) for weights, *_ in here})),
            layers=tuple(sorted({one.site.layer for one in found})),
            bytes_each=max(sum(file.stat().st_size for file in files) for files in here),
            neuronpedia=None,
        )

    def sites(self, release: str, revision: str) -> list[Site]:
        """Every dictionary of the release."""
        return [located.site for located in RELEASES[release].found()]

    def default_sites(self, release: str) -> tuple[str, ...] | None:
        """Of the SAEs the residual stream alone."""
        return RELEASES[release].sites

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


def _width(weights: Path) -> int:
    """d_sae, which is the length of b_enc."""
    with safe_open(weights, framework="numpy") as file:
        [name] = (name for name in file.keys() if name.startswith("b_enc"))  # noqa: SIM118
        [width] = file.get_slice(name).get_shape()
        return int(width)


plugin = Demo()
