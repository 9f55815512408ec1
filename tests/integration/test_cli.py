"""What a person types and sees: six commands, flags, profiles, pipes and terminals."""

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.commands import Result, tables_of, tsv
from typer.main import get_command

from circuitcli.cli.app import app
from circuitcli.settings import APART, table

Circuit = Callable[..., Result]

EXECUTOR = "--executor --scheduler --cluster --cluster-option --mixed --no-mixed"
EVERYWHERE = "--profile --run --device --batch-size --json --quiet --force --verify --help"
FLAGS = {
    "fetch-saes": "--model --model-revision --release --revision --layers --site --list",
    "cache-acts": "--seed --dtype --prompt --text --dataset --num-sequences --max-tokens --prepend-bos "
    f"--column --allow-misfit --no-allow-misfit --top-k --view --context-sequences {EXECUTOR}",
    "ablate": "--pin --start --thinning --branching --max-features --seq-cap --intervention --strength --positions "
    "--shard --merge --logits --no-logits --horizon --allow-over-memory --no-allow-over-memory --dry-run "
    f"{EXECUTOR}",
    "effects": "--logit-tokens --feature --by-position --steer --prompt --generate --model --model-revision --release "
    "--revision --layers --site --prepend-bos --dtype",
    "attribute": "--target --against --counterfactual --prompts --baseline --method --budget --ig-steps --freeze "
    "--no-freeze --replace --no-replace --targets --node-positions --candidates --nodes --node-influence "
    "--edge-influence --edge-threshold --edges --allow-over-memory --no-allow-over-memory --shard --merge "
    f"{EXECUTOR}",
    "graph": "--of --min-effect --max-edges --format --extend --load --labels --group",
    "stability": f"--seeds --halves --interventions --dry-run {EXECUTOR}",
    "validate": "--prompts --column --metric --baseline --split --circuit --pin --nodes --size --draws --candidates "
    f"--num-examples --audit --dry-run --shard --merge {EXECUTOR}",
}
COMMANDS = getattr(get_command(app), "commands")  # noqa: B009 - typer says no more of it than that it is a command


