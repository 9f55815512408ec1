"""Errors of the hub that other libraries raise, in our words."""

import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from support.hub import LoopbackHub
from support.hub_client import LARGE, REPO, TOKEN, nowhere, start

from circuitcli.runtime.hub import Hub, explain

pytestmark = pytest.mark.hub

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
    server.endpoint = nowhere()
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
    429: "The hub got too many requests, and refuses the model x for now (429).",
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
    endpoint = nowhere() if how == "gone" else server.endpoint
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
