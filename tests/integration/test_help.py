"""What `--help` shows first, and that its examples are commands."""

import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest
from support.commands import Result
from typer.main import get_command

from circuitcli.cli.app import app
from circuitcli.cli.helped import OFTEN

Circuit = Callable[..., Result]

ROOT: Any = get_command(app)
COMMANDS: dict[str, Any] = {
    **{name: one for name, one in ROOT.commands.items() if name != "profile"},
    **{f"profile {name}": one for name, one in ROOT.commands["profile"].commands.items()},
}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.split()[-1] in OFTEN])
def test_what_most_people_use_comes_first(name: str, circuit: Circuit):
    wanted = OFTEN[name.split()[-1]].split()
    assert len(set(wanted)) == len(wanted) <= 8
    sections = re.split(r"^(\S.*):\n", circuit(*name.split(), "--help").out, flags=re.MULTILINE)[1:]
    titles = sections[::2]
    assert next(title for title in titles if title != "Arguments") == "Most used"
    assert titles[-2:] == ["Options", "Examples"]
    flags = {
        title: re.findall(r"^  (?:-h, )?(--[a-z-]+)", text, re.MULTILINE)
        for title, text in zip(titles, sections[1::2], strict=True)
    }
    assert flags["Most used"] == wanted
    everything = [flag for found in flags.values() for flag in found]
    assert sorted(everything) == sorted({*everything}), "a flag stands twice"
    options = [parameter for parameter in COMMANDS[name].params if parameter.param_type_name == "option"]
    assert {parameter.opts[0] for parameter in options} <= {*everything}


def test_eight_of_run_all():
    assert len(OFTEN["run-all"].split()) == 8


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_commands(name: str, circuit: Circuit):
    """Each is read by the command that it names, flags and values too, and fits a line of 80."""
    text = circuit(*name.split(), "--help").out.split("Examples:\n")[1]
    examples = [line.strip() for line in text.splitlines() if line]
    assert examples
    for example in examples:
        assert len(example) <= 78
        program, *words = shlex.split(example)
        assert program == "circuit"
        assert words[: len(name.split())] == name.split()
        COMMANDS[name].make_context(name, words[len(name.split()) :])


def test_help_of_circuit_itself_cuts_nothing(circuit: Circuit):
    shown = circuit("--help").out
    assert "..." not in shown.partition("Commands:")[2]
    assert "Examples:\n  circuit run-all\n" in shown
