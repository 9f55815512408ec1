"""Offline, and out of reach: what the cache has is enough, and what it lacks is named."""

import socket
from dataclasses import replace

import pytest
from huggingface_hub import constants
from support.hub import LoopbackHub
from support.hub_client import FILES, LARGE, REPO, SMALL, get, nowhere, refused

from circuitcli.errors import HubError
from circuitcli.runtime.hub import Hub, retry

pytestmark = pytest.mark.hub


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
    monkeypatch.setattr(retry.time, "sleep", lambda s: pytest.fail("waits"))
    if how == "gone":
        client = Hub(endpoint=nowhere(), cache=client._cache)
    elif how == "dropped":
        server.fail("/api/", drop=True, times=99)
    else:
        server.fail("/api/", status=int(how), times=99)
    assert get(client) == list(FILES.values())
    assert {file.path for file in client.listing(REPO)} == set(FILES)


def test_a_hub_out_of_reach_is_missed_when_the_cache_has_only_some(client: Hub) -> None:
    get(client, SMALL)
    away = Hub(endpoint=nowhere(), cache=client._cache)
    assert [file.path for file in away.listing(REPO)] == [SMALL]
    assert "couldn't be reached" in refused(HubError, 4, lambda: get(away))


def test_a_refusal_is_not_passed_over_when_the_cache_has_all(server: LoopbackHub, client: Hub) -> None:
    get(client)
    server.fail("/api/", status=403, times=99)
    refused(HubError, 4, lambda: get(client))


def test_a_hub_out_of_reach(client: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry.time, "sleep", lambda s: pytest.fail("waits"))
    for path in (SMALL, LARGE):
        words = refused(HubError, 4, lambda path=path: get(Hub(endpoint=nowhere(), cache=client._cache), path))
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
