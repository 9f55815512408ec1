"""SAEs on the Hugging Face Hub: the releases of `releases.toml`, and any repository that holds SAELens folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from circuitcli.core.sites import SITES, Site
from circuitcli.errors import InputError, UsageError
from circuitcli.runtime.remote import stays_inside
from circuitcli.saes import Offer, SaeEntry, _locate
from circuitcli.saes._files import Stated, site_of
from circuitcli.saes._locate import CONFIG, SCHEME, WEIGHTS, Located

if TYPE_CHECKING:
    from circuitcli.runtime.hub import Hub

_D_IN, _BYTES = 768, 4  # GPT-2 small's width, in float32


@dataclass(frozen=True)
class Listed:
    """One SAE of a listed release: its files in the repository, and what is known of it before they are here."""

    site: Site
    weights: str
    config: str | None
    stated: Stated
    neuronpedia: str | None
    d_sae: int

    @property
    def size(self) -> int:
        """Bytes of its weights, nearly."""
        return _BYTES * (2 * _D_IN * self.d_sae + self.d_sae + _D_IN)


@dataclass(frozen=True)
class Release:
    """A release that `releases.toml` lists."""

    name: str
    repository: str
    saes: tuple[Listed, ...]
    neuronpedia: str | None


@cache
def releases() -> dict[str, Release]:
    """Every listed release, by name."""
    import tomli

    tree = tomli.loads(files("circuitcli.saes").joinpath("releases.toml").read_text(encoding="utf-8"))
    return {
        name: Release(name, row["repository"], tuple(_listed(row)), row["saes"][0].get("neuronpedia"))
        for name, row in tree.items()
    }


def _listed(release: Mapping[str, Any]) -> list[Listed]:
    """The SAEs of one row of the file."""
    found = []
    for group in release["saes"]:
        for index, layer in enumerate(group["layers"]):
            folder, file = _path(group, "folder", index, layer), _path(group, "file", index, layer)
            site = Site(layer, group["site"])
            stated = Stated(site=site, scaling_factor=_each(group, "scaling_factors", index), **release["stated"])
            found.append(
                Listed(
                    site=site,
                    weights=file or f"{folder}/{WEIGHTS}",
                    config=f"{folder}/{CONFIG}" if file is None else _beside(file),
                    stated=stated,
                    neuronpedia=group["neuronpedia"].format(layer=layer) if "neuronpedia" in group else None,
                    d_sae=release.get("widths", {}).get(str(layer), release["d_sae"]),
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
                widths=tuple(sorted({sae.d_sae for sae in release.saes})),
                layers=tuple(sorted({sae.site.layer for sae in release.saes})),
                bytes_each=max(sae.size for sae in release.saes),
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
        repository = releases()[release].repository
        chosen = [sae for site in sites for sae in releases()[release].saes if sae.site == site]
        paths = [path for sae in chosen for path in (sae.weights, sae.config) if path is not None]
        there = _hub().files(repository, paths, revision, sizes={sae.weights: sae.size for sae in chosen})
        by_path = {file.path: file for file in there}
        return [
            Located(
                sae.site,
                by_path[sae.weights],
                by_path[sae.config] if sae.config is not None else None,
                sae.stated,
                sae.neuronpedia,
            )
            for sae in chosen
        ]

    def again(self, entry: SaeEntry) -> Located:
        """At the commit that was recorded."""
        repo, weights = _split(entry.source)
        paths = [weights, *([_split(entry.config)[1]] if entry.config else [])]
        there = {file.path: file for file in _hub().files(repo, paths, str(entry.revision))}
        config = there[paths[1]] if entry.config else None
        return Located(entry.at, there[weights], config, Stated(site=entry.at, **entry.stated), entry.facts.neuronpedia)


def _hub() -> Hub:
    from circuitcli.runtime.hub import Hub  # only now: releases are listed without it

    return Hub()


def _split(address: str) -> tuple[str, str]:
    """Repository and path of hf://owner/repo/path."""
    owner, _, rest = address.removeprefix(SCHEME).strip("/").partition("/")
    name, _, path = rest.partition("/")
    if not (owner and name) or (path and not stays_inside(path)):
        raise UsageError(
            f"`{address}` names no folder of a repository.", hint="Give hf://owner/repo, or hf://owner/repo/path."
        )
    return f"{owner}/{name}", path


def _found(release: str, revision: str) -> list[Located]:
    """The SAELens folders at an address on the hub; their configurations are fetched to see where they read."""
    hub, (repo, path) = _hub(), _split(release)
    there = {file.path: file for file in hub.listing(repo, revision)}
    folders = [
        folder
        for folder in (file.rpartition("/")[0] for file in there if file.rpartition("/")[2] == CONFIG)
        if (not path or folder == path or folder.startswith(f"{path}/")) and _join(folder, WEIGHTS) in there
    ]
    if not folders:
        raise InputError(
            f"There is no SAE at {release}.", hint=f"It needs folders with a {CONFIG} and an {WEIGHTS} each."
        )
    sites = [site_of(config) for config in hub.fetch([there[_join(folder, CONFIG)] for folder in folders])]
    listed = {(row.repository, sae.weights): sae for row in releases().values() for sae in row.saes}
    found = []
    for folder, site in zip(folders, sites, strict=True):
        weights = _join(folder, WEIGHTS)
        known = listed.get((repo, weights))  # the same files, the same reading, whatever they are called by
        stated, neuronpedia = (known.stated, known.neuronpedia) if known else (Stated(site=site), None)
        found.append(Located(site, there[weights], there[_join(folder, CONFIG)], stated, neuronpedia))
    return _locate.one_a_site(found, release)


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


plugin = OnHub()
