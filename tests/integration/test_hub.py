"""The hub's client against a hub on loopback: what it leaves in the cache, and how each failure ends."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from rich.console import Console
from support.hub import LoopbackHub

from circuitcli.cli.console import Terminal
from circuitcli.errors import CircuitError, HubError, ResourceError, UsageError
from circuitcli.runtime.hub import Hub, asking, download, explain
from circuitcli.runtime.remote import RemoteFile, total

REPO, TOKEN = "owner/saes", "hf_planted"
SMALL, LARGE = "blocks.0/cfg.json", "blocks.0/sae_weights.safetensors"
WEIGHTS = bytes(range(251)) * 4000
FILES = {SMALL: b'{"d_in": 2}', LARGE: WEIGHTS}
TESTS = Path(__file__).parent.parent

pytestmark = pytest.mark.hub


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite is offline; these tests aren't. Nobody waits, and nobody's own token is used."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(asking, "WAITS_S", (0.0, 0.0))
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def server() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        hub.add(REPO, FILES)
        yield hub


@pytest.fixture
def client(server: LoopbackHub, tmp_path: Path) -> Hub:
    return Hub(endpoint=server.endpoint, cache=tmp_path / "cache")


def cache_of(client: Hub) -> Path:
    return client._cache / "models--owner--saes"


def blobs(client: Hub) -> list[str]:
    folder = cache_of(client) / "blobs"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def partial(client: Hub) -> Path:
    (found,) = (cache_of(client) / "blobs").glob("*.incomplete")
    return found


def shown(client: Hub) -> list[Path]:
    return [path for path in cache_of(client).glob("snapshots/**/*") if not path.is_dir()]


def get(client: Hub, *paths: str) -> list[bytes]:
    return [path.read_bytes() for path in client.fetch(client.files(REPO, paths or (SMALL, LARGE)))]


def refused(kind: type[CircuitError], code: int, action: Callable[[], object]) -> str:
    """The two lines of an error of this class and exit code, which say nothing of the token."""
    with pytest.raises(CircuitError) as caught:
        action()
    error = caught.value
    assert isinstance(error, kind)
    assert error.exit_code == code
    for line in (error.message, error.hint):
        assert line
        assert "\n" not in line
        assert line.endswith((".", "?"))
        assert TOKEN not in line
    return f"{error.message} {error.hint}"


def test_files_lie_where_every_other_tool_looks(server: LoopbackHub, client: Hub) -> None:
    commit = server.repositories[REPO].revisions["main"]
    files = client.files(REPO, [LARGE, SMALL])
    assert [file.path for file in files] == [LARGE, SMALL]
    assert {file.commit for file in files} == {commit}
    assert files[0].sha256 == server.repositories[REPO].commits[commit][LARGE].sha256
    assert files[1].sha256 is None
    assert total(files) == sum(map(len, FILES.values()))
    arrived: list[int] = []
    paths = client.fetch(files, arrived.append)
    assert sum(arrived) == total(files)
    for file, path in zip(files, paths, strict=True):
        assert path.read_bytes() == FILES[file.path]
        theirs = huggingface_hub.hf_hub_download(
            REPO, file.path, cache_dir=client._cache, endpoint=server.endpoint, local_files_only=True
        )
        assert Path(theirs) == path
    (scanned,) = huggingface_hub.scan_cache_dir(client._cache).repos
    assert {revision.commit_hash: set(revision.refs) for revision in scanned.revisions} == {commit: {"main"}}
    assert not huggingface_hub.scan_cache_dir(client._cache).warnings


def test_files_of_other_tools_are_used(server: LoopbackHub, client: Hub) -> None:
    for path in FILES:
        huggingface_hub.hf_hub_download(REPO, path, cache_dir=client._cache, endpoint=server.endpoint)
    before = len(server.sent(""))
    files = client.files(REPO, list(FILES))
    assert total(files) == 0
    assert [file.cached.read_bytes() for file in files if file.cached] == list(FILES.values())
    assert get(client) == list(FILES.values())
    assert len(server.sent("")) == before


def test_a_commit_in_the_cache_needs_no_request(server: LoopbackHub, client: Hub) -> None:
    get(client)
    server.requests.clear()
    files = client.files(REPO, list(FILES), server.repositories[REPO].revisions["main"])
    assert client.fetch(files) == [file.cached for file in files]
    assert not server.requests


def test_a_new_commit_downloads_only_what_changed(server: LoopbackHub, client: Hub) -> None:
    get(client)
    commit = server.add(REPO, {**FILES, SMALL: b"{}"})
    server.requests.clear()
    files = client.files(REPO, list(FILES))
    assert total(files) == 2
    paths = client.fetch(files)
    assert [path.read_bytes() for path in paths] == [b"{}", WEIGHTS]
    assert all(commit in str(path) for path in paths)
    assert [request.path.split("/")[-1] for request in server.sent("")] == ["cfg.json"]
    assert (cache_of(client) / "refs/main").read_text() == commit


def test_the_same_content_is_downloaded_once(server: LoopbackHub, client: Hub) -> None:
    server.add(REPO, {"a.pt": WEIGHTS, "b.pt": WEIGHTS, "c.json": b"{}"})
    files = client.files(REPO, ["a.pt", "b.pt", "c.json"])
    assert total(files) == len(WEIGHTS) + 2
    arrived: list[int] = []
    assert [path.read_bytes() for path in client.fetch(files, arrived.append)] == [WEIGHTS, WEIGHTS, b"{}"]
    assert sum(arrived) == total(files)


def test_the_listing_is_all_there_is(client: Hub) -> None:
    assert {file.path: file.size for file in client.listing(REPO)} == {path: len(FILES[path]) for path in FILES}


def test_a_renamed_repository_is_followed(server: LoopbackHub, client: Hub) -> None:
    server.aliases["saes"] = REPO
    (path,) = client.fetch(client.files("saes", [LARGE]))
    assert path.read_bytes() == WEIGHTS


def test_the_token_goes_to_the_hub_alone(server: LoopbackHub, client: Hub) -> None:
    server.token = TOKEN
    assert get(client) == list(FILES.values())
    assert {request.headers["Accept-Encoding"] for request in server.sent("")} == {"identity"}
    told = {(request.origin, request.headers["Authorization"]) for request in server.requests}
    assert told == {("hub", f"Bearer {TOKEN}"), ("cdn", None)}


# What the hub does to the request for the repository or for a file, and what the error then says.
REFUSALS = {
    401: ["401", "hf auth login", "HF_TOKEN"],
    403: ["403", "Ask for access", f"/{REPO}", "HF_TOKEN"],
    404: ["404", "Check the name and the revision"],
    418: ["418", "again later"],
    429: ["429", "Wait 120 s", "HF_TOKEN"],
    500: ["500", "again later"],
    503: ["503", "again later"],
}


@pytest.mark.parametrize("where", ["/api/models/", "/resolve/", "/cdn/"])
@pytest.mark.parametrize("status", REFUSALS)
def test_a_refusal_is_two_lines_and_the_next_try_works(
    server: LoopbackHub, client: Hub, status: int, where: str
) -> None:
    server.fail(where, status=status, times=99, headers={"Retry-After": "120"} if status == 429 else {})
    words = refused(HubError, 4, lambda: get(client, LARGE))
    assert all(word in words for word in (*REFUSALS[status], REPO) if where != "/cdn/" or "/" not in word)
    assert not shown(client)
    server.recover()
    assert get(client) == list(FILES.values())


@pytest.mark.parametrize(("status", "times"), [(408, 2), (429, 2), (500, 2), (502, 2), (503, 2), (504, 2)])
@pytest.mark.parametrize("where", ["/api/models/", "/resolve/"])
def test_a_passing_failure_is_tried_again(
    server: LoopbackHub, client: Hub, where: str, status: int, times: int
) -> None:
    server.fail(where, status=status, times=times)
    assert get(client, LARGE) == [WEIGHTS]
    assert [r.status for r in server.requests if where in r.path][:3] == [
        status,
        status,
        302 if "res" in where else 200,
    ]


@pytest.mark.parametrize(
    ("headers", "waited"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "15"}, 15),
        ({"RateLimit": '"api";r=0;t=9'}, 9),
        ({"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1),  # as without
    ],
)
def test_a_short_wait_is_waited(
    server: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], waited: int
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(asking, "WAITS_S", (1.0,))
    monkeypatch.setattr(asking.time, "sleep", pauses.append)
    server.fail("/api/models/", status=429, headers=headers)
    assert get(client, LARGE) == [WEIGHTS]
    assert pauses == [waited]


@pytest.mark.parametrize(
    ("failure", "waited"),
    [
        ({"status": 503}, [1, 3, 9]),
        ({"status": 429, "headers": {"Retry-After": "2"}}, [2, 2, 2]),
        ({"drop": True}, [1, 3, 9]),
        ({"truncate": 9}, [1, 3, 9]),
    ],
)
def test_waits_grow_and_end(
    server: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch, failure: dict[str, Any], waited: list[int]
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(asking, "WAITS_S", (1.0, 3.0, 9.0))
    monkeypatch.setattr(asking.time, "sleep", pauses.append)
    server.fail("/cdn/", times=9, **failure)
    refused(HubError, 4, lambda: get(client, LARGE))
    assert pauses == waited
    assert sum(request.path.startswith("/cdn/") for request in server.requests) == 4


@pytest.mark.parametrize(("status", "headers"), [(404, {}), (403, {}), (429, {"Retry-After": "16"})])
@pytest.mark.parametrize("where", ["/api/models/", "/resolve/"])
def test_refusals_are_not_asked_again(
    server: LoopbackHub, client: Hub, where: str, status: int, headers: dict[str, str]
) -> None:
    server.fail(where, status=status, times=99, headers=headers)
    refused(HubError, 4, lambda: get(client, LARGE))
    assert sum(where in request.path for request in server.requests) == 1


def test_a_gated_repository_says_where_to_ask(server: LoopbackHub, client: Hub) -> None:
    for status in (401, 403):
        server.gate(REPO, status=status)
        words = refused(HubError, 4, lambda: get(client))
        assert "gated" in words
        assert f"Ask for it at {server.endpoint}/{REPO}, then log in with `hf auth login` or set HF_TOKEN" in words
    server.repositories[REPO].gated = None
    assert get(client) == list(FILES.values())


def test_a_wrong_token_is_not_an_unknown_repository(server: LoopbackHub, client: Hub) -> None:
    server.token = "another"
    assert "wants a token" in refused(HubError, 4, lambda: get(client))


def test_what_is_unknown_is_named(server: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "doesn't know owner/none" in refused(HubError, 4, lambda: client.listing("owner/none"))
    monkeypatch.delenv("HF_TOKEN")  # the hub answers strangers 401, so as not to tell what is private
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", os.devnull)
    assert "doesn't know owner/none" in refused(HubError, 4, lambda: client.listing("owner/none"))
    words = refused(HubError, 4, lambda: client.listing(REPO, "v9"))
    assert f"no such revision: {REPO} at the revision v9" in words
    assert f"{server.endpoint}/{REPO}." in words
    words = refused(HubError, 4, lambda: client.files(REPO, ["blocks.0/sae_weigths.safetensors"]))
    assert f"{REPO} has no file blocks.0/sae_weigths.safetensors at the revision main." in words
    assert f"Did you mean `{LARGE}`?" in words
    for name in ("a/b/c", "../..", "", "owner/with space"):
        assert "no name of a repository" in refused(UsageError, 2, lambda name=name: client.listing(name))


def test_a_long_listing_is_not_printed(server: LoopbackHub, client: Hub) -> None:
    server.add(REPO, {f"blocks.{i}/cfg.json": b"{}" for i in range(100)})
    words = refused(HubError, 4, lambda: client.files(REPO, ["blocks.7/cfg.jsn"]))
    assert "`blocks.7/cfg.json`" in words
    assert "blocks.55" not in words
    assert "blocks.55" not in refused(HubError, 4, lambda: client.files(REPO, ["zzz"]))


@pytest.mark.parametrize("path", [LARGE, SMALL])
def test_a_truncated_download_goes_on_where_it_stopped(
    server: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Without further tries: the second call asks for the rest, and only that is sent."""
    monkeypatch.setattr(asking, "WAITS_S", ())
    stop = len(FILES[path]) // 3
    server.fail(path, truncate=stop)
    assert "broke off after" in refused(HubError, 4, lambda: get(client, path))
    assert partial(client).read_bytes() == FILES[path][:stop]
    assert not shown(client)
    files = client.files(REPO, [path])
    assert total(files) == len(FILES[path]) - stop
    arrived: list[int] = []
    assert client.fetch(files, arrived.append)[0].read_bytes() == FILES[path]
    assert sum(arrived) == total(files)
    first, second = server.sent(path)
    assert (first.headers["Range"], first.sent) == (None, stop)
    assert (second.headers["Range"], second.sent) == (f"bytes={stop}-", len(FILES[path]) - stop)
    assert not any("incomplete" in name for name in blobs(client))


