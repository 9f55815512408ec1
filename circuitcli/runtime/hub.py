"""The Hugging Face Hub: what a repository holds, and its files in the cache that all its tools share.

One request tells every file's size and the hash of its content: sha256 of a large file (LFS), git's sha1 of a small
one. The hash is also the file's name among the blobs of the cache. A download grows in a partial file of that name, so
that a later try goes on where this one stopped; only what has the hub's size and hash becomes a blob. huggingface_hub
itself starts from nothing again since 2.0. Addresses, tokens, locks, the cache's layout and the errors are its own.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from json import JSONDecodeError
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, get_token, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx's in 1.x, httpx2's in 2.x
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # they come by a lazy __getattr__
    WeakFileLock,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
    validate_repo_id,
)

from circuitcli.errors import CircuitError, HubError, ResourceError, nearest

T = TypeVar("T")

WAITS_S = (1.0, 3.0, 9.0)  # before each further try of a request that failed
PATIENCE_S = 15.0  # the longest wait that the hub may ask for
NAMED = 5  # so many missing files are named

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PAGE = re.compile(r"(https?://[^/]+)/(?:api/)?(?:models/)?(.+?)(?:/(?:resolve|revision|tree|paths-info)/.*)?(?:\?.*)?")
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True)
class RemoteFile:
    """One file of a repository at one commit.

    Attributes:
        sha256: Of a large file, as the hub states it; None for a small one, which is kept in git.
        cached: Where it lies if nothing needs downloading.
        blob: The hash that names its content in the cache: the sha256, or git's sha1.
        partial: Bytes of it that an earlier try has left.
        revision: What was asked for; the cache remembers its commit once the files are there.
    """

    repo: str
    path: str
    commit: str
    size: int | None
    sha256: str | None
    cached: Path | None
    blob: str = ""
    partial: int = 0
    revision: str = ""


class _Broken(HubError):
    """A download that ended too early."""


def total(files: Iterable[RemoteFile]) -> int:
    """Bytes still to download; the same content counts once."""
    missing = {(file.repo, file.blob or file.path): file for file in files if file.cached is None}
    return sum(max((file.size or 0) - file.partial, 0) for file in missing.values())


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
            raise HubError(f"{self._endpoint!r} is no address of a hub.", hint="Unset HF_ENDPOINT, or set it right.")

    def listing(self, repo: str, revision: str = "main") -> list[RemoteFile]:
        """Every file of a repository; if the hub can't be reached, those that the cache has of it.

        Raises:
            HubError: The hub doesn't know or doesn't give it, or can't be reached and the cache has nothing of it.
        """
        folder = self._folder(repo)
        here = folder.listing(revision)
        if constants.HF_HUB_OFFLINE and not here:
            raise _offline(repo, revision, [], {})
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
        if len(here) == len(paths) and (constants.HF_HUB_OFFLINE or _COMMIT.fullmatch(revision)):
            return here
        if constants.HF_HUB_OFFLINE:
            raise _offline(repo, revision, [p for p, file in zip(paths, found, strict=True) if file is None], sizes)
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
            raise _offline(missing[0].repo, missing[0].revision, [file.path for file in missing], sizes)
        self._room(missing)
        paths = []
        for file in files:
            folder = self._folder(file.repo)
            with _writing(self._cache):
                paths.append(self._place(folder, file, advance))
        for file in files:
            self._folder(file.repo).remember(file.revision, file.commit)
        return paths

    def _ask(self, folder: _Folder, revision: str, here: list[RemoteFile]) -> list[RemoteFile]:
        """What the hub says the repository holds; what is `here`, if anything, when it can't be reached."""
        what = f"{folder.repo} at the revision {revision}"
        try:
            return _patiently(lambda: self._listing(folder, revision), () if here else WAITS_S)
        except HTTPError as error:
            if here and _outage(error):
                return here
            raise _translated(error, what) from None
        except JSONDecodeError:
            raise _nonsense(what) from None

    def _listing(self, folder: _Folder, revision: str) -> list[RemoteFile]:
        """One request for the commit, and every file's path, size and hash."""
        _check_token()
        info = HfApi(endpoint=self._endpoint).model_info(
            folder.repo, revision=revision, files_metadata=True, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT
        )
        commit = str(info.sha)
        files = []
        for sibling in info.siblings or []:
            sha256 = sibling.lfs.sha256 if sibling.lfs else None
            blob = sha256 or str(sibling.blob_id)
            known = _COMMIT.fullmatch(commit) and (_SHA256 if sha256 else _COMMIT).fullmatch(blob)
            if not known or sibling.size is None or not _stays_inside(sibling.rfilename):
                raise _nonsense(f"{folder.repo} at the revision {revision}")
            file = RemoteFile(
                folder.repo, sibling.rfilename, commit, sibling.size, sha256, None, blob, revision=revision
            )
            files.append(folder.now(file))
        return files

    def _now(self, file: RemoteFile) -> RemoteFile:
        """A file as the cache has it now; one that nobody has asked the hub about yet is asked about."""
        now = self._folder(file.repo).now(file)
        return now if now.cached or now.blob else self.files(file.repo, [file.path], file.commit)[0]

    def _folder(self, repo: str) -> _Folder:
        try:
            validate_repo_id(repo)
        except HFValidationError:
            raise HubError(
                f"{repo!r} is no name of a repository.", hint="Repositories are named like owner/name."
            ) from None
        return _Folder(self._cache, repo)

    def _room(self, missing: Sequence[RemoteFile]) -> None:
        """Refuse to begin what can't end well."""
        there = next(path for path in (self._cache, *self._cache.absolute().parents) if path.is_dir())
        needed, free = total(missing), shutil.disk_usage(there).free
        if needed > free:
            raise ResourceError(
                f"{_size(needed)} are to be downloaded, but only {_size(free)} are free in {self._cache}.",
                hint="Free some space, or keep the cache elsewhere: set HF_HUB_CACHE to a folder on another disk.",
            )

    def _place(self, folder: _Folder, file: RemoteFile, advance: Callable[[int], None]) -> Path:
        """Download a file if it is missing, one process at a time, and link it into the snapshot of its commit."""
        pointer, blob = folder.pointer(file.commit, file.path), folder.blob(file.blob)
        if pointer.exists():
            return pointer
        folder.locks.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder.locks / f"{file.blob}.lock"):
            if not blob.exists():
                partial = folder.partial(file.blob)
                self._download(file, partial, advance)
                partial.replace(blob)
            folder.link(blob, pointer)
        return pointer

    def _download(self, file: RemoteFile, partial: Path, advance: Callable[[int], None]) -> None:
        """Complete the partial file; it is removed if it isn't what the hub said."""
        what = f"{file.path} of {file.repo}"
        try:
            _patiently(lambda: self._receive(file, partial, advance), WAITS_S)
        except HTTPError as error:
            raise _translated(error, what) from None
        if partial.stat().st_size != file.size or _content(partial, sha256=file.sha256 is not None) != file.blob:
            partial.unlink()
            raise HubError(
                f"{what} isn't what the hub says it is: its size or hash is wrong.",
                hint="It has been removed; run the command again to download it anew.",
            )

    def _receive(self, file: RemoteFile, partial: Path, advance: Callable[[int], None]) -> None:
        """One request for what the partial file lacks; unbuffered, so that what is on disk is all that arrived."""
        size = file.size or 0
        with partial.open("ab", buffering=0) as out:
            have = out.tell()
            if have >= size:
                return
            _check_token()
            headers = {**build_hf_headers(), "accept-encoding": "identity"} | (
                {"range": f"bytes={have}-"} if have else {}
            )
            url = hf_hub_url(file.repo, file.path, revision=file.commit, endpoint=self._endpoint)
            timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
            with get_session().stream("GET", url, headers=headers, timeout=timeout) as response:
                hf_raise_for_status(response)
                if have and response.status_code != 206:  # the whole file again
                    out.truncate(0)
                    advance(-have)
                    have = 0
                with contextlib.suppress(HTTPError):  # the connection broke; what has come is kept
                    for chunk in response.iter_bytes():
                        _write(out, chunk)
                        have += len(chunk)
                        advance(len(chunk))
                        if have > size:
                            break
            os.fsync(out.fileno())
        if have < size:
            raise _Broken(
                f"The download of {file.path} of {file.repo} broke off after {_size(have)} of {_size(size)}.",
                hint="Run the command again: it goes on from there.",
            )


