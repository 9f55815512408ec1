"""What a download leaves in the cache: files where every other tool looks, each sent once."""

import io
import threading
import time
from pathlib import Path

import huggingface_hub
import pytest
from rich.console import Console
from support.hub import LoopbackHub
from support.hub_client import FETCH, FILES, LARGE, REPO, SMALL, WEIGHTS, cache_of, get, shown, start, until

from circuitcli.cli.console import Terminal
from circuitcli.runtime.hub import Hub
from circuitcli.runtime.remote import RemoteFile, total

pytestmark = pytest.mark.hub


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


def test_a_file_that_is_only_named_is_asked_about(server: LoopbackHub, client: Hub) -> None:
    commit = server.repositories[REPO].revisions["main"]
    (path,) = client.fetch([RemoteFile(REPO, LARGE, commit, None, None, None)])
    assert path.read_bytes() == WEIGHTS


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
