"""Folders that few people have: names in other bytes, thousands deep, for the shell; without HOME, or a place for
temporary files; and a run that is taken away while it is written."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.commands import Result, contents, environment, spawn

from circuitcli.store import files, tables

Circuit = Callable[..., Result]

NAMES = {
    "other bytes": os.fsdecode(b"caf\xe9-\xff"),
    "beyond ASCII": "Größe–模型",
    "as hive has its columns": "layer=3",
    "spaces and more": " a b;touch x$(touch y)\n'\"",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_run_of_any_name(name: str, circuit: Circuit, profile: Path, finished: Path, tmp_path: Path):
    """The whole pipeline, read back too; the numbers are those of a plain name."""
    run = tmp_path / NAMES[name] / NAMES[name]
    done = circuit("run-all", "--profile", profile, "--run", run, "--json")
    assert done.code == 0, done.err
    assert done.document["run"] == str(run)
    assert circuit("effects", "--run", run).code == 0
    assert circuit("diff", run, finished).code == 0
    ours, theirs = (tables.read(folder / "effects" / "effects.parquet") for folder in (run, finished))
    assert {key: value.tolist() for key, value in ours.items()} == {k: value.tolist() for k, value in theirs.items()}
    title = (run / "graph" / "circuit.json").read_text(encoding="utf-8")
    assert ("caf\\\\xe9" in title) == (name == "other bytes")


def test_names_beyond_the_locale(finished: Path, tmp_path: Path):
    """In the locale C, with Python's own ways around it switched off."""
    run = tmp_path / NAMES["beyond ASCII"]
    shutil.copytree(finished, run)
    env = environment(LC_ALL="C", PYTHONCOERCECLOCALE="0", PYTHONUTF8="0")
    done = spawn("run-all", "--run", run, "--max-edges", "3", "--force", env=env)
    assert "Traceback" not in done.err
    assert done.code == 0, done.err


def test_a_profile_of_any_name(circuit: Circuit, tmp_path: Path):
    for name in NAMES.values():
        path = tmp_path / name.replace("/", "")
        path.write_bytes(b"\xef\xbb\xbfseed = 3\n")
        shown = circuit("profile", "show", "--profile", path, "--json").document["settings"]
        assert shown["seed"] == {"value": 3, "from": "profile"}


@pytest.fixture
def deep(tmp_path: Path) -> Iterator[Path]:
    """A folder for what Python's own tools can't remove: they call themselves."""
    (tmp_path / "deep").mkdir()
    yield tmp_path / "deep"
    subprocess.run(["rm", "-rf", tmp_path / "deep"], check=True)


def test_a_run_some_thousand_folders_deep(circuit: Circuit, profile: Path, deep: Path, monkeypatch):
    """As far as the system takes its path."""
    monkeypatch.chdir(deep)
    run = Path(*["d"] * 1_500, "run")
    done = circuit("run-all", "--profile", profile, "--run", run)
    assert done.code == 0, done.err[-2_000:]
    assert (run / "graph" / "circuit.json").is_file()
    circuit("run-all", "--profile", profile, "--run", Path(*["d"] * 5_000)).refused(3, "can't be used")


def test_some_thousand_folders_in_a_run(circuit: Circuit, finished: Path, deep: Path):
    run = Path(shutil.copytree(finished, deep / "run"))
    below = run / "graph" / Path(*["d"] * 1_500)
    files.make(below)
    (below / ".x.part").touch()
    assert circuit("graph", "--run", run, "--max-edges", "3").code == 0
    assert not (below / ".x.part").exists()


def test_hints_are_for_the_shell(circuit: Circuit, run: Path, tmp_path: Path):
    """What a hint says can be pasted, and does nothing else."""
    odd = run.rename(tmp_path / "a;touch x")
    (odd / "acts" / "stage.json").unlink()
    shutil.rmtree(odd / "graph")
    said = [circuit("ablate", "--run", odd).err, circuit("diff", odd, odd).err]
    (tmp_path / "profile.toml").write_text("[texts]\nmax_tokens = 9")
    for err in said:
        [command] = re.findall(r"`(circuit .*?)`", err)
        assert f"--run {shlex.quote(str(odd))}" in command
        assert str(odd) in shlex.split(command)
        assert "touch" not in shlex.split(command)


REMOVED = {
    "before a shard": ("ablations", "ablations/effects-"),
    "before a plan": (".", "ablations/plan.json"),
    "before a record": (".", "effects/stage.json"),
    "the stage before": ("acts", "ablations/plan.json"),
    "before a picture": (".", "graph/circuit.json"),
}


@pytest.mark.parametrize("when", REMOVED)
def test_a_run_that_is_removed_while_it_is_written(
    when: str, circuit: Circuit, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    what, before = REMOVED[when]
    run, original, done = tmp_path / "new", tempfile.mkstemp, []

    def remove_once(*args: object, **more: object) -> object:
        made = original(*args, **more)
        if not done and str(made[1]).startswith(f"{run}/{Path(before).parent}/.{Path(before).name}"):
            done.append(made)
            shutil.rmtree(run / what)
        return made

    monkeypatch.setattr(tempfile, "mkstemp", remove_once)
    circuit("run-all", "--profile", profile, "--run", run).refused(
        3, str(run), "no finished" if what == "acts" else "is gone"
    )
    assert done
    assert what != "." or not run.exists()


def no_folder(*args: object) -> str:
    raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp', '/var/tmp']")


def test_no_folder_for_temporary_files(circuit: Circuit, profile: Path, tiny_text: Path, tmp_path: Path, monkeypatch):
    import gzip

    packed = tmp_path / "t.parquet.gz"
    packed.write_bytes(gzip.compress(b"PAR1"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_get_default_tempdir", no_folder)
    before = contents(tmp_path)
    circuit("run-all", "--profile", profile, "--run", tmp_path / "new", "--text", packed).refused(5, "TMPDIR")
    assert contents(tmp_path) == before
    assert circuit("run-all", "--profile", profile, "--run", tmp_path / "new").code == 0, "nothing else needs one"


NAMELESS = """
import os, pwd, sys
def unknown(number): raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = unknown
for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "XDG_CACHE_HOME", "HF_HOME", "TORCHINDUCTOR_CACHE_DIR"):
    os.environ.pop(name, None)
from circuitcli.cli.app import main
sys.argv[0] = "circuit"
main()
"""


def test_a_user_without_a_name_and_a_home(profile: Path, tmp_path: Path):
    """As containers have them: nothing is known of the user but a number."""
    (tmp_path / "here").mkdir()
    args = [sys.executable, "-c", NAMELESS, "run-all", "--profile", profile, "--run", tmp_path / "new"]
    done = subprocess.run(
        args, env=environment(), cwd=tmp_path / "here", capture_output=True, text=True, check=False, timeout=300
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "here").iterdir()), "a folder `~`, say"
