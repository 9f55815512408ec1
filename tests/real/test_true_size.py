"""GPT-2 small and res-jb at true size from a hub on loopback, as a user's first command has it; weights are random."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support import truesize
from support.commands import Result, environment, spawn
from support.hub import LoopbackHub

from circuitcli import demo

LAYERS = [4, 5]
# So that it takes a minute; without them it takes some, and the rest is the same.
FEWER = ("--num-sequences", "40", "--max-tokens", "48", "--branching", "2", "--seq-cap", "8")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    lines = (demo.TEXT).read_text(encoding="utf-8").splitlines()
    passages = [json.loads(line)["text"] for line in lines[:240]]
    return [" ".join(passages[i : i + 6]) for i in range(0, len(passages), 6)]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Iterator[LoopbackHub]:
    root = tmp_path_factory.mktemp("true-size")
    model = truesize.save_model(root / "model")
    x = truesize.activations(model, LAYERS, texts)
    saes = [truesize.save_sae(root / f"blocks.{layer}.hook_resid_pre", layer, x[layer]) for layer in LAYERS]
    with LoopbackHub() as hub:
        hub.add(truesize.MODEL, {path.name: path for path in model.iterdir()})
        hub.add(truesize.SAES, {f"{sae.name}/{path.name}": path for sae in saes for path in sae.iterdir()})
        yield hub
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def place(hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("user")
    (folder / "FILE.txt").write_text("\n\n".join(texts), encoding="utf-8")
    return folder


def command(hub: LoopbackHub, place: Path, *more: str) -> Result:
    return spawn(
        "run-all", "--model", "gpt2", "--release", "gpt2-small-res-jb", "--layers", "4:6", "--pin", "4:112",
        "--text", "FILE.txt", "--run", "run", *FEWER, *more, cwd=place, timeout=1200,
        env=environment(HF_ENDPOINT=hub.endpoint, HF_HOME=str(place / "hf"), HF_HUB_OFFLINE="0"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(hub: LoopbackHub, place: Path) -> Result:
    result = command(hub, place, "--json")
    assert result.code == 0, result.err
    return result


def test_the_whole_pipeline_runs(done: Result, place: Path, record_property: pytest.RecordProperty) -> None:
    record_property("seconds", done.document["seconds"])
    record_property("peak_bytes", done.document["peak_memory_bytes"])
    largest_child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"{done.document['seconds']} s, {largest_child / 2**20:.2f} GiB at most")
    features = pq.read_table(place / "run" / "acts" / "features.parquet").to_pandas()
    active = features.groupby("layer").density.sum()
    assert ((active > 40) & (active < 80)).all(), active
    assert (features.groupby("layer").size() == truesize.D_SAE).all()
    effects = pq.read_table(place / "run" / "effects" / "effects.parquet").to_pandas()
    pinned = effects[effects.up_feature == truesize.PINNED]
    assert len(pinned)
    assert set(pinned.down_layer) == {5}
    assert (place / "run" / "graph" / "circuit.svg").is_file()
    assert largest_child * 1024 < 8 * 2**30


def test_what_was_fetched_is_recorded(done: Result, place: Path, hub: LoopbackHub) -> None:
    entries = json.loads((place / "run" / "saes" / "saes.json").read_text())["saes"]
    assert [(e["layer"], e["site"], e["neuronpedia"]) for e in entries] == [
        (4, "resid_pre", "4-res-jb"), (5, "resid_pre", "5-res-jb")]  # fmt: skip
    for entry in entries:
        assert entry["source"].startswith(f"hf://{truesize.SAES}/blocks.{entry['layer']}.hook_resid_pre/")
        assert entry["centre"]
        assert entry["prepend_bos"]
        assert len(entry["revision"]) == 40


def test_again_it_asks_for_nothing(done: Result, place: Path, hub: LoopbackHub) -> None:
    before = len(hub.requests)
    again = command(hub, place, "--json")
    assert set(again.document["stages"].values()) == {"skipped"}, again.err
    assert len(hub.requests) == before
