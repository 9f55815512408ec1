"""Files that aren't what the hub says they are: removed, and never shown."""

import shutil
from dataclasses import replace

import pytest
from support.hub import LoopbackHub
from support.hub_client import FILES, LARGE, REPO, SMALL, WEIGHTS, blobs, cache_of, get, refused, shown

from circuitcli.errors import HubError
from circuitcli.runtime.hub import Hub
from circuitcli.runtime.remote import total

pytestmark = pytest.mark.hub


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
