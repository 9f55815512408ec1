"""SAEs whose files are known, and perhaps not yet here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.runtime.remote import RemoteFile
from circuitcli.saes._files import Files, Stated, site_of

SCHEME = "hf://"
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"


@dataclass(frozen=True)
class Located:
    """Where the files of one SAE are.

    Attributes:
        site: Where it reads.
        weights, config: On disk or on the hub; some old formats have no file of configuration.
        stated: What its release says of it.
        neuronpedia: Its source there.
    """

    site: Site
    weights: Path | RemoteFile
    config: Path | RemoteFile | None
    stated: Stated = field(default_factory=Stated)
    neuronpedia: str | None = None

    @property
    def source(self) -> str:
        """The file of its weights, as saes.json has it."""
        return _address(self.weights)

    @property
    def config_source(self) -> str | None:
        """The file of its configuration, likewise."""
        return None if self.config is None else _address(self.config)

    @property
    def remote(self) -> list[RemoteFile]:
        """Those of its files that come from the hub."""
        return [file for file in (self.weights, self.config) if isinstance(file, RemoteFile)]

    @property
    def revision(self) -> str | None:
        """The hub's commit."""
        return self.remote[0].commit if self.remote else None

    def files(self, fetched: Mapping[RemoteFile, Path]) -> Files:
        """Its files on disk, those from the hub where they were fetched to."""
        weights = fetched[self.weights] if isinstance(self.weights, RemoteFile) else self.weights
        config = fetched[self.config] if isinstance(self.config, RemoteFile) else self.config
        return Files(weights=weights, config=config, stated=self.stated)


def _address(file: Path | RemoteFile) -> str:
    return f"{SCHEME}{file.repo}/{file.path}" if isinstance(file, RemoteFile) else str(file)


def in_folder(root: Path) -> list[Located]:
    """The SAELens folders in a folder, or the folder itself, at the site that each one's cfg.json names.

    Raises:
        InputError: There is none, or two read the same site.
    """
    folders = [cfg.parent for cfg in sorted([*root.glob("cfg.json"), *root.glob("*/cfg.json")])]
    if not folders:
        raise InputError(f"There is no SAE in {root}.", hint=f"It needs folders with a {CONFIG} and an {WEIGHTS} each.")
    found = [Located(site_of(folder / CONFIG), folder / WEIGHTS, folder / CONFIG) for folder in folders]
    return one_a_site(found, str(root))


def one_a_site(found: Sequence[Located], release: str) -> list[Located]:
    """Refuse two SAEs at one site."""
    seen: dict[Site, Located] = {}
    for located in found:
        if located.site in seen:
            raise InputError(
                f"Two SAEs in {release} read {located.site}: {seen[located.site].source} and {located.source}.",
                hint="Give a release, folder or path with one SAE a site.",
            )
        seen[located.site] = located
    return list(found)


def at(found: Iterable[Located], sites: Sequence[Site]) -> list[Located]:
    """Those at the sites, in that order."""
    by_site = {located.site: located for located in found}
    return [by_site[site] for site in sites]


def unversioned(release: str, revision: str) -> None:
    """Refuse a revision of what has none."""
    if revision != "main":
        raise InputError(f"The SAEs of {release} have no revisions.", hint="Leave --revision out.")
