"""Reading what is finished: no library that computes is imported, and it takes little longer than reading a table."""

import io
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.commands import environment, spawn
from support.tiny import SMALL

from circuitcli.cli.console import Terminal
from circuitcli.stages import run_all
from circuitcli.stages.spec import STAGES

HEAVY = ("torch", "transformers", "transformer_lens", "datasets", "pandas", "beartype", "huggingface_hub", "tokenizers")
# What every command that reads needs: a reader of tables, and what draws them.
LIBRARIES = "import pyarrow.parquet, rich, typer"
MODULES = (
    "import json, sys; from circuitcli.cli.app import main; sys.argv[0] = 'circuit'\n"
    "try: main()\nexcept SystemExit as end: print(json.dumps([end.code, sorted(sys.modules)]), file=sys.stderr)"
)


@pytest.fixture(scope="module")
def done(start: Callable[..., Any], finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Finished runs, one on a prompt, one of which that is explained, and files that commands read."""
    folder = tmp_path_factory.mktemp("done")
    run = Path(shutil.copytree(finished, folder / "run"))
    texts = {"source": "prompt", "prompt": ["In the beginning God created the heavens"], "file": ""}
    job = start(folder / "prompted", {**SMALL, "texts": texts})
    run_all.run(job, lambda outcome: None)
    drawing = {"graph": {**SMALL["graph"], "of": "attribution"}}
    asked = replace(start(folder / "asked", {**SMALL, "texts": texts, **drawing}), stages=STAGES.drawing("attribution"))
    run_all.run(asked, lambda outcome: None)
    profile = folder / "old.yaml"
    profile.write_text("SEED: 3\nTOP_K: 4\n", encoding="utf-8")
    feature = json.loads((run / "graph/circuit.json").read_text())["nodes"][0]["id"]
    other = Path(shutil.copytree(run, folder / "other"))
    return {
        **{
            "RUN": str(run),
            "PROMPTED": str(job.run.root),
            "ASKED": str(asked.run.root),
            "OTHER": str(other),
            "FEATURE": feature,
        },
        **{"OLD": str(profile), "EDITED": str(other / "graph/circuit.json")},
    }


READING = [
    "run-all --run RUN",
    "fetch-saes --run RUN",
    "cache-acts --run RUN",
    "ablate --run RUN",
    "effects --run RUN",
    "effects --run RUN --feature FEATURE",
    "effects --run PROMPTED --by-position",
    "attribute --run ASKED",
    "run-all --run ASKED",
    "graph --run ASKED --force",
    "graph --run RUN",
    "graph --run RUN --force",
    "graph --run RUN --load EDITED",
    "graph --run PROMPTED --extend RUN --force",
    "diff RUN OTHER",
    "fetch-saes --list",
    "profile import OLD",
    "profile show --run RUN",
    "profile init",
]


def words(command: str, done: dict[str, str]) -> list[str]:
    return [done.get(word, word) for word in command.split()]


@pytest.mark.parametrize("command", READING)
def test_reading_imports_nothing_that_computes(command: str, done: dict[str, str]):
    code = [sys.executable, "-c", MODULES, *words(command, done)]
    ended = subprocess.run(code, env=environment(), capture_output=True, text=True, check=True)
    code, modules = json.loads(ended.stderr.splitlines()[-1])
    assert code == 0, ended.stderr
    assert "circuitcli.cli.session" in modules
    assert [name for name in HEAVY if name in modules] == []


def seconds(*args: str) -> float:
    """Wall time of a process."""
    started = time.perf_counter()
    ended = subprocess.run([sys.executable, *args], env=environment(), capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (ended.returncode, ended.stderr)
    return time.perf_counter() - started


@pytest.mark.timed
@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in READING if "--force" not in command])  # which draws anew
def test_reading_takes_at_most_three_times_what_its_libraries_take(command: str, done: dict[str, str]):
    """The median ratio of pairs taken in turn; where that is more, the machine may be busy: more pairs are taken."""
    pairs: list[float] = []
    for _ in range(4):
        pairs += [seconds("-m", "circuitcli", *words(command, done)) / seconds("-c", LIBRARIES) for _ in range(5)]
        if statistics.median(pairs) <= 3:
            break
    print(f"circuit {command}: ×{statistics.median(pairs):.2f}")
    assert statistics.median(pairs) <= 3


@pytest.mark.timed
def test_the_seconds_that_are_told_are_of_the_whole_process(done: dict[str, str]):
    """Nothing is left to do, so that the stages' own seconds are none: what is told is what the process took."""
    started = time.perf_counter()
    found = spawn("run-all", "--run", done["RUN"], "--json").document
    wall = time.perf_counter() - started
    assert found["stage_seconds"] == {}
    assert 0.5 * wall <= found["seconds"] <= wall


def test_what_came_before_in_the_same_process_isnt_counted(done: dict[str, str]):
    """As with `pipx run`, which installs and then becomes circuit."""
    become = [sys.executable, "-m", "circuitcli", "run-all", "--run", done["RUN"], "--json"]
    code = f"import os, sys, time; time.sleep(5); os.execv(sys.executable, {become!r})"
    ended = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout.splitlines()[-1])["seconds"] < 5


def test_a_spinner_counts_while_nobody_knows_how_long_it_takes(monkeypatch: pytest.MonkeyPatch):
    drawn = io.StringIO()
    terminal = Terminal(as_json=False, quiet=False)
    monkeypatch.setattr(terminal, "_err", Console(file=drawn, force_terminal=True, width=80))
    with terminal.track("Loading", 0, ""), terminal.track("Starting torch", 0, ""):  # one within another
        time.sleep(1.3)
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.getvalue())
    assert "Loading" in lines
    assert re.search(r"Starting torch +1 s", lines)
    assert "0/?" not in lines
    assert len(set(re.findall(r"[⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] Loading", lines))) > 2  # it turns
