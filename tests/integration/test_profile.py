"""`circuit profile`: what it prints, what it writes and refuses to, and that show says what run-all finds."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import Result, contents, environment, spawn, tsv
from typer.main import get_command

from circuitcli.cli.app import app
from circuitcli.settings import resolve, table
from circuitcli.settings.template import template

Circuit = Callable[..., Result]

OLD = 'ACTS_LAYERS_SLICE: "4:6"\nDIMS_PINNED:\n 4: 112\nWANDB_ENTITY: "me"\nNUM_SEQUENCES_INTERPED: 20\n'
ALL = getattr(get_command(app), "commands")  # noqa: B009 - typer says no more of it than that it is a command
COMMANDS = ALL["profile"].commands


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "central_config.yaml"
    path.write_text(OLD)
    return path


def test_import_prints_a_profile_that_show_reads(circuit: Circuit, old: Path, tmp_path: Path):
    done = circuit("profile", "import", old)
    assert done.code == 0
    assert done.err.splitlines() == [
        "WANDB_ENTITY: nothing is logged elsewhere; settings, records and tables lie in the run's folder."
    ]
    (tmp_path / "new.toml").write_text(done.out)
    shown = circuit("profile", "show", "--profile", tmp_path / "new.toml", "--json").document["settings"]
    assert shown["features.pinned"] == {"value": ["4:112"], "from": "profile"}
    assert shown["saes.layers"] == {"value": "4:6", "from": "profile"}
    assert shown["texts.num_sequences"] == {"value": 20, "from": "profile"}
    assert shown["seed"] == {"value": 0, "from": "default"}


def test_import_as_json(circuit: Circuit, old: Path):
    found = circuit("profile", "import", old, "--json").document
    assert set(found) == {"output", "profile", "not_taken_over", "empty"}
    assert found["output"] is None
    assert set(found["not_taken_over"]) == {"WANDB_ENTITY"}
    assert resolve(tomllib.loads(found["profile"])).features.pinned == ("4:112",)


@pytest.mark.parametrize("name", ["import", "init"])
def test_files_are_written_once_unless_forced(name: str, circuit: Circuit, old: Path, tmp_path: Path):
    target = tmp_path / "made" / "profile.toml"
    plain = ["profile", name, *([old] if name == "import" else [])]
    args = [*plain, *(["--output"] if name == "import" else []), target]
    done = circuit(*args)
    assert (done.code, done.out) == (0, "")
    assert f"{target} is written." in done.err
    assert target.read_text() == circuit(*plain).out
    target.write_text("mine")
    before = contents(tmp_path)
    circuit(*args).refused(2, str(target), "--force")
    circuit(*args, "--json").refused_in_json(2)
    assert contents(tmp_path) == before
    assert circuit(*args, "--force", "--json").document["output"] == str(target)
    assert "# A profile for `circuit`" in target.read_text()


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_no_plain_file_is_written_over(kind: str, circuit: Circuit, old: Path, tmp_path: Path):
    target = tmp_path / "target"
    if kind == "folder":
        target.mkdir()
    else:
        (tmp_path / "mine").write_text("mine")
        target.symlink_to(tmp_path / "mine")
    before = contents(tmp_path)
    circuit("profile", "import", old, "--output", target, "--force").refused(2, str(target))
    circuit("profile", "init", target, "--force").refused(2, str(target))
    assert contents(tmp_path) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_where_no_file_can_be_made(circuit: Circuit, old: Path):
    """In /proc even root makes none, and is told that there is no such file."""
    for place in ("/proc/profile.toml", "/proc/none/profile.toml"):
        circuit("profile", "init", place).refused(3, f"{place} can't be written", "No such file", "another place")
        circuit("profile", "import", old, "--output", place, "--json").refused_in_json(3)


BAD = {
    "missing": (None, 3, ["can't be read", "No such file"]),
    "empty": (b" \n", 3, ["is empty"]),
    "not UTF-8": (b"SEED: \xff", 3, ["not UTF-8"]),
    "binary": (b"\x00\x01\x02", 2, ["not YAML"]),
    "not YAML": (b"SEED: [", 2, ["not YAML"]),
    "a list": (b"- 1", 2, ["holds no settings"]),
    "wrong type": (b"SEED: many", 2, ["`SEED`", "'many'", "whole number"]),
    "out of range": (b"LOGIT_TOKENS: 500", 2, ["`LOGIT_TOKENS`", "500", "256"]),
    "empty slice": (b'ACTS_LAYERS_SLICE: "6:4"', 2, ["6:4"]),
    "endless slice": (b'ACTS_LAYERS_SLICE: "0:' + b"9" * 5000 + b'"', 2, ["`ACTS_LAYERS_SLICE`", "slice"]),
    "code": (b"SEED: !!python/object/apply:os.system ['touch owned']", 3, ["python/object/apply", "refused"]),
    "aliases": (b"a: &a [1]\nb: *a", 3, ["alias", "refused"]),
    "huge": (b"a: 1\n" * 200_000, 3, ["larger than", "refused"]),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_older_file_is_refused(name: str, circuit: Circuit, tmp_path: Path, monkeypatch):
    content, code, words = BAD[name]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "central_config.yaml"
    if content is not None:
        path.write_bytes(content)
    before = contents(tmp_path)
    for args in ([], ["--output", tmp_path / "new.toml"]):
        circuit("profile", "import", path, *args).refused(code, str(path) if name != "empty slice" else "", *words)
        circuit("profile", "import", path, *args, "--json").refused_in_json(code)
    assert contents(tmp_path) == before


def test_a_folder_is_no_older_file(circuit: Circuit, tmp_path: Path):
    circuit("profile", "import", tmp_path).refused(3, str(tmp_path), "folder")


def test_init_is_the_template_and_a_profile(circuit: Circuit, tmp_path: Path):
    assert circuit("profile", "init").out == template()
    assert circuit("profile", "init", tmp_path / "p.toml").code == 0
    with_it = circuit("profile", "show", "--profile", tmp_path / "p.toml", "--json").document
    assert with_it == circuit("profile", "show", "--json").document


def shown(circuit: Circuit, *args: str | Path) -> dict[str, tuple[object, str]]:
    found = circuit("profile", "show", *args, "--json").document["settings"]
    assert list(found) == [row.key for row in table()]
    return {key: (row["value"], row["from"]) for key, row in found.items()}


def test_show_says_where_each_comes_from(circuit: Circuit, run: Path, tmp_path: Path):
    (tmp_path / "p.toml").write_text("seed = 3\n[texts]\nmax_tokens = 10\n[graph]\nmax_edges = 9\n")
    before = contents(tmp_path)
    found = shown(circuit, "--run", run, "--profile", tmp_path / "p.toml", "--max-tokens", "9", "--pin", "0:1")
    assert found["texts.max_tokens"] == (9, "flag")
    assert found["features.pinned"] == (["0:1"], "flag")
    assert found["seed"] == (3, "profile")
    assert found["graph.max_edges"] == (9, "profile")
    assert found["features.seq_cap"] == (5, "run")
    assert found["texts.prompt"] == ([], "default")
    assert contents(tmp_path) == before


def test_show_knows_what_comes_with_a_model(circuit: Circuit):
    demo, gpt2, other = shown(circuit), shown(circuit, "--model", "gpt2"), shown(circuit, "--model", "other")
    assert demo["model"] == ("demo", "default")
    assert demo["features.branching"] == (3, "preset")
    assert gpt2["saes.release"] == ("gpt2-small-res-jb", "preset")
    assert gpt2["texts.source"] == ("dataset", "preset")
    assert gpt2["features.branching"] == (10, "default")
    assert {origin for _, origin in other.values()} == {"default", "flag"}


def test_a_text_of_a_flag_takes_the_place_of_the_runs(circuit: Circuit, run: Path):
    assert shown(circuit, "--run", run)["texts.source"] == ("file", "run")
    found = shown(circuit, "--run", run, "--prompt", "hello")
    assert found["texts.source"] == ("prompt", "flag")
    assert found["texts.prompt"] == (["hello"], "flag")
    assert found["texts.file"] == ("", "default")
    gpt2 = shown(circuit, "--model", "gpt2", "--text", "mine.txt")
    assert (gpt2["texts.dataset"], gpt2["texts.source"]) == (("", "default"), ("file", "flag"))


def test_show_is_what_run_all_then_does(circuit: Circuit, profile: Path, tmp_path: Path):
    args = ["--profile", profile, "--top-k", "3"]
    said = shown(circuit, *args)
    assert circuit("run-all", "--run", tmp_path / "run", *args).code == 0
    found = tomllib.loads((tmp_path / "run" / "settings.toml").read_text())
    unwritten = {row.key for row in table() if row.flag.late} | {"texts.prompt", "texts.dataset"}
    for key, (value, _) in said.items():
        part, _, name = key.rpartition(".")
        if key not in unwritten:  # settings.toml has only the source that is used, and late settings that were set
            assert (found[part] if part else found)[name] == value, key


def test_show_in_a_pipe(circuit: Circuit):
    rows = tsv(circuit("profile", "show", "--seed", "5").out)
    assert rows[0] == ["key", "value", "from"]
    assert [row[0] for row in rows[1:]] == [row.key for row in table()]
    assert ["seed", "5", "flag"] in rows
    assert ["ablate.logits", "true", "default"] in rows


def test_show_refuses_what_run_all_refuses(circuit: Circuit, tmp_path: Path):
    missing = tmp_path / "none"
    circuit("profile", "show", "--run", missing).refused(3, str(missing), "no run")
    circuit("profile", "show", "--run", missing, "--json").refused_in_json(3)
    assert not missing.exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    circuit("profile", "show", "--run", tmp_path / "other").refused(2, str(tmp_path / "other"))
    circuit("profile", "show", "--profile", missing).refused(3, str(missing))
    (tmp_path / "bad.toml").write_text("sed = 5")
    circuit("profile", "show", "--profile", tmp_path / "bad.toml").refused(2, "`sed`", "Did you mean `seed`?")
    (tmp_path / "bad.toml").write_text('model = ["demo"]')
    circuit("profile", "show", "--profile", tmp_path / "bad.toml").refused(2, "--model")
    circuit("profile", "show", "--seed", "-1").refused(2, "--seed")
    circuit("profile", "show", "--prompt", "a", "--text", "b").refused(2, "Two text sources")
    circuit("profile", "show", "--force").refused(2, "--force")
    circuit("profile", "import").refused(2, "FILE", "circuit profile import --help")
    circuit("profile", "sho").refused(2, "sho")


def test_help(circuit: Circuit):
    assert set(COMMANDS) == {"import", "init", "show"}
    listed = circuit("profile").out
    assert listed == circuit("profile", "--help").out
    assert all(f"  {name} " in listed for name in COMMANDS)
    assert "..." not in listed.partition("Commands:")[2]
    for name in COMMANDS:
        assert all(getattr(option, "help", None) for option in COMMANDS[name].params)
        done = circuit("profile", name, "-h")
        assert done.code == 0
        assert COMMANDS[name].help.split(".")[0] in " ".join(done.out.split())
    run_all = {flag for option in ALL["run-all"].params for flag in option.opts}
    own = {flag for option in COMMANDS["show"].params for flag in option.opts}
    assert own == run_all - {"--force", "--verify", "--quiet", "--dry-run", "--attribute"}  # `--of` is the setting


@pytest.mark.parametrize(
    ("typed", "words"),
    [("circuit profile ", {"import", "init", "show"}), ("circuit profile show --max-e", {"--max-edges"})],
)
def test_completed_words(typed: str, words: set[str]):
    at = len(typed.split()) - (not typed.endswith(" "))
    env = environment(_CIRCUIT_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(at))
    assert set(spawn(env=env).out.split()) == words


def test_init_imports_nothing_heavy():
    code = (
        "import json, sys; from circuitcli.cli.app import main; sys.argv = ['circuit', 'profile', 'init']\n"
        "try: main()\nexcept SystemExit: print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    modules = json.loads(done.stdout.splitlines()[-1])
    assert not {"torch", "numpy", "yaml", "transformers"} & set(modules)
