"""A circuit of the demo in somebody's CI: it holds what was measured of it, and without some features it fails."""

import json
from pathlib import Path

import pytest
from support.commands import spawn

TASKS = Path(__file__).parents[2] / "docs" / "tasks"


@pytest.mark.slow
def test_a_circuit_that_closes_a_brace(tmp_path: Path) -> None:
    run, held, less = (tmp_path / name for name in ("run", "held.json", "less.json"))
    few = ["--num-examples", "24", "--candidates", "60", "--draws", "1"]
    for typed in (
        ["fetch-saes", "--model", "demo", "--run", run],
        ["cache-acts", "--run", run],
        ["validate", "--run", run, "--circuit", "none", "--nodes", "30", "--prompts", TASKS / "brace.jsonl", *few],
        ["test", "--run", run, "--write", held],
    ):
        done = spawn(*map(str, typed))
        assert done.code == 0, done.err
    tree = json.loads(held.read_text())
    assert [one["errors"] for one in tree["test"]["faithfulness"]] == ["kept", "sites", "removed"]
    assert all(one["at_least"] > 0.2 for one in tree["test"]["faithfulness"])
    assert spawn("test", str(held)).code == 0
    tree["nodes"] = [node for node in tree["nodes"] if node["layer"] != 2]
    less.write_text(json.dumps(tree))
    done = spawn("test", str(less))
    assert done.code == 6
    assert "3 of 3 thresholds fail" in done.err
