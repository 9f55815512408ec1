"""Dictionaries on the Hugging Face Hub: the releases of `releases.toml`, and any repository that holds some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from circuitcli.core.sites import SITES, Site
from circuitcli.runtime.remote import RemoteFile
from circuitcli.saes import Offer, SaeEntry, _locate
from circuitcli.saes._files import Stated
from circuitcli.saes._place import CONFIG, SCHEME, WEIGHTS, Located, hub

_D_IN, _BYTES = 768, 4  # GPT-2 small's width, in float32


@dataclass(frozen=True)
class Listed:
    """One dictionary of a listed release: its files in the repository, and what is known of it before they are here."""

    site: Site
    weights: str
    config: str | None
    stated: Stated
    neuronpedia: str | None
    d_sae: int | None
    more: tuple[str, ...] = ()
    layout: str = "saelens"
    decoders: int = 1

    @property
    def size(self) -> int | None:
        """Bytes of its weights, nearly; None if its width isn't known."""
        return _BYTES * ((1 + self.decoders) * _D_IN * self.d_sae + self.d_sae + _D_IN) if self.d_sae else None

    @property
    def paths(self) -> list[str]:
        """Its files."""
        return [path for path in (self.weights, self.config, *self.more) if path is not None]


@dataclass(frozen=True)
class Release:
    """A release that `releases.toml` lists."""

    name: str
    repository: str
    saes: tuple[Listed, ...]
    neuronpedia: str | None
    revision: str


@cache
def releases() -> dict[str, Release]:
    """Every listed release, by name."""
    import tomli

    tree = tomli.loads(files("circuitcli.saes").joinpath("releases.toml").read_text(encoding="utf-8"))
    return {
        name: Release(
            name, row["repository"], tuple(_listed(row)), row["saes"][0].get("neuronpedia"), row.get("revision", "main")
        )
        for name, row in tree.items()
    }


def _listed(release: Mapping[str, Any]) -> list[Listed]:
    """The dictionaries of one row of the file."""
    found = []
    for group in release["saes"]:
        for index, layer in enumerate(group["layers"]):
            folder, file = _path(group, "folder", index, layer), _path(group, "file", index, layer)
            site = Site(layer, group["site"])
            writes = Site(layer, group["writes"]) if "writes" in group else None
            factor = _each(group, "scaling_factors", index)
            stated = Stated(site=site, scaling_factor=factor, writes=writes, **release["stated"])
            config = group.get("config", f"{folder}/{CONFIG}" if file is None else _beside(file))
            further = [later for later in group["layers"] if later > layer] if "more" in group else []
            own = [group["more"].format(layer=layer)] if group.get("own") else []
            found.append(
                Listed(
                    site=site,
                    weights=file or f"{folder}/{group.get('weights', WEIGHTS)}",
                    config=config or None,
                    stated=stated,
                    neuronpedia=group["neuronpedia"].format(layer=layer) if "neuronpedia" in group else None,
                    d_sae=release.get("widths", {}).get(str(layer), release.get("d_sae")),
                    more=(*own, *(group["more"].format(layer=later) for later in further)),
                    layout=group.get("layout", "saelens"),
                    decoders=1 + len(further),
                )
            )
    return found


def _each(group: Mapping[str, Any], key: str, index: int) -> Any:
    return group[key][index] if key in group else None


def _path(group: Mapping[str, Any], key: str, index: int, layer: int) -> str | None:
    """The folder or file of a layer: by a pattern, or one of a list."""
    pattern: str | None = group[key] if key in group else _each(group, f"{key}s", index)
    return None if pattern is None else pattern.format(layer=layer)


def _beside(weights: str) -> str | None:
    """The configuration beside a .pt file: of hook-z-kk; that of res-jb's first format lies inside."""
    return None if weights.startswith("final_sparse_autoencoder") else weights.removesuffix(".pt") + "_cfg.json"


class OnHub:
    """A listed release, or hf://owner/repo/path."""

    def knows(self, release: str) -> bool:
        """Whether it is listed, or an address on the hub."""
        return release in releases() or release.startswith(SCHEME)

    def offers(self) -> list[Offer]:
        """Those that are listed."""
        return [
            Offer(
                name=release.name,
                sites=tuple(site for site in SITES if any(sae.site.name == site for sae in release.saes)),
                widths=tuple(sorted({sae.d_sae for sae in release.saes if sae.d_sae})),
                layers=tuple(sorted({sae.site.layer for sae in release.saes})),
                bytes_each=max((sae.size for sae in release.saes if sae.size), default=None),
                neuronpedia=release.neuronpedia,
            )
            for release in releases().values()
        ]

    def sites(self, release: str, revision: str) -> list[Site]:
        """Of a listed release without asking the hub."""
        if release in releases():
            return [sae.site for sae in releases()[release].saes]
        return [located.site for located in _found(release, revision)]

    def default_sites(self, release: str) -> None:
        """All that it has."""
        return

    def locate(self, release: str, revision: str, sites: Sequence[Site]) -> list[Located]:
        """At one commit."""
        if release not in releases():
            return _locate.at(_found(release, revision), sites)
        listed = releases()[release]
        chosen = [sae for site in sites for sae in listed.saes if sae.site == site]
        paths = list(dict.fromkeys(path for sae in chosen for path in sae.paths))
        wanted = listed.revision if revision == "main" else revision
        there = hub().files(
            listed.repository, paths, wanted, sizes={sae.weights: sae.size for sae in chosen if sae.size}
        )
        by_path = dict(zip(paths, there, strict=True))
        return [
            Located(
                site=sae.site,
                weights=by_path[sae.weights],
                config=by_path[sae.config] if sae.config is not None else None,
                stated=sae.stated,
                neuronpedia=sae.neuronpedia,
                more=tuple(by_path[path] for path in sae.more),
                layout=sae.layout,
            )
            for sae in chosen
        ]

    def again(self, entry: SaeEntry) -> Located:
        """At the commit that was recorded."""
        return _locate.again(entry)


def _found(release: str, revision: str) -> list[Located]:
    """The dictionaries at an address on the hub."""
    listed = {(row.repository, row.revision, sae.weights): sae for row in releases().values() for sae in row.saes}
    found = []
    for one in _locate.in_repository(release, revision):
        assert isinstance(one.weights, RemoteFile)
        # The same files, the same reading, whatever they are called by.
        known = listed.get((one.weights.repo, one.weights.revision, one.weights.path))
        stated, neuronpedia = (known.stated, known.neuronpedia) if known else (one.stated, None)
        found.append(replace(one, stated=replace(stated, site=one.site), neuronpedia=neuronpedia))
    return found


plugin = OnHub()
