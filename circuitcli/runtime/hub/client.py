"""What a person's command asks of a hub and its cache: which files there are, and that they be there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx's in 1.x, httpx2's in 2.x
    HFValidationError,
    HTTPError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it comes by a lazy __getattr__

from circuitcli.errors import HubError, UsageError, nearest
from circuitcli.runtime.hub.cache import COMMIT, SHA256, Folder, check_room, writing
from circuitcli.runtime.hub.download import place
from circuitcli.runtime.hub.errors import NAMED, nonsense, offline, outage, translated
from circuitcli.runtime.hub.retry import check_token, retried
from circuitcli.runtime.remote import RemoteFile, stays_inside


class Hub:
    """A hub and its cache."""

    def __init__(self, *, endpoint: str | None = None, cache: Path | None = None) -> None:
        """Nothing is asked yet.

        Args:
            endpoint: Address of the hub; None is huggingface_hub's own (HF_ENDPOINT).
            cache: Folder of the cache; None is huggingface_hub's own (HF_HUB_CACHE).

        Raises:
            HubError: The endpoint is no address.
        """
        self._endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._cache = Path(cache or constants.HF_HUB_CACHE)
        if not re.fullmatch(r"https?://[\w.\-\[\]:]+(/\S*)?", self._endpoint) or not _has_port(self._endpoint):
            raise HubError(
                "HF_ENDPOINT is no address of a hub.",
                hint="Unset it, or set it to one like https://huggingface.co; it may hold no user and password.",
            )

    def listing(self, repo: str, revision: str = "main") -> list[RemoteFile]:
        """Every file of a repository; if the hub can't be reached, those that the cache has of it.

        Raises:
            UsageError: It is no name of a repository.
            HubError: The hub doesn't know or doesn't give it, or can't be reached and the cache has nothing of it.
        """
        folder = self._folder(repo)
        here = folder.listing(revision)
        if constants.HF_HUB_OFFLINE and not here:
            raise offline(repo, revision, [], {})
        return here if constants.HF_HUB_OFFLINE else self._ask(folder, revision, here)

    def files(
        self, repo: str, paths: Sequence[str], revision: str = "main", *, sizes: Mapping[str, int] = {}
    ) -> list[RemoteFile]:
        """These files of a repository, in this order.

        No request if the revision is a commit and the cache has them all; from the cache too if the hub can't be
        reached. `sizes` in bytes, by path, are what an error says when HF_HUB_OFFLINE is set.

        Raises:
            HubError: The hub doesn't know or doesn't give one of them, or can't be reached and the cache lacks one.
        """
        folder = self._folder(repo)
        found = [folder.find(revision, path) for path in paths]
        here = [file for file in found if file]
        if len(here) == len(paths) and (constants.HF_HUB_OFFLINE or COMMIT.fullmatch(revision)):
            return here
        if constants.HF_HUB_OFFLINE:
            raise offline(repo, revision, [p for p, file in zip(paths, found, strict=True) if file is None], sizes)
        listed = {file.path: file for file in self._ask(folder, revision, here if len(here) == len(paths) else [])}
        for path in paths:
            if path not in listed:
                hint = nearest(path, listed, what="files") if len(listed) <= 2 * NAMED else _guess(path, listed)
                raise HubError(f"{repo} has no file {path} at the revision {revision}.", hint=hint)
        return [listed[path] for path in paths]

    def fetch(self, files: Sequence[RemoteFile], advance: Callable[[int], None] = lambda done: None) -> list[Path]:
        """Where the files lie, in order, once all are there and verified; `advance` is told of bytes that arrive.

        A partial file that turns out to be useless takes its bytes back: `advance` is told a negative number.

        Raises:
            HubError: One of them couldn't be had, or isn't what the hub says it is.
            ResourceError: They don't fit on the disk, or the cache can't be written.
        """
        files = [self._now(file) for file in files]
        missing = [file for file in files if file.cached is None]
        if missing and constants.HF_HUB_OFFLINE:
            sizes = {file.path: file.size for file in missing if file.size is not None}
            raise offline(missing[0].repo, missing[0].revision, [file.path for file in missing], sizes)
        check_room(self._cache, missing)
        paths = []
        for file in files:
            folder = self._folder(file.repo)
            with writing(self._cache):
                paths.append(place(self._endpoint, folder, file, advance))
        for file in files:
            self._folder(file.repo).remember(file.revision, file.commit)
        return paths

    def _ask(self, folder: Folder, revision: str, here: list[RemoteFile]) -> list[RemoteFile]:
        """What the hub says the repository holds; what is `here`, if anything, when it can't be reached."""
        what = f"{folder.repo} at the revision {revision}"
        try:
            return retried(lambda: self._listing(folder, revision), once=bool(here))
        except HTTPError as error:
            if here and outage(error):
                return here
            raise translated(error, what) from None

    def _listing(self, folder: Folder, revision: str) -> list[RemoteFile]:
        """One request for the commit, and every file's path, size and hash."""
        check_token()
        not_a_hub = nonsense(f"{folder.repo} at the revision {revision}")
        try:
            info = HfApi(endpoint=self._endpoint).model_info(
                folder.repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
            )
        except (KeyError, TypeError, ValueError, AttributeError):  # what it makes of an answer that is no listing
            raise not_a_hub from None
        commit = str(info.sha)
        files = []
        for sibling in info.siblings or []:
            path, size = sibling.rfilename, sibling.size
            sha256 = str(sibling.lfs.sha256) if sibling.lfs else None
            blob = sha256 or str(sibling.blob_id)
            known = COMMIT.fullmatch(commit) and (SHA256 if sha256 else COMMIT).fullmatch(blob)
            if not known or type(size) is not int or size < 0 or type(path) is not str or not stays_inside(path):
                raise not_a_hub
            files.append(folder.now(RemoteFile(folder.repo, path, commit, size, sha256, None, blob, revision=revision)))
        return files

    def _now(self, file: RemoteFile) -> RemoteFile:
        """A file as the cache has it now; one that nobody has asked the hub about yet is asked about."""
        now = self._folder(file.repo).now(file)
        return now if now.cached or now.blob else self.files(file.repo, [file.path], file.commit)[0]

    def _folder(self, repo: str) -> Folder:
        try:
            validate_repo_id(repo)
        except HFValidationError:
            raise UsageError(
                f"{repo!r} is no name of a repository.", hint="Repositories are named like owner/name."
            ) from None
        return Folder(self._cache, repo)


def _guess(path: str, known: Iterable[str]) -> str:
    """The nearest path, without all the others."""
    first = nearest(path, known, what="files").split(" Known files: ")[0]
    return first if first.startswith("Did you mean") else "Look at the repository's files on the hub."


def _has_port(endpoint: str) -> bool:
    try:
        return urlsplit(endpoint).port != 0
    except ValueError:
        return False