class _Folder:
    """The cache's folder of one repository: refs, blobs and snapshots."""

    def __init__(self, cache: Path, repo: str) -> None:
        name = repo_folder_name(repo_id=repo, repo_type="model")
        self.repo = repo
        self.locks = cache / ".locks" / name
        self._root = cache / name

    def blob(self, name: str) -> Path:
        return self._root / "blobs" / name

    def partial(self, name: str) -> Path:
        """Not the `.incomplete` of other tools: those may be written out of order, and have holes."""
        return self._root / "blobs" / f"{name}.circuit.incomplete"

    def pointer(self, commit: str, path: str) -> Path:
        return self._root / "snapshots" / commit / path

    def commit(self, revision: str) -> str | None:
        """The commit that the cache has for a branch, a tag or a commit."""
        ref = self._root / "refs" / revision
        commit = ref.read_text().strip() if _stays_inside(revision) and ref.is_file() else revision
        return commit if _COMMIT.fullmatch(commit) else None

    def remember(self, revision: str, commit: str) -> None:
        """Note a revision's commit; a cache that can't be written does without."""
        if not _stays_inside(revision) or self.commit(revision) == commit:
            return
        ref = self._root / "refs" / revision
        part = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            ref.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(commit)
            part.replace(ref)

    def listing(self, revision: str) -> list[RemoteFile]:
        """What the cache has of a revision."""
        commit = self.commit(revision)
        snapshot = self.pointer(commit or "-", "")
        paths = sorted(path.relative_to(snapshot).as_posix() for path in snapshot.rglob("*") if path.is_file())
        return [file for file in (self.find(revision, path) for path in paths) if file]

    def find(self, revision: str, path: str) -> RemoteFile | None:
        """A file of a revision, if the cache has it."""
        commit = self.commit(revision)
        if commit is None or not _stays_inside(path):
            return None
        pointer = self.pointer(commit, path)
        if not pointer.is_file():
            return None
        blob = pointer.resolve().name
        sha256 = blob if _SHA256.fullmatch(blob) else None
        return RemoteFile(self.repo, path, commit, pointer.stat().st_size, sha256, pointer, blob, revision=revision)

    def now(self, file: RemoteFile) -> RemoteFile:
        """The same file, with where it lies now, or how much of it."""
        pointer, blob, partial = self.pointer(file.commit, file.path), self.blob(file.blob), self.partial(file.blob)
        there = [path for path in (pointer, blob) if path.is_file()]
        have = partial.stat().st_size if partial.is_file() and not there else 0
        return replace(file, cached=there[0] if there else None, partial=have if have <= (file.size or 0) else 0)

    def link(self, blob: Path, pointer: Path) -> None:
        """Show a blob in a snapshot; where links can't be made, it moves there."""
        pointer.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            try:
                if pointer.is_symlink() and not pointer.exists():
                    pointer.unlink()
                pointer.symlink_to(os.path.relpath(blob, pointer.parent))
            except (NotImplementedError, PermissionError):
                blob.replace(pointer)


