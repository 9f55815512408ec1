"""Ctrl-C and termination: two lines that say so and what the same command would do, an exit code, no traceback."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.commands import Result, environment

from circuitcli.errors import TERMINATED

Circuit = Callable[..., Result]

GOES_ON = "The same command goes on from what is done."
FORCED = "The same command starts anew; without --force it goes on from what is done."
KEEPS_NOTHING = "It keeps nothing: the same command starts anew."
ANEW = "The same command starts anew."
STOPPED = {  # what is typed, where it is stopped, and what is said then
    "run-all": (["run-all", "--run", "RUN"], "stages.run_all.run", GOES_ON),
    "run-all --force": (["run-all", "--run", "RUN", "--force"], "stages.run_all.run", FORCED),
    "run-all --dry-run": (["run-all", "--run", "RUN", "--dry-run"], "stages.run_all.dry_run", KEEPS_NOTHING),
    "fetch-saes": (["fetch-saes", "--run", "RUN"], "stages.fetch_saes.run", GOES_ON),
    "fetch-saes --list": (["fetch-saes", "--list"], "stages.fetch_saes.known_releases", KEEPS_NOTHING),
    "cache-acts": (["cache-acts", "--run", "RUN"], "stages.cache_acts.run", GOES_ON),
    "ablate": (["ablate", "--run", "RUN"], "stages.ablate.run", GOES_ON),
    "ablate --dry-run": (["ablate", "--run", "RUN", "--dry-run"], "stages.ablate.preview", KEEPS_NOTHING),
    "effects": (["effects", "--run", "RUN"], "stages.effects.run", GOES_ON),
    "effects --steer": (["effects", "--steer", "1:2=3", "--prompt", "the light"], "stages.steered.run", KEEPS_NOTHING),
    "graph": (["graph", "--run", "RUN"], "stages.graph.run", GOES_ON),
    "validate": (["validate", "--run", "RUN"], "stages.validate.run", GOES_ON),
    "validate --dry-run": (["validate", "--run", "RUN", "--dry-run"], "stages.validate.dry_run", KEEPS_NOTHING),
    "stability": (["stability", "--run", "RUN"], "stages.stability.run", GOES_ON),
    "test": (["test", "RUN/graph/circuit.json"], "stages.thresholds.read", KEEPS_NOTHING),
    "doctor": (["doctor"], "stages.doctor.run", KEEPS_NOTHING),
    "bench": (["bench"], "stages.subject.chosen", KEEPS_NOTHING),
    "diff": (["diff", "RUN", "RUN"], "stages.diff.run", ANEW),
}


@pytest.mark.parametrize("end", [KeyboardInterrupt, lambda: SystemExit(TERMINATED)], ids=["interrupt", "terminate"])
@pytest.mark.parametrize("case", STOPPED)
def test_it_says_so_and_what_comes_next(case: str, end: Any, circuit: Circuit, run: Path, monkeypatch: Any):
    args, place, hint = STOPPED[case]
    module, name = f"circuitcli.{place}".rsplit(".", 1)

    def stop(*args: Any, **more: Any) -> None:
        raise end()

    monkeypatch.setattr(importlib.import_module(module), name, stop)
    typed = [arg.replace("RUN", str(run)) for arg in args]
    result = circuit(*typed)
    code, word = (130, "Interrupted.") if end is KeyboardInterrupt else (143, "Terminated.")
    assert (result.code, result.err.splitlines()[-2:]) == (code, [word, f"Hint: {hint}"])
    assert "Error" not in result.err
    found = circuit(*typed, "--json")
    assert found.document == {"error": {"code": code, "message": word, "hint": hint}}


def test_an_end_of_file_is_a_bug_not_a_wish(circuit: Circuit, run: Path, monkeypatch: Any):
    def end(*args: Any) -> None:
        raise EOFError("nothing left")

    monkeypatch.setattr("circuitcli.stages.effects.run", end)
    with pytest.raises(EOFError, match="nothing left"):
        circuit("effects", "--run", run)


def test_while_it_starts():
    """Before the command line itself is there."""
    code = (
        "import builtins, sys\n"
        "real = builtins.__import__\n"
        "def importing(name, *rest):\n"
        "    if name == 'circuitcli.cli.app': raise KeyboardInterrupt\n"
        "    return real(name, *rest)\n"
        "builtins.__import__ = importing\n"
        "from circuitcli.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, f"Interrupted.\nHint: {ANEW}\n")
