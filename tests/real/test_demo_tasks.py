"""docs/evidence.md, three tasks on the demo: the script makes their prompts, and one of them is judged again."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import environment, spawn

from circuitcli import open_run
from circuitcli.core.evidence.summary import Point

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "evidence.md"
TASKS = ("brace", "phrase", "agreement")
FOUND, RIVALS, SIZES = "exact", ("random", "activation"), (30, 100)
# By how much a number of the page may be off: what another machine adds up in another order may flip a close rank.
NEAR = 0.03
COLUMNS = [(30, "kept"), (100, "kept"), (30, "removed"), (100, "removed")]


def test_the_prompts_are_what_the_script_makes(tmp_path: Path) -> None:
    for lot, folder in (("1", tmp_path / "told"), ("0", tmp_path / "chosen")):
        subprocess.run([sys.executable, DOCS / "tasks/make.py", "--lot", lot, "--out", folder], check=True)
    for task in TASKS:
        told, chosen = ((tmp_path / lot / f"{task}.jsonl").read_bytes() for lot in ("told", "chosen"))
        assert told == (DOCS / "tasks" / f"{task}.jsonl").read_bytes()
        assert not set(told.splitlines()) & set(chosen.splitlines())  # none that tasks and settings were chosen on


@pytest.mark.slow
def test_a_found_circuit_is_above_its_rivals(tmp_path: Path) -> None:
    """As the page has it typed, with fewer random draws; every number that its table tells."""
    for command in section().split("```sh\n")[1].split("```")[0].splitlines():
        typed = command.replace("docs/tasks", str(DOCS / "tasks")).replace("runs/", f"{tmp_path}/")
        fewer = ("--draws", "2") if "validate" in typed else ()
        done = spawn(*shlex.split(typed)[1:], *fewer, "--quiet", cwd=tmp_path, env=environment(OMP_NUM_THREADS="2"))
        assert done.code == 0, done.err
    found = open_run(tmp_path / "brace").validation
    measured = {(one.curve, one.n, one.errors): one for one in found.points if one.half == "evaluation"}
    for errors in ("kept", "removed"):
        for n in SIZES:
            for rival in RIVALS:
                assert low(measured[FOUND, n, errors]) > high(measured[rival, n, errors]), (errors, n, rival)
    told = table("Brace")
    assert {"exact", "exact signed", "atp", "activation", "random", "neurons", "dimensions"} == set(told)
    for curve, cells in told.items():
        for (n, errors), cell in zip(COLUMNS, cells, strict=True):
            if cell:
                one = measured[curve, n, errors].faithfulness
                assert numbers(cell) == pytest.approx([one.value, one.low, one.high], abs=NEAR), (curve, n, errors)


@pytest.mark.parametrize("task", TASKS)
def test_the_page_tells_of_circuits_above_their_rivals(task: str) -> None:
    """Of all three, by the intervals in its tables: what its sentences say of them."""
    told = table(task.capitalize())
    for place in range(len(COLUMNS)):
        _, least, _ = numbers(told[FOUND][place])
        assert all(least > numbers(told[rival][place])[2] for rival in RIVALS)


def low(point: Point) -> float:
    assert point.faithfulness.low is not None
    return point.faithfulness.low


def high(point: Point) -> float:
    assert point.faithfulness.high is not None
    return point.faithfulness.high


def section() -> str:
    return PAGE.read_text(encoding="utf-8").split("\n## Three tasks on the demo\n")[1].split("\n## ")[0]


def table(task: str) -> dict[str, list[str]]:
    """The cells of a task's table, by curve."""
    rows = section().split(f"\n### {task}\n")[1].split("\n### ")[0]
    found = (line.strip("|").split("|") for line in rows.splitlines() if line.startswith("| `"))
    return {cells[0].strip(" `"): [cell.strip() for cell in cells[1:]] for cells in found}


def numbers(cell: str) -> list[float]:
    """A value with its interval: `.64 (.60–.67)`."""
    return [float(one.replace("−", "-")) for one in re.findall(r"−?\d*\.\d+", cell)]