def explain(error: BaseException, what: str) -> CircuitError | None:
    """What an error of `transformers` or `datasets` says of the hub; None if the hub isn't to blame.

    `what` is what was wanted: "the model gpt2". Of all that led to the error, an answer of the hub says most. That a
    file isn't in a repository is no answer: both libraries ask for files that may or may not be there.
    """
    causes = list(_causes(error))
    answers = [c for c in causes if isinstance(c, HfHubHTTPError) and not isinstance(c, EntryNotFoundError)]
    network = [c for c in causes if _of_the_network(c)]
    not_in_cache = [c for c in causes if isinstance(c, LocalEntryNotFoundError)]
    not_found = [c for c in causes if type(c).__name__ == "DatasetNotFoundError"]  # it drops the hub's answer
    if constants.HF_HUB_OFFLINE and (not_in_cache or any(isinstance(c, ConnectionError) for c in causes)):
        return HubError(f"HF_HUB_OFFLINE is set, and {what} isn't in the cache.", hint=_online())
    if answers or network:
        return _translated((answers or network)[0], what)
    if any("gated" in str(cause) for cause in not_found):
        return _gated(what, "its page on the hub")
    if not_found:
        return _unknown(what)
    return _unreachable(what, "no connection") if not_in_cache else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that led to it; `datasets` says `from None` of the hub's answers, but Python remembers."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _of_the_network(error: BaseException) -> bool:
    """Whether a library that talks to the network got no answer."""
    library = type(error).__module__.split(".")[0]
    answered = isinstance(error, HfHubHTTPError) or type(error).__name__ == "HTTPStatusError"
    talks = isinstance(error, (ConnectionError, TimeoutError)) or library in ("httpx", "httpx2", "requests", "aiohttp")
    return talks and not answered


