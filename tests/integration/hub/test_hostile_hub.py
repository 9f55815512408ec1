"""Answers that no hub gives, by mistake or on purpose: nothing leaves the cache."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import constants
from support.hub import LoopbackHub
from support.hub_client import FILES, LARGE, REPO, SMALL, cache_of, get, refused

from circuitcli.errors import HubError
from circuitcli.runtime.hub import Hub
from circuitcli.runtime.remote import RemoteFile

pytestmark = pytest.mark.hub


def test_what_answers_may_be_no_hub(server: LoopbackHub, client: Hub) -> None:
    server.fail("/api/", status=200, times=99)
    assert "isn't a hub" in refused(HubError, 4, lambda: client.listing(REPO))


FILE = {"rfilename": "a.pt", "size": 2, "blobId": "a" * 40}
LFS = {"size": 2, "sha256": "a" * 64, "pointerSize": 130}
NO_LISTINGS: dict[str, Any] = {
    "a message": {"message": "log in"},
    "a list": [],
    "null": None,
    "a string": "hi",
    "a number": 5,
    "siblings": {"siblings": "abc"},
    "a sibling": {"siblings": [5]},
    "size": {"siblings": [{**FILE, "size": "x"}]},
    "true": {"siblings": [{**FILE, "size": True}]},
    "negative": {"siblings": [{**FILE, "size": -1}]},
    "lfs": {"siblings": [{**FILE, "lfs": "x"}]},
    "part of lfs": {"siblings": [{**FILE, "lfs": {"sha256": "a" * 64}}]},
    "hash": {"siblings": [{**FILE, "lfs": {**LFS, "sha256": 5}}]},
    "name": {"siblings": [{**FILE, "rfilename": 5}]},
    "date": {"lastModified": "yesterday", "siblings": [FILE]},
    "no date": {"lastModified": 5, "siblings": [FILE]},
}


@pytest.mark.parametrize("name", ["right", *NO_LISTINGS])
def test_json_that_is_no_listing_is_no_hubs(name: str, client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a network that wants a log-in answers; the right one shows what else the answers have."""
    given = {"siblings": [FILE, {**FILE, "rfilename": "b.pt", "lfs": LFS}]} if name == "right" else NO_LISTINGS[name]
    whole = {"id": REPO, "sha": "b" * 40, **given} if isinstance(given, dict) and "message" not in given else given
    answer = SimpleNamespace(json=lambda: whole)
    monkeypatch.setattr("huggingface_hub.hf_api.get_session", lambda: SimpleNamespace(get=lambda *a, **k: answer))
    monkeypatch.setattr("huggingface_hub.hf_api.hf_raise_for_status", lambda response: None)
    if name == "right":
        assert [file.blob for file in client.listing(REPO)] == ["a" * 40, "a" * 64]
    else:
        assert "isn't a hub" in refused(HubError, 4, lambda: client.listing(REPO))


PATHS_OUT = ["../../../../evil", "/evil", "//evil", "///evil", "a/../../../../evil", "..\\evil", "evil\0", "", "."]


@pytest.mark.parametrize("path", PATHS_OUT)
def test_paths_that_leave_the_cache_are_refused(server: LoopbackHub, client: Hub, path: str) -> None:
    server.add(REPO, {path: b"evil"})
    assert "isn't a hub" in refused(HubError, 4, lambda: client.listing(REPO))
    assert not list(client._cache.parent.rglob("*evil*"))


@pytest.mark.parametrize("path", ["../../../../secret", "{cache}/../secret"])
def test_paths_that_leave_the_cache_are_not_found(
    server: LoopbackHub, client: Hub, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor are revisions that do, though a file with a commit's name lies there."""
    get(client)
    commit = server.repositories[REPO].revisions["main"]
    path = path.format(cache=client._cache)
    for secret in (client._cache / "secret", client._cache.parent / "secret"):
        secret.write_text(commit)
    assert (cache_of(client) / "snapshots" / commit / path).is_file()
    assert "has no file" in refused(HubError, 4, lambda: client.files(REPO, [path], commit))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (cache_of(client) / "refs/spoiled").write_text("../..")
    (client._cache / SMALL).parent.mkdir()
    (client._cache / SMALL).write_text("{}")
    for revision in ("../../secret", str(client._cache / "secret"), "", "spoiled"):
        assert "the cache lacks" in refused(
            HubError, 4, lambda revision=revision: client.files(REPO, [SMALL], revision)
        )
        assert "nothing of" in refused(HubError, 4, lambda revision=revision: client.listing(REPO, revision))


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (SMALL, {"blob": "../../../evil"}),
        (SMALL, {"blob": "a" * 64}),
        (SMALL, {"blob": None}),
        (SMALL, {"size": None}),
        (LARGE, {"sha256": "../../../evil"}),
        (LARGE, {"sha256": "a" * 40}),
    ],
)
def test_hashes_and_sizes_that_are_none_are_refused(
    server: LoopbackHub, client: Hub, path: str, wrong: dict[str, Any]
) -> None:
    repository = server.repositories[REPO]
    entries = repository.commits[repository.revisions["main"]]
    entries[path] = replace(entries[path], **wrong)
    assert "isn't a hub" in refused(HubError, 4, lambda: client.listing(REPO))


def test_commits_that_are_paths_are_refused(server: LoopbackHub, client: Hub) -> None:
    repository = server.repositories[REPO]
    repository.commits["../../evil"] = repository.commits[repository.revisions["main"]]
    repository.revisions["main"] = "../../evil"
    assert "isn't a hub" in refused(HubError, 4, lambda: client.listing(REPO))


def test_revisions_that_leave_the_cache_are_not_written(server: LoopbackHub, client: Hub) -> None:
    server.add(REPO, FILES, revision="feature/new")
    client.fetch(client.files(REPO, [SMALL], "feature/new"))
    assert (cache_of(client) / "refs/feature/new").is_file()
    (file,) = client.files(REPO, [SMALL])
    client.fetch([RemoteFile(*(getattr(file, name) for name in ("repo", "path", "commit", "size", "sha256", "cached")),
                             blob=file.blob, revision="../../../evil")])  # fmt: skip
    assert not list(client._cache.parent.rglob("evil*"))
