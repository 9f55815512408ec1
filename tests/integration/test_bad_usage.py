"""Exit 2: what was typed makes no sense. Two lines say so, and nothing is made or changed."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import Result, command, contents, environment

Circuit = Callable[..., Result]

PROFILES = {
    "unknown key": ("[texts]\nmax_token = 5", ["texts.max_token", "Did you mean `texts.max_tokens`?"]),
    "unknown table": ("[effect]\nlogit_tokens = 5", ["effect", "effects.logit_tokens"]),
    "unknown top key": ("sed = 5", ["`sed`", "Did you mean `seed`?"]),
    "value for a table": ("saes = 5", ["`saes`", "5", "table"]),
    "text for a list": ('[texts]\nprompt = "hello"', ["--prompt", "hello", "list"]),
    "table for a value": ("[seed]\nx = 1", ["--seed", "integer"]),
    "word for a number": ('seed = "many"', ["--seed", "many"]),
    "two texts": ('[texts]\nfile = "a.txt"\ndataset = "b"', ["Two text sources", "file and dataset", "--text"]),
    "not a number": ("[graph]\nmin_effect = nan", ["--min-effect", "nan"]),
    "a number of too many digits": (f"seed = {'9' * 5000}", ["profile.toml", "not TOML", "digits"]),
    "not TOML": ("[texts\nmax_tokens = 5", ["profile.toml", "not TOML", "line 1"]),
    "a key twice": ("seed = 1\nseed = 2", ["not TOML"]),
}

FLAGS = {
    "unknown flag": (["--max-token", "5"], ["--max-token", "--max-tokens"]),
    "flag without value": (["--seed"], ["--seed", "argument"]),
    "unknown site": (["--site", "resid_pots"], ["resid_pots", "Did you mean `resid_post`?"]),
    "unknown format": (["--format", "svgz"], ["format `svgz`", "Did you mean `svg`?"]),
    "unknown device": (["--device", "cud"], ["`cud`", "Did you mean `cuda`?"]),
    "device number": (["--device", "cpu:1"], ["`cpu:1`", "cuda:N"]),
    "unknown dtype": (["--dtype", "float23"], ["--dtype", "float23", "'float32'"]),
    "unknown intervention": (["--intervention", "meen"], ["meen", "Did you mean `mean`?"]),
    "unknown positions": (["--positions", "to"], ["--positions", "'top'"]),
    "unknown BOS": (["--prepend-bos", "perhaps"], ["--prepend-bos", "perhaps", "'auto' or true or false"]),
    "slice with a step": (["--layers", "0:4:2"], ["0:4:2", "step"]),
    "slice of words": (["--layers", "a:b"], ["a:b", "4:6"]),
    "layer of too many digits": (["--layers", "9" * 5000], ["are not a slice", "4:6"]),
    "slice of too many digits": (["--layers", f"0:{'9' * 5000}"], ["are not a slice", "4:6"]),
    "pin of too many digits": (["--pin", f"4:{'9' * 5000}"], ["doesn't name a feature", "layer:index"]),
    "pin without index": (["--pin", "4"], ["`4`", "layer:index"]),
    "pin at no site": (["--pin", "4.resid.1"], ["4.resid.1", "layer.site.index"]),
    "pin with letters": (["--pin", "4:x"], ["4:x"]),
    "negative seed": (["--seed", "-1"], ["--seed", "-1", "greater than or equal to 0"]),
    "seed too large": (["--seed", str(2**32)], ["--seed", "less than or equal to 4294967295"]),
    "thinning of nothing": (["--thinning", "0"], ["--thinning", "greater than 0"]),
    "thinning of more than all": (["--thinning", "1.5"], ["--thinning", "less than or equal to 1"]),
    "no batch": (["--batch-size", "0"], ["--batch-size", "'auto' or greater than or equal to 1"]),
    "batch of words": (["--batch-size", "many"], ["--batch-size", "many"]),
    "one token": (["--max-tokens", "1"], ["--max-tokens", "greater than or equal to 2"]),
    "no sequence": (["--num-sequences", "0"], ["--num-sequences"]),
    "too many logits": (["--logit-tokens", "257"], ["--logit-tokens", "256"]),
    "negative effect": (["--min-effect", "-0.1"], ["--min-effect"]),
    "not a number": (["--top-k", "six"], ["--top-k", "integer", "`circuit run-all --help`"]),
    "two texts": (["--prompt", "a", "--text", "b.txt"], ["Two text sources", "prompt and file"]),
    "a stray argument": (["extra"], ["extra"]),
    "a rival without a target": (["--against", " earth"], ["--against needs a --target", "--against ' earth'"]),
    "a rival that is the target": (["--target", " the", "--against", " the"], ["same token, ' the'", "--against"]),
    "a counterfactual that replaces nothing": (
        ["--counterfactual", "a b", "--baseline", "mean"],
        ["--baseline patch, not mean", "Leave --counterfactual out"],
    ),
    "a patch of nothing": (["--baseline", "patch"], ["--baseline patch", "--counterfactual TEXT", "--prompts FILE"]),
    "two questions": (
        ["--prompts", "q.jsonl", "--target", " the", "--counterfactual", "a b"],
        ["--target and --counterfactual can't go with --prompts q.jsonl", "--prompts ''", "--target ''"],
    ),
    "no budget": (["--budget", "0.5"], ["--budget", "greater than or equal to 1"]),
    "no steps": (["--ig-steps", "0"], ["--ig-steps", "greater than or equal to 1"]),
    "no nodes": (["--nodes", "0"], ["--nodes", "'auto' or greater than or equal to 1"]),
    "nodes of no influence": (["--node-influence", "0"], ["--node-influence", "greater than 0"]),
    "edges of more than all": (["--edge-influence", "1.01"], ["--edge-influence", "less than or equal to 1"]),
    "unknown method": (["--method", "eap"], ["--method", "eap", "'atp'", "'relp'"]),
    "unknown baseline": (["--baseline", "mask"], ["--baseline", "mask", "'patch'"]),
    "unknown edges": (["--edges", "all"], ["--edges", "'auto', 'estimate' or 'exact'"]),
    "unknown positions of nodes": (["--node-positions", "all"], ["--node-positions", "'sum'"]),
    "unknown graph": (["--of", "causes"], ["--of", "'attribution'"]),
}


@pytest.mark.parametrize("name", PROFILES)
def test_profile(name: str, circuit: Circuit, run: Path, tmp_path: Path):
    text, words = PROFILES[name]
    profile = tmp_path / "profile.toml"
    profile.write_text(text)
    before = contents(tmp_path)
    for folder in (run, tmp_path / "new"):
        circuit("run-all", "--profile", profile, "--run", folder).refused(2, *words)
        circuit("run-all", "--profile", profile, "--run", folder, "--json").refused_in_json(2)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", FLAGS)
def test_flag(name: str, circuit: Circuit, run: Path, tmp_path: Path):
    args, words = FLAGS[name]
    before = contents(tmp_path)
    for folder in (run, tmp_path / "new"):
        circuit("run-all", "--run", folder, *args).refused(2, *words)
        circuit("run-all", "--json", "--run", folder, *args).refused_in_json(2)
    assert contents(tmp_path) == before


# What only a model and its SAEs can tell.
UNFIT = {
    "slice outside": (["--layers", "2:9"], ["2:9", "3 layers", "0 to 2"]),
    "layer outside": (["--layers", "-4"], ["-4", "3 layers"]),
    "empty slice": (["--layers", "2:1"], ["2:1", "empty"]),
    "one tensor twice": (
        ["--site", "resid_post", "--site", "resid_pre"],
        ["0.resid_post", "1.resid_pre", "one tensor"],
    ),
    "pin outside the SAE": (["--pin", "1:40"], ["1:40", "40 features", "0 to 39"]),
    "pin at no SAE": (["--pin", "1.z.3"], ["1.z.3", "1.resid_post"]),
    "pin at two sites": (["--site", "z", "--site", "mlp_out", "--pin", "1:3"], ["1:3", "`1.z.3`", "`1.mlp_out.3`"]),
}


@pytest.mark.parametrize("name", UNFIT)
def test_unfit_for_the_model(name: str, circuit: Circuit, run: Path, profile: Path, tmp_path: Path):
    args, words = UNFIT[name]
    before = contents(tmp_path)
    for folder in (run, tmp_path / "new"):
        circuit("run-all", "--profile", profile, "--run", folder, *args).refused(2, *words)
        circuit("run-all", "--profile", profile, "--run", folder, *args, "--json").refused_in_json(2)
    assert contents(tmp_path) == before


def test_pin_outside_the_sae_is_refused_by_ablate_too(circuit: Circuit, run: Path):
    before = contents(run)
    circuit("ablate", "--run", run, "--pin", "0:1000").refused(2, "0:1000", "40 features")
    assert contents(run) == before


@pytest.mark.parametrize("kind", ["file", "link", "other"])
def test_run_is_something_else(kind: str, circuit: Circuit, run: Path, tmp_path: Path):
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("mine")
    elif kind == "link":
        target.symlink_to(run)
    else:
        target.mkdir()
        (target / "thesis.tex").write_text("mine")
    before = contents(tmp_path)
    for name in ("run-all", "graph"):
        circuit(name, "--run", target).refused(2, str(target), "--run")
        circuit(name, "--run", target, "--force", "--json").refused_in_json(2)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["fetch-saes", "cache-acts", "ablate", "effects", "attribute", "graph"])
def test_single_command_without_a_run(name: str, circuit: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    circuit(name).refused(2, name, "--run", "CIRCUIT_RUN")
    monkeypatch.setenv("CIRCUIT_RUN", "")
    circuit(name, "--json").refused_in_json(2)
    assert not list(tmp_path.iterdir())


def test_unnamed_run_leaves_nothing_behind(circuit: Circuit, profile: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    circuit("run-all", "--profile", profile, "--layers", "2:9").refused(2, "2:9")
    assert [path.name for path in tmp_path.iterdir()] == ["profile.toml"]


def test_empty_folder_stays_as_it_was(circuit: Circuit, profile: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    circuit("run-all", "--profile", profile, "--run", tmp_path / "empty", "--layers", "2:9").refused(2)
    assert not list((tmp_path / "empty").iterdir())


@pytest.mark.parametrize(("args", "words"), [(["run-al"], ["run-al", "run-all"]), (["--versio"], ["--versio"])])
def test_unknown_command(args: list[str], words: list[str], circuit: Circuit):
    circuit(*args).refused(2, *words)


def test_hostile_names_are_shown_not_sent(circuit: Circuit, tmp_path: Path):
    hostile = tmp_path / "a\x1b]0;owned\x07[/b]\u202e\x9b2J.toml"
    result = circuit("run-all", "--profile", hostile, "--run", tmp_path / "new")
    result.refused(3, "\\x1b]0;owned\\x07[/b]\\u202e\\x9b2J.toml")
    assert all(char.isprintable() or char == "\n" for char in result.err)
    result = circuit("run-all", "--profile", hostile, "--run", tmp_path / "new", "--json")
    assert str(hostile) in result.document["error"]["message"]
    assert all(char.isprintable() or char == "\n" for char in result.out)


def test_hostile_run_folder_is_shown_not_sent(circuit: Circuit, run: Path, tmp_path: Path):
    hostile = Path(shutil.move(run, tmp_path / "run\x1b[31m[/b]\t\u202e"))
    result = circuit("run-all", "--run", hostile)
    assert result.code == 0
    assert "run\\x1b[31m[/b]\\t\\u202e" in result.err
    assert all(char.isprintable() or char in "\n\t" for char in result.out + result.err)
    assert circuit("run-all", "--run", hostile, "--json").document["run"] == str(hostile)


def test_two_lines_and_code_of_the_process(tmp_path: Path):
    """The same through a real process, and in an encoding that lacks the characters."""
    args = command("graph", "--run", tmp_path, "--device", "–")
    done = subprocess.run(args, capture_output=True, env=environment(PYTHONIOENCODING="ascii"), check=False)
    Result(done.returncode, done.stdout.decode("ascii"), done.stderr.decode("ascii")).refused(2, "device `\\u2013`")