def _translated(error: BaseException, what: str) -> HubError:
    """An answer of the hub that isn't the file, or none at all, in two lines. Nothing of the request is repeated."""
    if isinstance(error, HfHubHTTPError):
        return _refusal(error.response, what)
    kind = type(error).__name__
    timed_out, refused = "Timeout" in kind, "Connect" in kind
    reason = "it didn't answer in time" if timed_out else "no connection" if refused else "the connection broke"
    return _unreachable(what, reason)


def _refusal(response: Any, what: str) -> HubError:
    """What an HTTP status other than success means."""
    status, code = response.status_code, response.headers.get("x-error-code")
    found = _PAGE.fullmatch(str(response.request.url))
    page = "/".join(found.groups()) if found else "its page on the hub"
    if code == "GatedRepo":
        return _gated(f"{what} ({status})", page)
    if code == "RevisionNotFound":
        return HubError(
            f"The hub has no such revision: {what} ({status}).", hint=f"Its branches, tags and commits are at {page}."
        )
    if code == "EntryNotFound":
        return HubError(f"The hub has no such file: {what} ({status}).", hint=f"Its files are at {page}.")
    if status == 429:
        wait = _asked_wait(response)
        when = "a while" if wait is None else f"{wait:g} s"
        return HubError(
            f"The hub had too many requests, and puts off {what} ({status}).",
            hint=f"Wait {when}, then run the command again; more are allowed with a token: {_LOG_IN}.",
        )
    if status == 403:
        return HubError(
            f"The hub forbids {what} ({status}).",
            hint=f"Ask for access at {page}, and {_LOG_IN}: the token must be allowed to read it.",
        )
    if status == 401 and (code != "RepoNotFound" or "invalid" in response.headers.get("x-error-message", "").lower()):
        return HubError(
            f"The hub wants a token for {what}, or another one ({status}).", hint=f"To use a valid token, {_LOG_IN}."
        )
    if status in (401, 404):
        return _unknown(f"{what} ({status})")
    return HubError(
        f"The hub failed: it answered {status} for {what}.",
        hint="Run the command again later; what has been downloaded is kept.",
    )


def _gated(what: str, page: str) -> HubError:
    return HubError(f"Access has to be asked for: {what} is gated.", hint=f"Ask for it at {page}, then {_LOG_IN}.")


def _unknown(what: str) -> HubError:
    return HubError(
        f"The hub doesn't know {what}.",
        hint=f"Check the name and the revision; if it is private, {_LOG_IN}.",
    )


def _unreachable(what: str, reason: str) -> HubError:
    return HubError(
        f"The hub couldn't be reached for {what}: {reason}.",
        hint="Check the network and HF_ENDPOINT, then run the command again; what has been downloaded is kept.",
    )


def _nonsense(what: str) -> HubError:
    return HubError(
        f"What answers for {what} isn't a hub.", hint="Check HF_ENDPOINT, and whether the network wants a log-in."
    )


