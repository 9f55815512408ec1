"""The command as a process: what it imports, how quickly it answers, closed pipes, terminals and completion."""

import json
import os
import pty
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import command, environment, spawn

HEAVY = (
    "torch",
    "numpy",
    "pyarrow",
    "pydantic",
    "yaml",
    "transformers",
    "transformer_lens",
    "datasets",
    "rich.markdown",
)


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["run-all", "--help"], ["ablate", "--help"], ["diff", "--help"]], ids=" ".join
)
def test_help_imports_nothing_heavy(args: list[str]):
    code = (
        "import json, sys; from circuitcli.cli.app import main; sys.argv[0] = 'circuit'\n"
        "try: main()\nexcept SystemExit as end: print(json.dumps([end.code, sorted(sys.modules)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args], env=environment(), capture_output=True, text=True, check=True
    )
    exit_code, modules = json.loads(done.stdout.splitlines()[-1])
    assert exit_code == 0
    assert [name for name in HEAVY if name in modules] == []
    assert "circuitcli.settings" in modules


def processor_seconds(*args: str) -> float:
    """Processor time of a process: unlike wall time it hardly depends on what else the machine does.

    User and system time together: how a system that counts ticks divides them is chance.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *args], env=environment(), stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.timed
def test_help_takes_little_longer_than_its_libraries():
    """At most 2.5 times what importing typer and rich takes; the least of several, taken in turn."""
    pairs = [
        (processor_seconds("-c", "import typer, rich"), processor_seconds("-m", "circuitcli", "--help"))
        for _ in range(7)
    ]
    libraries, ours = (min(times) for times in zip(*pairs, strict=True))
    assert ours <= 2.5 * libraries


@pytest.mark.parametrize(
    "args",
    [["--help"], ["ablate", "--help"], ["--version"], ["graph", "--json", "--nothing"], ["run-all", "--run", "RUN"]],
    ids=" ".join,
)
def test_closed_pipe(args: list[str], run: Path):
    """Nobody reads: no traceback, and no complaint at exit either."""
    reader, writer = os.pipe()
    os.close(reader)
    args = [str(run) if arg == "RUN" else arg for arg in args]
    done = subprocess.run(
        command(*args), env=environment(), stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False
    )
    os.close(writer)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def on_a_terminal(args: list[str], env: dict[str, str]) -> bytes:
    """All that a command writes to a terminal."""
    ours, its = pty.openpty()
    process = subprocess.Popen(command(*args), env=env, stdin=its, stdout=its, stderr=its)
    os.close(its)
    parts = []
    try:
        while part := os.read(ours, 4096):
            parts.append(part)
    except OSError:  # the terminal was closed
        pass
    process.wait(60)
    os.close(ours)
    return b"".join(parts)


def test_colours_on_a_terminal():
    args = ["graph", "--nothing"]
    assert b"\x1b[1;31mError:\x1b[0m " in on_a_terminal(args, environment(TERM="xterm-256color"))
    assert b"31m" not in on_a_terminal(args, environment(TERM="xterm-256color", NO_COLOR="1"))
    assert b"\x1b" not in on_a_terminal(args, environment(TERM="dumb"))


def test_usage_error_as_json_and_two_lines():
    result = spawn("graph", "--json", "--nothing")
    result.refused(2, "--nothing", "circuit graph --help")
    result.refused_in_json(2)


def test_completion(tmp_path: Path):
    env = environment(HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    shown = spawn("--show-completion", "bash", env=env)
    assert shown.code == 0
    assert "_CIRCUIT_COMPLETE=complete_bash" in shown.out
    installed = spawn("--install-completion", "bash", env=env)
    assert installed.code == 0
    assert (tmp_path / ".bashrc").is_file()
    assert any("_CIRCUIT_COMPLETE" in path.read_text() for path in tmp_path.rglob("*.sh"))


@pytest.mark.parametrize(("typed", "words"), [("circuit ca", {"cache-acts"}), ("circuit graph --max", {"--max-edges"})])
def test_completed_words(typed: str, words: set[str]):
    env = environment(_CIRCUIT_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(typed.split()) - 1))
    assert set(spawn(env=env).out.split()) == words
