"""A disk with too little room, and a cache that can't be written."""

import io
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.hub import LoopbackHub
from support.hub_client import FILES, LARGE, REPO, WEIGHTS, cache_of, get, partial, refused, shown

from circuitcli.errors import ResourceError
from circuitcli.runtime.hub import Hub, download

pytestmark = pytest.mark.hub


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