def _offline(repo: str, revision: str, paths: Sequence[str], sizes: Mapping[str, int]) -> HubError:
    """Which files are missing and how large they are, of those whose size is known."""
    if not paths:
        return HubError(
            f"HF_HUB_OFFLINE is set, and nothing of {repo} at the revision {revision} is in the cache.", hint=_online()
        )
    names = ", ".join(paths[:NAMED]) + (f" and {len(paths) - NAMED} more" if len(paths) > NAMED else "")
    known = [sizes[path] for path in paths if path in sizes]
    size = f" ({'at least ' if len(known) < len(paths) else ''}{_size(sum(known))})" if known else ""
    return HubError(f"HF_HUB_OFFLINE is set, and the cache lacks {names} of {repo}{size}.", hint=_online())


def _online() -> str:
    return "Unset HF_HUB_OFFLINE, or fetch them on a machine with a network and copy its cache."


def _guess(path: str, known: Iterable[str]) -> str:
    """The nearest path, without all the others."""
    first = nearest(path, known, what="files").split(" Known files: ")[0]
    return first if first.startswith("Did you mean") else "Look at the repository's files on the hub."


def _patiently(request: Callable[[], T], waits_s: Iterable[float]) -> T:
    """Try again where that may help, and where the hub asks for no long wait."""
    waits = iter(waits_s)
    while True:
        try:
            return request()
        except (HTTPError, _Broken) as error:
            pause = _pause(error, next(waits, None))
            if pause is None:
                raise
        time.sleep(pause)


def _pause(error: BaseException, wait_s: float | None) -> float | None:
    """Seconds before the next try; None if there should be none."""
    if wait_s is None or type(error).__name__.startswith("Connect"):
        return None
    if not isinstance(error, HfHubHTTPError):
        return wait_s
    if not _outage(error):
        return None
    asked = _asked_wait(error.response)
    return wait_s if asked is None else asked if asked <= PATIENCE_S else None


def _outage(error: BaseException) -> bool:
    """Whether the hub, or the way to it, is at fault, and not what was asked."""
    return not isinstance(error, HfHubHTTPError) or error.response.status_code in (408, 429, 500, 502, 503, 504)


def _asked_wait(response: Any) -> float | None:
    """Seconds of Retry-After, or until the window of the rate limit ends."""
    limit = re.search(r";\s*t=(\d+)", response.headers.get("ratelimit", ""))
    text = response.headers.get("retry-after", limit.group(1) if limit else "")
    return float(text) if text.isdecimal() else None


def _check_token() -> None:
    """A token that can't be a header would end up in an error's text."""
    token = get_token()
    if token and not (token.isascii() and token.isprintable()):
        raise HubError("The token for the hub has characters that no token has.", hint=f"To replace it, {_LOG_IN}.")


@contextlib.contextmanager
def _writing(cache: Path) -> Iterator[None]:
    """A full disk, or a cache that can't be written, is no bug."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"The disk is full: the cache {cache} couldn't be written.",
                hint="Free some space and run the command again; what has been downloaded is kept.",
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise ResourceError(
                f"The cache {cache} can't be written.", hint="Set HF_HUB_CACHE to a folder of your own."
            ) from None
        raise


def _write(out: Any, chunk: bytes) -> None:
    """All of a chunk: an unbuffered file may take less at once."""
    rest = memoryview(chunk)
    while rest:
        rest = rest[out.write(rest) :]


def _content(path: Path, *, sha256: bool) -> str:
    """The hash by which the hub knows a file: sha256, or that of a git blob."""
    header = b"blob %d\0" % path.stat().st_size
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, "sha256" if sha256 else lambda: hashlib.sha1(header, usedforsecurity=False)
        ).hexdigest()


def _stays_inside(path: str) -> bool:
    """Whether a path of the hub's stays in the folder that it is joined to."""
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts and parts[0] != "/" and "\\" not in path and "\0" not in path


def _has_port(endpoint: str) -> bool:
    try:
        return urlsplit(endpoint).port != 0
    except ValueError:
        return False


def _size(count: int) -> str:
    """Bytes in human units: 1.2 GB."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB", "PB"]
    while size >= 999.5 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"
