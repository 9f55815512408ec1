"""The main job, as a person types it: the embedded demo from end to end, its pictures, and its JSON document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from support import browser, geometry

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timed]


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory) -> dict:
    """`circuit run-all --json` in an empty folder, timed."""
    folder = tmp_path_factory.mktemp("demo")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "circuitcli", "run-all", "--json"],
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) | {"folder": folder, "wall": time.monotonic() - started}


def test_it_takes_the_fast_engine(demo_run):
    assert demo_run["engine"] == "places"
    record = json.loads((demo_run["folder"] / demo_run["run"] / "ablations" / "stage.json").read_text())
    assert record["facts"]["engine"] == "places"


def test_it_takes_at_most_a_minute(demo_run):
    assert demo_run["wall"] <= 60


def test_the_whole_takes_at_most_two_and_a_half_times_its_stages(demo_run):
    stages = sum(demo_run["stage_seconds"].values())
    print(f"run-all: {demo_run['wall']:.1f} s, ×{demo_run['wall'] / stages:.2f} of its stages' {stages:.1f} s")
    assert demo_run["wall"] <= 2.5 * stages


def test_it_draws_twenty_edges_over_three_layers(demo_run):
    circuit = json.loads((demo_run["folder"] / demo_run["run"] / "graph" / "circuit.json").read_text())
    assert len(circuit["edges"]) == demo_run["edges"] >= 20
    layers = {node["layer"] for node in circuit["nodes"]}
    assert len(layers) >= 3
    ends = {name for edge in circuit["edges"] for name in (edge["source"], edge["target"])}
    assert ends == {node["id"] for node in circuit["nodes"]}


def test_every_file_is_there_and_every_picture_opens(demo_run):
    for name in demo_run["files"]:
        assert (demo_run["folder"] / name).stat().st_size > 0, name
    graph = demo_run["folder"] / demo_run["run"] / "graph"
    assert ET.parse(graph / "circuit.svg").getroot().tag.endswith("svg")
    assert (graph / "circuit.png").read_bytes().startswith(b"\x89PNG")
    assert Path(graph / "circuit.dot").read_text(encoding="utf-8").startswith("digraph")


def test_no_arrow_runs_behind_a_box(demo_run):
    """In the svg and on the page."""
    graph = demo_run["folder"] / demo_run["run"] / "graph"
    root = ET.parse(graph / "circuit.svg").getroot()
    arrows = list(geometry.arrows(root))
    assert len(arrows) == demo_run["edges"]
    assert geometry.hidden(geometry.frames(root), iter(arrows)) == []
    with browser.chromium() as found:
        page = browser.Opened(found, graph / "circuit.html")
        assert len(page.arrows()) == demo_run["edges"]
        assert page.hidden() == []


def test_heavens_follows_the_opening_words():
    """Plain transformers on the shipped checkpoint."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from circuitcli import demo

    tokenizer = AutoTokenizer.from_pretrained(demo.MODEL)
    model = AutoModelForCausalLM.from_pretrained(demo.MODEL)
    ids = tokenizer(tokenizer.bos_token + "In the beginning, God created the", return_tensors="pt").input_ids
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()) == " heavens"