def test_a_broken_connection_goes_on_within_one_call(server: LoopbackHub, client: Hub) -> None:
    server.fail(LARGE, truncate=1000, times=2)
    arrived: list[int] = []
    client.fetch(client.files(REPO, [LARGE]), arrived.append)
    assert [request.sent for request in server.sent(LARGE)] == [1000, 1000, len(WEIGHTS) - 2000]
    assert sum(arrived) == len(WEIGHTS)


def test_a_hub_that_sends_no_parts_sends_the_whole(
    server: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "WAITS_S", ())
    server.fail(LARGE, truncate=900_000)
    refused(HubError, 4, lambda: get(client, LARGE))
    server.ranges = False
    files = client.files(REPO, [LARGE])
    arrived: list[int] = []
    assert client.fetch(files, arrived.append)[0].read_bytes() == WEIGHTS
    assert sum(arrived) == total(files) == len(WEIGHTS) - 900_000


@pytest.mark.parametrize("where", ["/api/models/", "/resolve/", "/cdn/"])
def test_a_dropped_connection(server: LoopbackHub, client: Hub, where: str) -> None:
    server.fail(where, drop=True, times=2)
    assert get(client, LARGE) == [WEIGHTS]
    shutil.rmtree(client._cache)
    server.fail(where, drop=True, times=99)
    assert "couldn't be reached" in refused(HubError, 4, lambda: get(client, LARGE))
    server.recover()
    assert get(client, LARGE) == [WEIGHTS]


