"""What to do about an error, as one pastes it: the run is named as the command named it."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

from support.commands import Result

import circuitcli
from circuitcli.errors import naming

PACKAGE = Path(circuitcli.__file__).parent


def test_a_hint_repeats_the_run_and_can_be_pasted(circuit: Callable[..., Result], run: Path) -> None:
    """A table that is damaged, in a folder whose name a shell would take apart."""
    odd = run.rename(run.with_name("my run; touch x"))
    table = odd / "acts" / "features.parquet"
    table.write_bytes(table.read_bytes()[:-1])
    refused = circuit("ablate", "--run", odd, "--force")
    assert refused.code == 3
    [said] = re.findall("Run `(circuit cache-acts .*?)`", refused.err)
    assert shlex.split(said) == ["circuit", "cache-acts", "--run", str(odd), "--force"]
    assert circuit(*shlex.split(said)[1:]).code == 0
    assert circuit("ablate", "--run", odd, "--force").code == 0


def test_every_command_in_a_hint_names_its_run() -> None:
    """By itself, or `on this run`; a hint on a file of anybody's names none."""
    assert naming("Run `circuit graph` on this run.", "a b") == "Run `circuit graph --run 'a b'`."
    loose = set()
    for path in PACKAGE.rglob("*.py"):
        for line in path.read_text().splitlines():
            stages = "fetch-saes|cache-acts|ablate|effects|attribute|graph|{stage}|{_STAGE}"
            for found in re.finditer(rf"Run `circuit (?:{stages})[^`]*`( on this run)?", line):
                if "--run" not in found[0] and not found[1]:
                    loose.add(f"{path.name}: {line.strip()}")
    assert not loose
