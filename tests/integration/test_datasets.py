"""`--dataset` against a hub on loopback, with the real `datasets` in a process of its own."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.commands import Result, environment, spawn
from support.hub import LoopbackHub

# Asks for each dataset's identity and texts, and prints them, or the error.
ASK = """
import json, sys
from circuitcli.runtime.quiet import hush
hush()
from circuitcli import plugins
from circuitcli.errors import CircuitError
from circuitcli.texts import TextRequest, dataset
dataset.MAX_DOCUMENTS = 30
for value, column in json.loads(sys.argv[1]):
    request = TextRequest((value,), column)
    try:
        print(json.dumps([dataset.plugin.identity(request), list(dataset.plugin.documents(request))]))
    except CircuitError as error:
        print(json.dumps([error.exit_code, f"{error.message} {error.hint}"]))
"""
TWO = b"---\nconfigs:\n- config_name: en\n  data_files: en/*.jsonl\n- config_name: de\n  data_files: de/*.jsonl\n---\n"
PICTURE = b"\x89PNG\r\n\x1a\n"


def lines(texts: list[Any], key: str = "text") -> bytes:
    return "".join(json.dumps({"id": i, key: text}) + "\n" for i, text in enumerate(texts)).encode()


def parquet(texts: list[str]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"id": range(len(texts)), "body": texts}), file, row_group_size=10)
    return file.getvalue()


def two_configurations() -> dict[str, bytes]:
    return {"README.md": TWO, "en/a.jsonl": lines(["one"]), "de/a.jsonl": lines(["eins"])}


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


def place(hub: LoopbackHub, home: Path, **more: str) -> dict[str, str]:
    """The environment of a process that knows this hub alone."""
    return environment(**{"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "0", **more})


def ask(env: dict[str, str], *requests: tuple[str, str]) -> list[list[Any]]:
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(requests)], env=env, capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (0, "")  # other libraries say nothing
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_texts_and_identity_of_datasets_on_the_hub(hub: LoopbackHub, tmp_path: Path):
    texts = [f"text {i} — with «umläuts»" for i in range(50)]
    commits = {
        "a/lines": hub.add("a/lines", {"train.jsonl": lines(texts), "test.jsonl": lines(["no"])}, kind="dataset"),
        "a/columns": hub.add("a/columns", {"data/train-00000-of-00001.parquet": parquet(texts)}, kind="dataset"),
        "a/two": hub.add("a/two", two_configurations(), kind="dataset"),
        "a/nulls": hub.add("a/nulls", {"train.jsonl": lines([None, "", "one", " ", "two"])}, kind="dataset"),
    }
    wanted = {
        ("a/lines", "auto"): ("a/lines default", texts[:30]),
        ("a/columns", "auto"): ("a/columns default", texts[:30]),
        ("a/two:en", "auto"): ("a/two en", ["one"]),
        ("a/two:de", "text"): ("a/two de", ["eins"]),
        ("a/nulls", "auto"): ("a/nulls default", ["one", "two"]),
    }
    found = ask(place(hub, tmp_path), *wanted)
    for (value, _), (start, documents), answer in zip(wanted, wanted.values(), found, strict=True):
        assert answer == [f"{start} {commits[value.partition(':')[0]]}", documents]
    newer = hub.add("a/lines", {"train.jsonl": lines(["new"])}, kind="dataset")
    assert ask(place(hub, tmp_path), ("a/lines", "auto")) == [[f"a/lines default {newer}", ["new"]]]


def test_what_is_wrong_with_a_dataset_is_said(hub: LoopbackHub, tmp_path: Path):
    hub.add("a/gated", {"train.jsonl": lines(["one"])}, kind="dataset")
    hub.gate("a/gated", kind="dataset")
    hub.add("a/script", {"script.py": b"import os", "train.jsonl": lines(["one"])}, kind="dataset")
    hub.add("a/two", two_configurations(), kind="dataset")
    hub.add("a/none", {"README.md": b"nothing here"}, kind="dataset")
    hub.add("a/pictures", {"train/a.png": PICTURE, "train/b.png": PICTURE}, kind="dataset")
    hub.add("a/broken", {"train.jsonl": lines(["one"]) + b"{{{"}, kind="dataset")
    hub.add("a/damaged", {"train.parquet": parquet(["one"])[:-9]}, kind="dataset")
    hub.add("a/yaml", {"README.md": b"---\nconfigs: [a: b: c\n---\n", "train.jsonl": lines(["one"])}, kind="dataset")
    hub.add("a/numbers", {"train.jsonl": lines(list(range(9)))}, kind="dataset")
    hub.add("a/busy", {"train.jsonl": lines(["one"])}, kind="dataset")
    hub.fail("a/busy", status=429, times=1000, headers={"Retry-After": "0"})
    wanted: dict[tuple[str, str], tuple[int, list[str]]] = {
        ("a/unknown", "auto"): (4, ["a/unknown", "hub"]),
        ("a/gated", "auto"): (4, ["a/gated", "gated", "datasets/a/gated"]),
        ("a/script", "auto"): (3, ["a/script", "code"]),
        ("a/two", "auto"): (3, ["a/two", "several configurations", "en, de"]),
        ("a/two:fr", "auto"): (3, ["a/two", "`fr`", "en, de"]),
        ("a/none", "auto"): (3, ["a/none", "no files"]),
        ("a/pictures", "auto"): (3, ["a/pictures", "imagefolder"]),
        ("a/broken", "auto"): (3, ["a/broken", "can't be read"]),
        ("a/damaged", "auto"): (3, ["a/damaged", "can't be read"]),
        ("a/yaml", "auto"): (3, ["a/yaml", "can't be read"]),
        ("a/numbers", "auto"): (3, ["a/numbers", "`text`", "number"]),
        ("a/numbers", "texts"): (3, ["no column `texts`", "Did you mean `text`"]),
        ("a/busy", "auto"): (4, ["a/busy", "429"]),
        ("../a", "auto"): (3, ["../a", "folder"]),
        ("csv", "auto"): (3, ["csv", "folder"]),
    }
    found = ask(place(hub, tmp_path), *wanted)
    for request, (code, words), answer in zip(wanted, wanted.values(), found, strict=True):
        assert answer[0] == code, (request, answer)
        assert not [word for word in words if word not in answer[1]], (request, answer)


@pytest.mark.slow
def test_a_run_reads_a_dataset_notices_a_new_commit_and_needs_no_hub_once_it_has_its_tokens(
    hub: LoopbackHub, run: Path, tiny_text: Path, tmp_path: Path
):
    def cache_acts(*args: str | Path, **more: str) -> Result:
        return spawn("cache-acts", "--run", run, *args, env=place(hub, tmp_path, **more))

    commit = hub.add("a/texts", {"train.jsonl": tiny_text.read_bytes()}, kind="dataset")
    tokens = (run / "acts/tokens.safetensors").read_bytes()
    done = cache_acts("--dataset", "a/texts", "--force")
    assert done.code == 0, done.err
    assert (run / "acts/tokens.safetensors").read_bytes() == tokens  # as of the same texts in a file
    assert commit in (run / "acts/stage.json").read_text()
    away = cache_acts(HF_HUB_OFFLINE="1")
    assert away.code == 0, away.err
    assert "already done" in away.err
    assert away.err.count("can't be asked") == 1
    cache_acts("--column", "text", HF_HUB_OFFLINE="1").refused(4, "HF_HUB_OFFLINE", "a/texts")
    cache_acts("--force", HF_HUB_OFFLINE="1").refused(4, "HF_HUB_OFFLINE", "a/texts")
    hub.add("a/texts", {"train.jsonl": tiny_text.read_bytes() + b"\n"}, kind="dataset")
    cache_acts().refused(3, "text", "--force")
