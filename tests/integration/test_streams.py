"""What stdout and stderr may be: full, closed, of another encoding; exit codes say what became of the output."""

import subprocess
from pathlib import Path

import pytest
from support.commands import command, environment

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def shell(line: str, *args: str) -> subprocess.CompletedProcess[str]:
    """A command with the redirections of a shell behind it."""
    script = f'"$@" {line}'
    argv = ["bash", "-c", script, "bash", *command(*args)]
    return subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False, timeout=120)


@needs_full
@pytest.mark.parametrize("args", [("profile", "show", "--json"), ("profile", "show"), ("--help",), ("--version",)])
def test_stdout_that_cannot_be_written(args: tuple[str, ...]):
    done = shell(">/dev/full", *args)
    assert done.returncode == 5
    assert done.stderr.splitlines()[0] == "Error: stdout can't be written: No space left on device."
    assert len(done.stderr.splitlines()) == 2, "and no complaint at exit either"


@needs_full
def test_an_error_is_told_though_stdout_cannot_be_written():
    done = shell(">/dev/full", "profile", "show", "--json", "--seed", "-1")
    assert done.returncode == 2
    assert "--seed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("args", "code"), [(["profile", "show"], 0), (["profile", "show", "--json", "--nope"], 2)])
def test_stdout_is_closed(args: list[str], code: int):
    done = shell(">&-", *args)
    assert (done.returncode, done.stdout) == (code, "")
    assert "Traceback" not in done.stderr
    assert ("--nope" in done.stderr) == (code == 2)


@pytest.mark.parametrize("line", ["2>&-", pytest.param("2>/dev/full", marks=needs_full)])
def test_stderr_that_nothing_can_be_written_to(line: str):
    """The code of an error is that of the error, and what goes to stdout goes there."""
    assert shell(line, "profile", "show", "--nope").returncode == 2
    shown = shell(line, "profile", "show", "--nope", "--json")
    assert '"code": 2' in shown.stdout
    assert shell(line, "profile", "show").returncode == 0


def test_all_three_are_closed_and_a_file_is_made(tmp_path: Path):
    """A file that is opened next gets the number of a closed stream, but not what is printed there."""
    made = tmp_path / "p.toml"
    assert shell("<&- >&- 2>&-", "profile", "init", str(made)).returncode == 0
    plain = shell("", "profile", "init")
    assert made.read_text() == plain.stdout


def test_a_limit_on_the_size_of_files(tmp_path: Path):
    script = f'ulimit -f 1; "$@" {tmp_path / "p.toml"}'
    argv = ["bash", "-c", script, "bash", *command("profile", "init")]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 5
    assert "ulimit -f" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
