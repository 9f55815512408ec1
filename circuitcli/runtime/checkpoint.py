"""Where a model's files are: the demo's folder, a local one, or a repository on the hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from circuitcli import demo
from circuitcli.core.shape import ModelShape
from circuitcli.errors import InputError
from circuitcli.runtime import configuration, model_files
from circuitcli.runtime.configuration import CONFIG, shape_of
from circuitcli.runtime.names import check, repository
from circuitcli.runtime.remote import RemoteFile

if TYPE_CHECKING:
    from circuitcli.runtime.hub import Hub

_COMMIT, _SHA256 = re.compile(r"[0-9a-f]{40}"), re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Checkpoint:
    """A model before its weights are loaded.

    Attributes:
        name: As people typed it.
        folder: Where its files are, or will be once `files` are fetched.
        shape: Its sizes.
        commit: The hub's, None of a local folder.
        files: On the hub.
    """

    name: str
    folder: Path
    shape: ModelShape
    commit: str | None
    files: tuple[RemoteFile, ...]

    def config(self) -> Any:
        """Its configuration in transformers.

        Raises:
            InputError: It can't be read.
        """
        return configuration.read(self.name, self.folder)

    def identity(self) -> str:
        """What identifies the weights: the hub's commit, or the sha256 of a local folder's files."""
        return self.commit or model_files.digest(self.name, self.folder)


def unchanged(name: str, identity: str) -> bool:
    """Whether a model is still what its identity says: the files of a folder; a commit of the hub never changes."""
    if _COMMIT.fullmatch(identity):
        return True
    try:
        folder = _local(name)
        return folder is not None and model_files.digest(name, folder) == identity
    except (InputError, OSError):
        return False


def find(name: str, revision: str = "main", hub: Hub | None = None) -> Checkpoint:
    """A model's configuration and where the rest of it is; weights aren't fetched.

    Raises:
        UsageError: It is no name.
        InputError: There is no such folder, or the model is of no kind that can be studied.
        HubError: The hub couldn't be asked, or has no such model.
    """
    check(name, "model", holds=[CONFIG], hint="Models are named like gpt2 or owner/name, or by their folder.")
    local = _local(name)
    if local is not None:
        if revision != "main" and not _SHA256.fullmatch(revision):  # a run asks by what it recorded
            raise InputError(f"The folder {name} has no revisions.", hint="Leave --model-revision out.")
        model_files.check(name, local)
        return Checkpoint(name, local, shape_of(name, local), None, ())
    from circuitcli.runtime.hub import Hub

    repo, hub = repository(name), hub or Hub()
    if _COMMIT.fullmatch(revision):
        [config] = hub.files(repo, [CONFIG], revision)
        # A commit doesn't change: there is no need to ask.
        if config.cached is not None and model_files.complete(name, config.cached.parent):
            model_files.check(name, config.cached.parent)
            return Checkpoint(name, config.cached.parent, shape_of(name, config.cached.parent), revision, ())
    files = model_files.wanted(name, hub.listing(repo, revision), hub)
    [config] = [file for file in files if file.path == CONFIG]
    folder = hub.fetch([config])[0].parent
    return Checkpoint(name, folder, shape_of(name, folder), config.commit, tuple(files))


def _local(name: str) -> Path | None:
    """The folder of the demo, or the folder that the name is."""
    if name == "demo":
        return demo.MODEL
    path = Path(os.path.expanduser(name))
    if (path / CONFIG).exists():
        return path
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"There is no model in the folder {name}.", hint="It needs a config.json and its weights.")
    return None
