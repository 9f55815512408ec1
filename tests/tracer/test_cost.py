"""Time and memory of one graph beside circuit-tracer's, at GPT-2 small's shape: a quarter of an hour, by hand.

    CIRCUIT_TRACER_PYTHON=… pytest -m huge -s tests/tracer/test_cost.py      prints what tests/bench/NOTES.md records

Each side runs in a process of its own, one after the other, with the model loaded and the transcoders found before the
clock starts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support import true_transcoders

THEIRS, HERE = os.environ.get("CIRCUIT_TRACER_PYTHON"), Path(__file__).parent
pytestmark = [
    pytest.mark.huge,
    pytest.mark.skipif(THEIRS is None, reason="CIRCUIT_TRACER_PYTHON names no interpreter: nox -s side_by_side"),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("true size")
    true_transcoders.save(folder)
    return folder


def cost(folder: Path, *command: str) -> dict[str, float]:
    without = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    subprocess.run([*command, str(folder)], check=True, env=without | {"OMP_NUM_THREADS": "2"})
    [found] = json.loads((folder / "cost.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(("length", "most"), [(16, 200), (16, 2000), (64, 2000)])
def test_time_and_memory(length: int, most: int, files: Path, tmp_path: Path) -> None:
    ids = torch.randint(0, 50_000, (length - 1,), generator=torch.Generator().manual_seed(length)).tolist()
    job: dict[str, Any] = {"model": str(files / "model"), "transcoders": str(files / "transcoders")}
    job |= {"threads": 2, "prompts": [[0, *ids]], "most": most, "batch": 512, "keep": False}
    (tmp_path / "job.json").write_text(json.dumps(job), encoding="utf-8")
    ours = cost(tmp_path, sys.executable, str(HERE / "cost.py"))
    theirs = cost(tmp_path, str(THEIRS), str(HERE / "theirs.py"), "attribute")
    for name, one in (("ours", ours), ("theirs", theirs)):
        gib = one["peak_bytes"] / 2**30
        print(f"{length} tokens, {most} nodes, {name}: {one['seconds']:.1f} s ({one['busy']:.1f} busy), {gib:.2f} GiB")
    assert 3 * ours["seconds"] <= theirs["seconds"]
    assert ours["peak_bytes"] <= theirs["peak_bytes"] / 2
