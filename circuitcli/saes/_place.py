"""Dictionaries whose files are known, and perhaps not yet here; and folders, here or on a hub, that may hold such."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from circuitcli.core.sites import Site
from circuitcli.errors import UsageError
from circuitcli.runtime.remote import RemoteFile, stays_inside
from circuitcli.saes._files import Files, Stated

if TYPE_CHECKING:
    from circuitcli.runtime.hub import Hub

SCHEME = "hf://"
CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"

File = Path | RemoteFile
_REVISION = "?revision="


@dataclass(frozen=True)
class Located:
    """Where the files of one dictionary are.

    Attributes:
        site: Where it reads.
        weights, config: On disk or on the hub; some formats have no file of configuration.
        stated: What its release says of it.
        neuronpedia: Its source there.
        more: Files of further weights.
        layout: The plug-in of `saes.layouts` that reads them.
    """

    site: Site
    weights: File
    config: File | None
    stated: Stated = field(default_factory=Stated)
    neuronpedia: str | None = None
    more: tuple[File, ...] = ()
    layout: str = "saelens"

    @property
    def source(self) -> str:
        """The file of its weights, as saes.json has it."""
        return self._address(self.weights)

    @property
    def config_source(self) -> str | None:
        """The file of its configuration, likewise."""
        return None if self.config is None else self._address(self.config)

    @property
    def more_sources(self) -> tuple[str, ...]:
        """Those of its further weights, likewise."""
        return tuple(map(self._address, self.more))

    @property
    def remote(self) -> list[RemoteFile]:
        """Those of its files that come from the hub."""
        return [file for file in (self.weights, self.config, *self.more) if isinstance(file, RemoteFile)]

    @property
    def revision(self) -> str | None:
        """The hub's commit, of the first of its files that come from there."""
        return self.remote[0].commit if self.remote else None

    def files(self, fetched: Mapping[RemoteFile, Path]) -> Files:
        """Its files on disk, those from the hub where they were fetched to."""

        def here(file: File) -> Path:
            return fetched[file] if isinstance(file, RemoteFile) else file

        config = None if self.config is None else here(self.config)
        return Files(here(self.weights), config, self.stated, tuple(map(here, self.more)), self.layout)

    def _address(self, file: File) -> str:
        if isinstance(file, Path):
            return str(file)
        commit = "" if file.commit == self.revision else f"{_REVISION}{file.commit}"
        return f"{SCHEME}{file.repo}/{file.path}{commit}"


@dataclass(frozen=True)
class Place:
    """A folder, here or on a hub, whose files are known by name.

    Attributes:
        name: As it was given.
        files: By their paths within it.
    """

    name: str
    files: Mapping[str, File]

    def here(self, paths: Sequence[str]) -> list[Path]:
        """Where some of its files are, once they are on disk.

        Raises:
            HubError: One couldn't be had.
        """
        files = [self.files[path] for path in paths]
        remote = [file for file in files if isinstance(file, RemoteFile)]
        fetched = dict(zip(remote, hub().fetch(remote) if remote else [], strict=True))
        return [fetched[file] if isinstance(file, RemoteFile) else file for file in files]

    def folders(self, *names: str) -> list[str]:
        """The folders that have files of all these names: each ends in /, but for the place itself, which is empty."""
        ends = [path.removesuffix(names[0]) for path in self.files if path.rpartition("/")[2] == names[0]]
        return sorted(folder for folder in ends if all(f"{folder}{name}" in self.files for name in names))

    def matching(self, folder: str, pattern: re.Pattern[str]) -> dict[int, str]:
        """The files in one of its folders whose names match, by the number in them."""
        inside = {path.removeprefix(folder): path for path in self.files if path.startswith(folder)}
        found = {name: pattern.fullmatch(name) for name in inside}
        return dict(sorted((int(match[1]), inside[name]) for name, match in found.items() if match))


def split(address: str) -> tuple[str, str, str | None]:
    """Repository, path and revision, if any, of hf://owner/repo/path?revision=….

    Raises:
        UsageError: It names no folder or file of a repository.
    """
    place, _, revision = address.removeprefix(SCHEME).partition(_REVISION)
    owner, _, rest = place.strip("/").partition("/")
    name, _, path = rest.partition("/")
    if not (owner and name) or (path and not stays_inside(path)):
        raise UsageError(
            f"`{address}` names no folder of a repository.", hint="Give hf://owner/repo, or hf://owner/repo/path."
        )
    return f"{owner}/{name}", path, revision or None


def hub() -> Hub:
    """The hub; its library is imported only now: releases are listed without it."""
    from circuitcli.runtime.hub import Hub

    return Hub()
