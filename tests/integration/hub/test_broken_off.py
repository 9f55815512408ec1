"""Downloads that break off, and go on where they stopped."""

import shutil
import signal

import pytest
from huggingface_hub import constants
from support.hub import LoopbackHub
from support.hub_client import (
    FETCH,
    FILES,
    LARGE,
    REPO,
    SMALL,
    WEIGHTS,
    blobs,
    cache_of,
    get,
    partial,
    refused,
    shown,
    start,
    until,
)

from circuitcli.errors import HubError
from circuitcli.runtime.hub import Hub, retry
from circuitcli.runtime.remote import total

pytestmark = pytest.mark.hub


@pytest.mark.parametrize("path", [LARGE, SMALL])
def test_a_truncated_download_goes_on_where_it_stopped(
    server: LoopbackHub, client: Hub, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Without further tries: the second call asks for the rest, and only that is sent."""
    monkeypatch.setattr(retry, "WAITS_S", ())
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
    monkeypatch.setattr(retry, "WAITS_S", ())
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
    monkeypatch.setattr(retry, "WAITS_S", ())
    server.fail(LARGE, hold=5000)
    assert "broke off after 5 kB of 1 MB" in refused(HubError, 4, lambda: get(client, LARGE))
    assert get(client, LARGE) == [WEIGHTS]
    assert server.sent(LARGE)[1].headers["Range"] == "bytes=5000-"


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