def test_a_hub_that_falls_silent(server: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr(asking, "WAITS_S", ())
    server.fail(LARGE, hold=5000)
    assert "broke off after 5 kB of 1 MB" in refused(HubError, 4, lambda: get(client, LARGE))
    assert get(client, LARGE) == [WEIGHTS]
    assert server.sent(LARGE)[1].headers["Range"] == "bytes=5000-"


@pytest.mark.parametrize("path", [LARGE, SMALL])
def test_wrong_bytes_are_removed(server: LoopbackHub, client: Hub, path: str) -> None:
    server.fail(path, corrupt=True)
    assert "isn't what the hub says it is" in refused(HubError, 4, lambda: get(client, path))
    assert not blobs(client)
    assert not shown(client)
    assert get(client, path) == [FILES[path]]
    assert server.sent(path)[1].headers["Range"] is None


@pytest.mark.parametrize(("path", "size"), [(LARGE, 10), (SMALL, 5)])
def test_a_file_longer_than_announced_is_removed(server: LoopbackHub, client: Hub, path: str, size: int) -> None:
    """Even if its hash is right, as of the small one, which comes in one piece. Of a large one no more is read."""
    (file,) = client.files(REPO, [path])
    arrived: list[int] = []
    words = refused(HubError, 4, lambda: client.fetch([replace(file, size=size)], arrived.append))
    assert "isn't what the hub says it is" in words
    assert (sum(arrived) < len(WEIGHTS) // 2) if path == LARGE else (sum(arrived) == len(FILES[SMALL]))
    assert not blobs(client)
    assert not shown(client)


def test_a_spoiled_partial_file_costs_one_more_try(server: LoopbackHub, client: Hub) -> None:
    (file,) = client.files(REPO, [LARGE])
    rubbish = cache_of(client) / "blobs" / f"{file.blob}.circuit.incomplete"
    for content in (b"rubbish", bytes(len(WEIGHTS))):
        rubbish.parent.mkdir(parents=True, exist_ok=True)
        rubbish.write_bytes(content)
        assert "isn't what the hub says it is" in refused(HubError, 4, lambda: get(client, LARGE))
        assert not shown(client)
        assert get(client, LARGE) == [WEIGHTS]
        shutil.rmtree(client._cache)
    rubbish.parent.mkdir(parents=True)
    rubbish.write_bytes(bytes(len(WEIGHTS) + 1))
    assert total(client.files(REPO, [LARGE])) == len(WEIGHTS)
    assert "isn't" in refused(HubError, 4, lambda: get(client, LARGE))


def test_more_than_the_disk_has_is_not_begun(server: LoopbackHub, client: Hub) -> None:
    server.add(REPO, FILES, sizes={LARGE: 10**16})
    words = refused(ResourceError, 5, lambda: get(client))
    assert "10 PB are to be downloaded" in words
    (number, unit) = words.split("but only ")[1].split()[:2]
    free = float(number) * {"MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert free == pytest.approx(shutil.disk_usage(client._cache.parent).free, rel=0.2)
    assert not server.sent("")
    server.add(REPO, FILES)
    assert get(client) == list(FILES.values())


def test_what_just_fits_is_begun(client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    free = sum(map(len, FILES.values()))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free - 1))
    assert "1 MB are to be downloaded" in refused(ResourceError, 5, lambda: get(client))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert get(client) == list(FILES.values())


def test_a_file_that_takes_little_at_once_is_written_whole() -> None:
    class Slow(io.BytesIO):
        def write(self, some: Any) -> int:
            return super().write(some[:3])

    out = Slow()
    download._write(out, b"0123456789")
    assert out.getvalue() == b"0123456789"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_disk_that_fills_up(server: LoopbackHub, client: Hub) -> None:
    """What is written goes to a device that is always full."""
    (file,) = client.files(REPO, [LARGE])
    full = cache_of(client) / "blobs" / f"{file.blob}.circuit.incomplete"
    full.parent.mkdir(parents=True)
    full.symlink_to("/dev/full")
    words = refused(ResourceError, 5, lambda: get(client))
    assert "The disk is full" in words
    assert str(client._cache) in words
    assert [path.name for path in shown(client)] == ["cfg.json"]
    full.unlink()
    server.requests.clear()
    assert get(client) == list(FILES.values())
    assert [request.sent for request in server.sent("")] == [len(WEIGHTS)]


def test_a_disk_that_fills_up_in_the_middle(server: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the disk still took is kept, and is a beginning of the file."""
    room = [300_000]
    write = download._write

    def short(out: io.FileIO, chunk: bytes) -> None:
        if len(chunk) > room[0]:
            out.write(chunk[: room[0]])
            raise OSError(28, "No space left on device")
        room[0] -= len(chunk)
        write(out, chunk)

    monkeypatch.setattr(download, "_write", short)
    assert "The disk is full" in refused(ResourceError, 5, lambda: get(client, LARGE))
    assert partial(client).read_bytes() == WEIGHTS[:300_000]
    monkeypatch.setattr(download, "_write", write)
    assert get(client, LARGE) == [WEIGHTS]
    assert server.sent(LARGE)[1].headers["Range"] == "bytes=300000-"


def test_a_cache_that_cannot_be_written(server: LoopbackHub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    client = Hub(endpoint=server.endpoint, cache=tmp_path / "file")
    assert "can't be written" in refused(ResourceError, 5, lambda: get(client))


def test_offline_asks_nothing_and_says_what_is_missing(
    server: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = client.files(REPO, [SMALL, LARGE])
    get(client, SMALL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    server.requests.clear()
    words = refused(HubError, 4, lambda: client.files(REPO, [SMALL, LARGE], sizes={LARGE: 1_004_000}))
    assert f"HF_HUB_OFFLINE is set, and the cache lacks {LARGE} of {REPO} (1 MB)." in words
    assert "Unset HF_HUB_OFFLINE" in words
    assert f"lacks {LARGE} of {REPO}." in refused(HubError, 4, lambda: client.files(REPO, [SMALL, LARGE]))
    assert f"lacks {LARGE} of {REPO} (1 MB)." in refused(HubError, 4, lambda: client.fetch(waiting))
    unsized = [replace(file, size=None) for file in waiting]
    assert f"lacks {LARGE} of {REPO}." in refused(HubError, 4, lambda: client.fetch(unsized))
    many = [f"{i}.pt" for i in range(9)]
    words = refused(HubError, 4, lambda: client.files(REPO, many, sizes={"0.pt": 1_500_000_000, "1.pt": 700_000_000}))
    assert f"0.pt, 1.pt, 2.pt, 3.pt, 4.pt and 4 more of {REPO} (at least 2.2 GB)" in words
    assert "nothing of owner/other" in refused(HubError, 4, lambda: client.listing("owner/other"))
    assert [file.path for file in client.listing(REPO)] == [SMALL]
    assert get(client, SMALL) == [FILES[SMALL]]
    assert not server.requests


def test_offline_with_everything_there(
    server: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    online = client.files(REPO, [SMALL, LARGE])
    get(client)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    offline = client.files(REPO, [SMALL, LARGE])
    assert [(f.commit, f.size, f.sha256) for f in offline] == [(f.commit, f.size, f.sha256) for f in online]
    assert get(client) == list(FILES.values())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("how", ["gone", "dropped", 500, 503, 429])
def test_a_hub_out_of_reach_is_not_missed_when_the_cache_has_all(
    server: LoopbackHub, client: Hub, how: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    get(client)
    monkeypatch.setattr(asking.time, "sleep", lambda s: pytest.fail("waits"))
    if how == "gone":
        client = Hub(endpoint=_nowhere(), cache=client._cache)
    elif how == "dropped":
        server.fail("/api/", drop=True, times=99)
    else:
        server.fail("/api/", status=int(how), times=99)
    assert get(client) == list(FILES.values())
    assert {file.path for file in client.listing(REPO)} == set(FILES)


def test_a_hub_out_of_reach_is_missed_when_the_cache_has_only_some(client: Hub) -> None:
    get(client, SMALL)
    away = Hub(endpoint=_nowhere(), cache=client._cache)
    assert [file.path for file in away.listing(REPO)] == [SMALL]
    assert "couldn't be reached" in refused(HubError, 4, lambda: get(away))


def test_a_refusal_is_not_passed_over_when_the_cache_has_all(server: LoopbackHub, client: Hub) -> None:
    get(client)
    server.fail("/api/", status=403, times=99)
    refused(HubError, 4, lambda: get(client))


def test_a_hub_out_of_reach(client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking.time, "sleep", lambda s: pytest.fail("waits"))
    for path in (SMALL, LARGE):
        words = refused(HubError, 4, lambda path=path: get(Hub(endpoint=_nowhere(), cache=client._cache), path))
        assert f"couldn't be reached for {REPO} at the revision main: no connection." in words
    unnamed = Hub(endpoint="http://no.such.host.invalid", cache=client._cache)
    assert "couldn't be reached" in refused(HubError, 4, lambda: unnamed.listing(REPO))
    for endpoint in ("nonsense", "http://host:port", "ftp://host", "http://"):
        assert "no address" in refused(HubError, 4, lambda endpoint=endpoint: Hub(endpoint=endpoint))


def test_a_hub_that_never_answers(client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        away = Hub(endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}", cache=client._cache)
        assert "it didn't answer in time" in refused(HubError, 4, lambda: away.listing(REPO))


def test_a_file_that_has_gone(server: LoopbackHub, client: Hub) -> None:
    (file,) = client.files(REPO, [LARGE])
    words = refused(HubError, 4, lambda: client.fetch([replace(file, path="gone")]))
    assert f"no such file: gone of {REPO} (404)" in words
    assert f"{server.endpoint}/{REPO}." in words


def test_where_links_cannot_be_made_files_are_moved(client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", no_link)
    assert get(client) == list(FILES.values())
    assert not any(path.is_symlink() for path in shown(client))
    assert total(client.files(REPO, list(FILES))) == 0
    assert get(client) == list(FILES.values())


@pytest.mark.parametrize("target", ["blob", "elsewhere"])
def test_a_link_to_nothing_is_replaced(client: Hub, target: str) -> None:
    get(client)
    for path in shown(client):
        path.resolve().unlink()
        if target == "elsewhere":
            path.unlink()
            path.symlink_to("elsewhere")
    assert get(client) == list(FILES.values())


def test_what_a_revision_means_need_not_be_noted(client: Hub) -> None:
    cache_of(client).mkdir(parents=True)
    (cache_of(client) / "refs").write_text("")
    assert get(client) == list(FILES.values())


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


def test_a_password_in_the_address_of_the_hub_is_not_printed(tmp_path: Path) -> None:
    for endpoint in ("https://user:S3cret@proxy/hf", "https://S3cret@proxy", "user:S3cret@proxy", "S3cret"):
        words = refused(HubError, 4, lambda endpoint=endpoint: Hub(endpoint=endpoint, cache=tmp_path))
        assert "HF_ENDPOINT" in words
        assert "no user and password" in words
        assert "S3cret" not in words


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


def test_a_token_that_is_none_is_not_printed(client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    files = client.files(REPO, [LARGE])
    for token in ("hf_pläned", "hf_pla\x07nned"):
        monkeypatch.setenv("HF_TOKEN", token)
        for action in (lambda: client.listing(REPO), lambda: client.fetch(files)):
            words = refused(HubError, 4, action)
            assert "characters that no token has" in words
            assert token not in words


def test_a_file_that_is_only_named_is_asked_about(server: LoopbackHub, client: Hub) -> None:
    commit = server.repositories[REPO].revisions["main"]
    (path,) = client.fetch([RemoteFile(REPO, LARGE, commit, None, None, None)])
    assert path.read_bytes() == WEIGHTS


FETCH = """
import sys
from pathlib import Path
from circuitcli.runtime.hub import Hub
hub = Hub(cache=Path(sys.argv[1]))
for path in hub.fetch(hub.files("owner/saes", sys.argv[2:])):
    print(path, path.stat().st_size)
"""


def start(server: LoopbackHub, program: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Another process, whose hub is the one on loopback."""
    environment = {**os.environ, "HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=TESTS.parent)


def test_a_killed_download_goes_on_where_it_stopped(server: LoopbackHub, client: Hub) -> None:
    stop = 400_000
    server.fail(LARGE, hold=stop)
    process = start(server, FETCH, client._cache, LARGE)
    until(lambda: any(path.stat().st_size == stop for path in cache_of(client).glob("blobs/*.incomplete")))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert not shown(client)
    assert get(client, LARGE) == [WEIGHTS]
    assert [(r.headers["Range"], r.sent) for r in server.sent(LARGE)] == [
        (None, stop),
        (f"bytes={stop}-", len(WEIGHTS) - stop),
    ]


def test_two_processes_download_once(server: LoopbackHub, client: Hub) -> None:
    server.fail(LARGE, hold=400_000)
    first = start(server, FETCH, client._cache, LARGE)
    until(lambda: bool(server.sent(LARGE)))
    second = start(server, FETCH, client._cache, LARGE)
    until(lambda: sum(request.path.startswith("/api/") for request in server.requests) == 2)
    time.sleep(0.5)
    assert len(server.sent(LARGE)) == 1
    server.released.set()
    outputs = {process.communicate(timeout=60) for process in (first, second)}
    ((out, err),) = outputs
    assert out.endswith(f"{LARGE} {len(WEIGHTS)}\n")
    assert err == ""
    assert sum(request.sent for request in server.sent(LARGE)) == len(WEIGHTS)


def test_threads_download_once(server: LoopbackHub, client: Hub) -> None:
    threads = [threading.Thread(target=get, args=(client,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(request.sent for request in server.sent("")) == sum(map(len, FILES.values()))


EXPLAIN = """
import sys, time
from circuitcli.runtime.hub import explain
time.sleep = lambda seconds: None
what, *names = sys.argv[1:]
for name in names:
    try:
        if what == "model":
            from transformers import AutoConfig
            AutoConfig.from_pretrained(name)
        else:
            from datasets import load_dataset
            print([row["text"] for row in load_dataset(name, streaming=True)["train"]])
    except Exception as error:
        said = explain(error, f"the {what} {name}")
        print("none" if said is None else f"{said.exit_code} {said.message} {said.hint}")
"""


def said(server: LoopbackHub, what: str, *names: str) -> list[str]:
    """What another process reads of datasets, or says of the errors of those libraries."""
    out, err = start(server, EXPLAIN, what, *names).communicate(timeout=240)
    lines = out.splitlines()
    assert len(lines) == len(names), err
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("what", ["model", "dataset"])
def test_errors_of_other_libraries(
    server: LoopbackHub, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("gated", "forbidden", "failing"):
        server.add(f"owner/{name}", {"config.json": b"{}", "train.jsonl": b'{"text": "x"}'}, kind=what)
    server.gate("owner/gated", kind=what)
    server.fail("owner/forbidden", status=403, times=999)
    server.fail("owner/failing", status=503, times=999)
    lines = said(server, what, "owner/aggregated", "owner/gated", "owner/forbidden", "owner/failing")
    assert lines[0].startswith(f"4 The hub doesn't know the {what} owner/aggregated")
    assert lines[1].startswith(f"4 Access has to be asked for: the {what} owner/gated")
    assert lines[2].startswith(f"4 The hub forbids the {what} owner/forbidden (403).")
    assert lines[3].startswith(f"4 The hub failed: it answered 503 for the {what} owner/failing.")
    server.endpoint = _nowhere()
    (line,) = said(server, what, "owner/it")
    assert line.startswith(f"4 The hub couldn't be reached for the {what} owner/it")
    assert TOKEN not in "".join((*lines, line))


@pytest.mark.slow
def test_offline_other_libraries(server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoConfig

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="couldn't connect") as caught:
        AutoConfig.from_pretrained("owner/it", cache_dir=tmp_path)
    error = explain(caught.value, "the model owner/it")
    assert error is not None
    assert error.message == "HF_HUB_OFFLINE is set, and the model owner/it isn't in the cache."


@pytest.mark.slow
def test_a_dataset_streams_from_the_loopback_hub(
    server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    pq.write_table(pa.table({"text": ["one", "two"]}), tmp_path / "x.parquet")
    server.add("owner/rows", {"data/train.parquet": tmp_path / "x.parquet"}, kind="dataset")
    server.add("owner/lines", {"train.jsonl": b'{"text": "three"}\n{"text": "four"}\n'}, kind="dataset")
    assert said(server, "dataset", "owner/rows", "owner/lines") == ["['one', 'two']", "['three', 'four']"]


def test_a_missing_file_is_not_the_hubs_fault(server: LoopbackHub, client: Hub) -> None:
    with pytest.raises(errors.EntryNotFoundError) as caught:
        huggingface_hub.hf_hub_download(REPO, "none", cache_dir=client._cache, endpoint=server.endpoint)
    assert explain(caught.value, "the model x") is None


HOW_THEY_END = {
    401: "The hub wants a token for the model x, or another one (401).",
    403: "The hub forbids the model x (403).",
    429: "The hub had too many requests, and puts off the model x (429).",
    503: "The hub failed: it answered 503 for the model x.",
    "gated": "Access has to be asked for: the model x (403) is gated.",
    "repository": "The hub doesn't know the model x (404).",
    "revision": "The hub has no such revision: the model x (404).",
    "gone": "The hub couldn't be reached for the model x: no connection.",
    "offline": "HF_HUB_OFFLINE is set, and the model x isn't in the cache.",
    "only local": "The hub couldn't be reached for the model x: no connection.",
    "offline, only local": "HF_HUB_OFFLINE is set, and the model x isn't in the cache.",
}


@pytest.mark.parametrize("how", HOW_THEY_END)
def test_errors_of_huggingface_hub_itself(
    server: LoopbackHub, client: Hub, how: str | int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With whatever another library made of them on top."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", "offline" in str(how))
    if isinstance(how, int):
        server.fail(LARGE, status=how, times=99)
    if how == "gated":
        server.gate(REPO)
    more: dict[str, Any] = {"revision": "v9"} if how == "revision" else {"local_files_only": "only local" in str(how)}
    endpoint = _nowhere() if how == "gone" else server.endpoint
    repo = "owner/none" if how == "repository" else REPO
    with pytest.raises((errors.HfHubHTTPError, errors.LocalEntryNotFoundError)) as caught:
        huggingface_hub.hf_hub_download(repo, LARGE, cache_dir=client._cache, endpoint=endpoint, **more)
    raised, remembered = OSError("x can't be loaded"), FileNotFoundError("x has no files")
    raised.__cause__ = remembered.__context__ = caught.value
    for error in (caught.value, raised, remembered):
        words = explain(error, "the model x")
        assert words is not None
        assert words.message == HOW_THEY_END[how]
        assert words.exit_code == 4
        assert TOKEN not in words.message + words.hint


def test_an_answer_says_more_than_a_broken_connection(server: LoopbackHub, client: Hub) -> None:
    server.fail(LARGE, status=403)
    with pytest.raises(errors.LocalEntryNotFoundError) as caught:
        huggingface_hub.hf_hub_download(REPO, LARGE, cache_dir=client._cache, endpoint=server.endpoint)
    error = ConnectionError("x couldn't be reached")
    error.__cause__ = caught.value
    words = explain(error, "the model x")
    assert words is not None
    assert words.message == HOW_THEY_END[403]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Dataset 'a/x' is a gated dataset on the Hub.", "Access has to be asked for: the dataset a/x is gated."),
        ("Dataset 'a/gated' doesn't exist on the Hub or cannot be accessed.", "The hub doesn't know the dataset a/x."),
    ],
)
def test_datasets_that_are_not_found(text: str, words: str) -> None:
    """As `datasets` says it; it drops what the hub answered."""
    error = explain(type("DatasetNotFoundError", (FileNotFoundError,), {})(text), "the dataset a/x")
    assert error is not None
    assert error.message == words


def test_errors_that_are_not_the_hubs() -> None:
    for error in (ValueError("x"), OSError("no file named x"), FileNotFoundError("x"), KeyError("x")):
        assert explain(error, "the model x") is None
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__context__ = other, one
    assert explain(one, "the model x") is None


@pytest.mark.parametrize("library", ["builtins", "httpx", "httpx2", "requests.exceptions", "aiohttp.client"])
def test_errors_of_the_network(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = ConnectionError if library == "builtins" else type("ConnectError", (Exception,), {"__module__": library})
    error = explain(kind("planted"), "the model x")
    assert error is not None
    assert error.message.startswith("The hub couldn't be reached for the model x: ")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    error = explain(ConnectionError("planted"), "the model x")
    assert error is not None
    assert error.message.startswith("HF_HUB_OFFLINE is set")


def test_a_download_shows_bytes_and_speed() -> None:
    terminal = Terminal(as_json=False, quiet=False)
    drawn = io.StringIO()
    terminal._err = Console(file=drawn, force_terminal=True, width=100)
    with terminal.track("Downloading", 5_000_000, "B") as advance:
        for _ in range(4):
            advance(1_250_000)
            time.sleep(0.05)
    assert "5.0/5.0 MB" in drawn.getvalue()
    assert "B/s" in drawn.getvalue()


def until(ready: Callable[[], bool]) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _nowhere() -> str:
    """An address where nobody listens."""
    with LoopbackHub() as gone:
        return gone.endpoint