def test_six_commands_are_run_all(circuit: Circuit, profile: Path, finished: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("CIRCUIT_RUN", str(tmp_path / "run"))
    assert circuit("fetch-saes", "--profile", profile).code == 0
    for name in ("cache-acts", "ablate", "effects", "graph"):
        result = circuit(name)
        assert result.code == 0
        said = ["ablate", "ablate"] if name == "ablate" else []  # where it starts, and what it takes
        assert [line.partition(":")[0] for line in result.err.splitlines()] == said
    assert tables_of(tmp_path / "run") == tables_of(finished)
    assert circuit("run-all").err.count("already done") == 5


def test_json_of_run_all(circuit: Circuit, profile: Path, tiny_model: Path, tmp_path: Path):
    result = circuit("run-all", "--profile", profile, "--run", tmp_path / "run", "--json")
    assert len(result.out.splitlines()) == 1
    found = result.document
    assert found["run"] == str(tmp_path / "run")
    assert found["model"] == str(tiny_model)
    assert found["layers"] == [0, 1, 2]
    totals = pq.read_table(tmp_path / "run" / "effects" / "features.parquet").to_pylist()
    assert found["features_ablated"] == len(totals)
    assert found["contexts"] == sum(row["n"] for row in totals)
    assert found["edges"] == len(json.loads((tmp_path / "run" / "graph" / "circuit.json").read_text())["edges"])
    assert found["seconds"] > 0
    assert found["stages"] == dict.fromkeys(["fetch-saes", "cache-acts", "ablate", "effects", "graph"], "done")
    made = {str(path) for path in (tmp_path / "run").rglob("*") if path.is_file() and path.suffix != ".toml"}
    assert set(found["files"]) == {path for path in made if not path.endswith(("plan.json", "stage.json", ".lock"))}


@pytest.mark.parametrize("name", FLAGS)
def test_json_of_each_command(name: str, circuit: Circuit, run: Path, tmp_path: Path):
    (tmp_path / "questions.jsonl").write_text('{"prompt": "the light of the earth"}\n')
    asked = ["--prompts", tmp_path / "questions.jsonl"] if name == "attribute" else []
    result = circuit(name, "--run", run, "--json", "--force", *asked)
    assert result.code == 0
    assert len(result.out.splitlines()) == 1
    assert result.document["stages"] == {name: "done"}
    assert result.document["files"]
    assert all(Path(file).is_file() for file in result.document["files"])


def test_tables_in_a_pipe(circuit: Circuit, run: Path, monkeypatch: pytest.MonkeyPatch):
    """Tab-separated, uncut, uncoloured, and what the tables of the run say."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    out = circuit("run-all", "--run", run).out
    assert "\x1b" not in out
    assert "…" not in out
    rows = [line.split("\t") for line in out.splitlines()]
    heads = ["site", "feature", "features", "from", "feature"]
    found = [row for row in rows if row[0] in heads]
    assert [row[0] for row in found] == heads
    starts = [rows.index(row) for row in found]
    assert [rows[start - 1] for start in starts] == [
        ["# SAEs"],
        ["# Top features of each site by largest activation"],
        ["# Ablated"],
        ["# Largest effects (ablated − clean)"],
        ["# Next tokens: promoted (ablation lowers them) and suppressed (ablation raises them), nats"],
    ]
    for start, stop in zip(starts, [*(start - 1 for start in starts[1:]), len(rows) - 2], strict=True):
        assert {len(row) for row in rows[start:stop]} == {len(rows[start])}
    edges = pq.read_table(run / "effects" / "effects.parquet").to_pylist()
    largest = sorted(edges, key=lambda row: -abs(row["effect_mean"]))[:10]
    shown = rows[starts[3] + 1 : starts[4] - 1]
    assert [row[:2] for row in shown] == [
        [f"{e[f'{end}_layer']}.{e[f'{end}_site']}.{e[f'{end}_feature']}" for end in ("up", "down")] for e in largest
    ]
    assert [row[2] for row in shown] == [f"{e['effect_mean']:+.3f}" for e in largest]
    assert [row[0] for row in rows[-2:]] == [str(run / "graph" / f"circuit.{name}") for name in ("json", "dot")]


def test_tables_on_a_terminal(circuit: Circuit, run: Path, screen, monkeypatch: pytest.MonkeyPatch):
    args = ["cache-acts", "--run", run]
    styled = screen(circuit, args)
    assert "\x1b[1;7m" in styled  # the firing token
    assert "\t" not in styled
    assert "«" not in styled
    assert "Top features" in styled
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", styled).splitlines())) <= 100
    monkeypatch.setenv("NO_COLOR", "1")
    plain = screen(circuit, args)
    assert "«" in plain
    assert not re.search(r"\x1b\[(\d+;)*[349]\d", plain)  # no foreground and no background


def test_bars_on_a_terminal_only(circuit: Circuit, run: Path, screen):
    args: list[str | Path] = ["effects", "--run", run, "--force"]
    assert "Reducing effects" in screen(circuit, args)
    assert "Reducing effects" not in screen(circuit, [*args, "--quiet"])
    assert "Reducing" not in circuit(*args).err


def test_hostile_names_on_a_terminal(
    circuit: Circuit, profile: Path, tiny_model: Path, tmp_path: Path, screen, monkeypatch: pytest.MonkeyPatch
):
    """Neither markup nor control characters of a model's name or a text get to the terminal; ours do."""
    monkeypatch.setenv("COLUMNS", "300")  # the end of a long path would be left out
    model = Path(shutil.copytree(tiny_model, tmp_path / "[/b][red]"))
    args = ["run-all", "--profile", profile, "--run", tmp_path / "run", "--model", model]
    shown = screen(circuit, [*args, "--prompt", "the \x1b]0;owned\x07 [/b] light", "--prompt", "[red]\x9b2J earth"])
    assert "Loading" in shown
    assert "[/b][red]" in shown
    assert "\x1b]0" not in shown
    assert not {"\x07", "\x9b", "\u202e"} & set(shown)
    refused = circuit(*args[:-1], f"{model}\x1b]0;owned\x07\u202e")
    refused.refused(2, "\\x1b]0;owned\\x07\\u202e")
    assert not {"\x07", "\x1b", "\u202e"} & set(refused.err)


def test_quiet(circuit: Circuit, run: Path):
    result = circuit("run-all", "--run", run, "--quiet")
    assert result.out.splitlines() == [str(run / "graph" / f"circuit.{name}") for name in ("json", "dot")]
    assert circuit("effects", "--run", run, "--quiet").out == ""


def test_precedence(circuit: Circuit, profile: Path, tmp_path: Path):
    """Defaults, under the run's own settings, under the profile, under flags; the run remembers."""
    run, other = tmp_path / "run", tmp_path / "other.toml"
    other.write_text("seed = 3\n[texts]\nmax_tokens = 10\nnum_sequences = 8\n")
    assert circuit("fetch-saes", "--profile", profile, "--run", run).code == 0
    assert circuit("cache-acts", "--run", run, "--profile", other, "--max-tokens", "9").code == 0
    found = tomllib.loads((run / "settings.toml").read_text())
    assert found["contexts"]["top_k"] == 6  # a default
    assert found["features"]["seq_cap"] == 5  # the run's own, which it took from the first profile
    assert (found["seed"], found["texts"]["num_sequences"]) == (3, 8)  # the second profile
    assert found["texts"]["max_tokens"] == 9  # the flag
    tokens = json.loads((run / "acts" / "stage.json").read_text())
    assert tokens["files"]["acts/tokens.safetensors"]["rows"] == 8
    assert circuit("ablate", "--run", run).code == 0


def test_prompt_in_place_of_the_profiles_file(circuit: Circuit, profile: Path, tmp_path: Path):
    args = ["--prompt", "the light of the earth was good", "--prompt", "and the void"]
    assert circuit("run-all", "--profile", profile, "--run", tmp_path / "run", *args).code == 0
    found = tomllib.loads((tmp_path / "run" / "settings.toml").read_text())
    assert found["texts"]["prompt"] == args[1::2]
    assert "file" not in found["texts"]
    assert circuit("run-all", "--run", tmp_path / "run").err.count("already done") == 5


def flags_of(name: str) -> set[str]:
    options = [option for option in COMMANDS[name].params if option.param_type_name == "option"]
    return {flag for option in options for flag in (*option.opts, *option.secondary_opts)}


def test_doctor_takes_the_flags_of_saes_and_text_and_none_that_write():
    others = flags_of("fetch-saes") | flags_of("cache-acts")
    not_its = {"--force", "--verify", "--list", "--allow-misfit", "--no-allow-misfit"}
    not_its |= {"--top-k", "--view", "--context-sequences"}
    assert flags_of("doctor") == others - not_its


def test_test_takes_flags_that_say_where_things_are_and_none_that_change_what_is_measured():
    places = {"--model", "--model-revision", "--release", "--revision", "--dtype", "--device", "--batch-size"}
    assert flags_of("test") == places | {"--run", "--json", "--quiet", "--junit", "--write", "--edges", "--force"}


def test_commands_take_the_flags_of_their_tables():
    assert set(COMMANDS) == {*FLAGS, "run-all", "profile", "doctor", "bench", "diff", "test"}
    for name, own in FLAGS.items():
        assert flags_of(name) == {*own.split(), *EVERYWHERE.split()} - {"--help"}
    not_settings = {"--help", "--list", "--feature", "--by-position", "--load", "--steer", "--generate"}
    not_settings |= {"--shard", "--merge"}
    not_settings |= {"--seeds", "--halves", "--interventions"}  # of commands that it doesn't do
    not_settings |= {"--metric", "--split", "--circuit", "--size", "--draws", "--num-examples", "--audit"}
    assert flags_of("run-all") == {*" ".join([*FLAGS.values(), EVERYWHERE, "--attribute"]).split()} - not_settings
    assert {row.flag.name for row in table() if row.flag.name and not row.key.startswith(APART)} < flags_of("run-all")


@pytest.mark.parametrize("name", [*FLAGS, "run-all"])
def test_help_of_each_command(name: str, circuit: Circuit):
    assert all(option.help for option in COMMANDS[name].params)
    for flag in ("--help", "-h"):
        result = circuit(name, flag)
        assert result.code == 0
        assert COMMANDS[name].help.split(".")[0].split()[0] in result.out
        assert flags_of(name) | {"--help"} <= set(re.findall(r"--[a-z-]+", result.out))
        assert "\x1b" not in result.out
    settings = {row.flag.name for row in table()} & flags_of(name)
    assert " ".join(result.out.split()).count("[default: ") == len(settings)


def test_help_and_version(circuit: Circuit):
    assert circuit().out == circuit("--help").out
    assert all(f"  {name} " in circuit("--help").out for name in COMMANDS)
    assert re.fullmatch(r"circuit \d+\.\d+\.\d+\S*\n", circuit("--version").out)


def test_how_to_draw_is_remembered_by_a_stage_that_is_done(circuit: Circuit, finished: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    assert circuit("cache-acts", "--run", run, "--view", "1").code == 0
    assert circuit("graph", "--run", run, "--format", "json").code == 0
    nodes = json.loads((run / "graph" / "circuit.json").read_text())["nodes"]
    assert nodes
    assert all(len(context["tokens"]) <= 3 for node in nodes for context in node["contexts"])


def test_paths_of_saes_are_whole_in_json_and_in_pipes_and_short_on_a_terminal(
    circuit: Circuit, run: Path, tiny_saes: Path, screen
):
    args: list[str | Path] = ["fetch-saes", "--run", run]
    paths = [str(tiny_saes / f"{layer}.resid_post" / "sae_weights.safetensors") for layer in range(3)]
    assert list(circuit(*args, "--json").document["sources"].values()) == paths
    assert [row[-1] for row in tsv(circuit(*args).out)[1:]] == paths
    shown = screen(circuit, args)
    assert "sae_weights" not in shown
    assert all(f"/{layer}.resid_post\n" in shown for layer in range(3))


def test_site_auto_is_the_releases_own(circuit: Circuit, tmp_path: Path):
    done = circuit("fetch-saes", "--run", tmp_path / "run", "--site", "auto", "--json")
    assert json.loads(done.out)["saes"] == [f"{layer}.resid_post" for layer in range(4)]
