"""One file from the hub into the cache: what is missing of it is asked for, and the whole is verified."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import constants, hf_hub_url
from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # it comes from httpx, or httpx2
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # they come by a lazy __getattr__
    WeakFileLock,
    build_hf_headers,
    get_session,
    hf_raise_for_status,
)

from circuitcli.errors import HubError
from circuitcli.runtime.hub.cache import Folder
from circuitcli.runtime.hub.errors import in_units, translated
from circuitcli.runtime.hub.retry import Broken, check_token, retried
from circuitcli.runtime.remote import RemoteFile

Advance = Callable[[int], None]


def place(endpoint: str, folder: Folder, file: RemoteFile, advance: Advance) -> Path:
    """Download a file if it is missing, one process at a time, and link it into the snapshot of its commit.

    Raises:
        HubError: It couldn't be had, or isn't what the hub says it is.
    """
    pointer, blob = folder.pointer(file.commit, file.path), folder.blob(file.blob)
    if pointer.exists():
        return pointer
    folder.locks.mkdir(parents=True, exist_ok=True)
    blob.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(folder.locks / f"{file.blob}.lock"):
        if not blob.exists():
            partial = folder.partial(file.blob)
            _complete(endpoint, file, partial, advance)
            partial.replace(blob)
        folder.link(blob, pointer)
    return pointer


def _complete(endpoint: str, file: RemoteFile, partial: Path, advance: Advance) -> None:
    """Download what the partial file lacks; it is removed if it isn't what the hub said."""
    what = f"{file.path} of {file.repo}"
    try:
        retried(lambda: _receive(endpoint, file, partial, advance))
    except HTTPError as error:
        raise translated(error, what) from None
    if partial.stat().st_size != file.size or _content(partial, sha256=file.sha256 is not None) != file.blob:
        partial.unlink()
        raise HubError(
            f"{what} isn't what the hub says it is: its size or hash is wrong.",
            hint="It has been removed; run the command again to download it anew.",
        )


def _receive(endpoint: str, file: RemoteFile, partial: Path, advance: Advance) -> None:
    """One request for what the partial file lacks; unbuffered, so that what is on disk is all that arrived."""
    size = file.size or 0
    with partial.open("ab", buffering=0) as out:
        have = out.tell()
        if have >= size:
            return
        check_token()
        headers = {**build_hf_headers(), "accept-encoding": "identity"} | ({"range": f"bytes={have}-"} if have else {})
        url = hf_hub_url(file.repo, file.path, revision=file.commit, endpoint=endpoint)
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
        raise Broken(
            f"The download of {file.path} of {file.repo} broke off after {in_units(have)} of {in_units(size)}.",
            hint="Run the command again: it goes on from there.",
        )


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
