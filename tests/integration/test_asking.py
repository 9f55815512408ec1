"""`circuit attribute`, and `run-all --attribute`: what is done in which order, and what won't do, with its code."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support import tiny
from support.commands import Result, contents, tsv

from circuitcli import api
from circuitcli.core.words import amount
from circuitcli.results.drawn import drawn_of
from circuitcli.settings import resolve
from circuitcli.stages import cache_acts, fetch_saes
from circuitcli.stages.opened import opened, stages_of
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.store.run import Run

Circuit = Callable[..., Result]
PROMPT = "In the beginning, God created the"
SMALL = {"saes": {"sites": ["resid_post"]}, "texts": {"file": "", "source": "prompt", "prompt": [PROMPT]}}


@pytest.fixture(scope="module")
def cached(start: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny model on a prompt, whose activations are cached."""
    job = start(tmp_path_factory.mktemp("cached") / "run", SMALL)
    for stage in (fetch_saes, cache_acts):
        stage.run(job)
    return job.run.root


@pytest.fixture
def prompted(cached: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(cached, tmp_path / "prompted"))


def finish(run: Path, stage: str) -> None:
    """As if a stage were done."""
    folder = run / STAGES[stage].folder
    folder.mkdir(exist_ok=True)
    shutil.copy(run / "acts/stage.json", folder / "stage.json")


# What is typed, the exit code, and words of the two lines.
BAD: dict[str, tuple[list[str], int, list[str]]] = {
    "no token": (["--target", "heavens"], 2, ["'heavens' isn't one token: it is he|aven|s", "--target ' heavens'"]),
    "an id beyond the vocabulary": (["--target", "id:4096"], 2, ["no token 4096", "0 to 4095"]),
    "a rival alone": (["--against", " earth"], 2, ["--against needs a --target"]),
    "a rival that is the target": (["--target", " earth", "--against", " earth"], 2, ["are the same token"]),
    "a counterfactual of another length": (
        ["--counterfactual", f"{PROMPT} very"], 3, ["has 9 tokens, prompt 0 has 8", "side by side"],
    ),
    "a counterfactual that is the prompt": (["--counterfactual", PROMPT], 3, ["counterfactual is prompt 0 itself"]),
    "a counterfactual beyond the context": (["--counterfactual", "light " * 40], 3, [f"reads {tiny.N_CTX}"]),
    "a file that isn't there": (["--prompts", "none.jsonl"], 3, ["none.jsonl can't be read"]),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_question_is_refused_before_anything_is_computed(name: str, circuit: Circuit, prompted: Path):
    typed, code, words = BAD[name]
    before = contents(prompted)
    circuit("attribute", "--run", prompted, *typed).refused(code, *words)
    circuit("attribute", "--run", prompted, *typed, "--json").refused_in_json(code)
    circuit("run-all", "--run", prompted, "--attribute", *typed).refused(code, *words)
    assert contents(prompted) == before
    (prompted / "acts" / "stage.json").unlink()  # activations are still to be made
    circuit("run-all", "--run", prompted, "--attribute", *typed).refused(code, *words)
    assert not (prompted / "acts" / "stage.json").exists()


def test_prompts_that_the_model_cannot_read(circuit: Circuit, profile: Path, prompted: Path, tmp_path: Path):
    """One token alone leaves no position for a node."""
    asked = ["run-all", "--profile", profile, "--run", tmp_path / "new", "--attribute", "--prompt"]
    circuit(*asked, "<|endoftext|>").refused(3, "Prompt 0 is not long enough: it needs two tokens")
    circuit(*asked, "light " * 40).refused(2, "Prompt 0 has", f"reads {tiny.N_CTX}")
    for prompt, words in {"<|endoftext|>": "is not long enough", "light " * 40: f"reads {tiny.N_CTX}"}.items():
        (tmp_path / "questions.jsonl").write_text(json.dumps({"prompt": prompt}))
        typed = ["attribute", "--run", prompted, "--prompts", tmp_path / "questions.jsonl"]
        circuit(*typed).refused(3, "questions.jsonl, line 1: The prompt", words)


def test_a_run_that_is_not_on_prompts_has_nothing_to_explain(circuit: Circuit, run: Path):
    before = contents(run)
    for typed in (["attribute"], ["run-all", "--attribute"], ["run-all", "--of", "attribution"]):
        circuit(*typed, "--run", run).refused(3, "isn't on prompts", "--prompts FILE", "--prompt TEXT --attribute")
    assert contents(run) == before


def test_the_side_by_side_view_fits_a_pipe_of_80_columns(circuit: Circuit, prompted: Path):
    shown = circuit("attribute", "--run", prompted, "--counterfactual", f"the {PROMPT}").err.splitlines()[:-2]
    assert shown[0].split() == ["prompt", "|", "counterfactual"]
    assert shown[2] == f"   1: In{' ' * 11} | the  ← the first that differs"
    assert [line.split(":")[0].strip() for line in shown[1:]] == [str(i) for i in range(9)]
    assert max(map(len, shown)) <= 80


def test_attribute_and_of_must_agree(circuit: Circuit, prompted: Path):
    before = contents(prompted)
    circuit("run-all", "--run", prompted, "--attribute", "--of", "effects").refused(2, "--of says effects")
    assert contents(prompted) == before


@pytest.mark.parametrize("typed", [["--target", " earth"], ["--method", "exact"], ["--nodes", "5"], ["--freeze"]])
def test_how_to_attribute_is_for_nothing_without_attributions(typed: list[str], circuit: Circuit, prompted: Path):
    before = contents(prompted)
    for more in ([], ["--dry-run"], ["--of", "effects"]):
        circuit("run-all", "--run", prompted, *typed, *more).refused(
            2, f"{typed[0]} is for attributions", "--attribute"
        )
    assert contents(prompted) == before


def test_a_dry_run_counts_what_is_asked_and_speaks_of_no_ablations(
    circuit: Circuit, prompted: Path, profile: Path, tmp_path: Path
):
    """Whether activations are cached or nothing is there yet; nothing is written."""
    before = contents(tmp_path)
    new = ["--profile", profile, "--run", tmp_path / "new", "--prompt", PROMPT, "--prompt", "and the void"]
    for typed, prompts, tokens in ((["--run", prompted], 1, 8), (new, 2, 13)):
        shown = circuit("run-all", "--attribute", "--dry-run", *typed)
        assert shown.code == 0, shown.err
        counts = dict(tsv(shown.out)[1:])
        assert counts == {
            "prompts": str(prompts), "tokens": str(tokens), "positions": str(tokens - prompts), "sites": "3",
        }  # fmt: skip
        assert "--budget 180 s" in shown.err
        assert "ablat" not in shown.err + shown.out
        document = circuit("run-all", "--attribute", "--dry-run", "--json", *typed).document
        assert document["attribute"] == {**{name: int(n) for name, n in counts.items()}, "budget_seconds": 180.0}
    assert contents(tmp_path) == before


@pytest.mark.parametrize("of", ["auto", "effects", "attribution"])
def test_the_graph_is_drawn_of_what_there_is(of: str, prompted: Path):
    settings, run = resolve({"graph": {"of": of}}), Run(prompted, STAGES.folders)
    found = {}
    for done in ("", "attribute", "effects"):
        if done:
            finish(prompted, done)
        found[done] = drawn_of(settings, run)
        assert stages_of(settings, run)["graph"].parents == (
            "attribute" if found[done] == "attribution" else "effects",
        )
    assert found == {
        "": "effects" if of == "auto" else of,
        "attribute": "attribution" if of == "auto" else of,
        "effects": "effects" if of == "auto" else of,  # and the attribution is still there
    }


@pytest.mark.parametrize("of", ["auto", "effects", "attribution"])
def test_a_job_on_a_run_goes_by_what_its_graph_is_drawn_of(of: str, prompted: Path, monkeypatch: pytest.MonkeyPatch):
    """From the command line and from Python."""
    finish(prompted, "attribute")
    wanted = ("effects",) if of == "effects" else ("attribute",)
    with opened(prompted, [{"graph": {"of": of}}], Silent()) as job:
        assert job.stages["graph"].parents == wanted
    assert api.recorded(prompted).stages["graph"].parents == wanted  # the run remembers


def test_flags_of_a_question_are_kept_in_the_run(circuit: Circuit, prompted: Path):
    done = circuit("attribute", "--run", prompted, "--target", " earth", "--nodes", "7")
    assert done.code == 0, done.err
    found = Run(prompted).settings()
    assert found["attribute"] == {"target": " earth", "nodes": 7}
    again = circuit("attribute", "--run", prompted)
    assert again.err == "attribute: already done.\n"
    circuit("attribute", "--run", prompted, "--target", " heavens").refused(
        3, 'attribute.target (" earth" → " heavens")', "--force"
    )
    assert circuit("attribute", "--run", prompted, "--target", " heavens", "--force").code == 0
    assert circuit("attribute", "--run", prompted, "--target", "", "--force").code == 0
    assert Run(prompted).settings()["attribute"] == {"nodes": 7}


def test_a_file_of_questions_counts_by_its_content(circuit: Circuit, prompted: Path, tmp_path: Path):
    path, other = tmp_path / "questions.jsonl", tmp_path / "moved.jsonl"
    path.write_text(json.dumps({"prompt": PROMPT, "target": " earth"}))
    assert circuit("attribute", "--run", prompted, "--prompts", path).code == 0
    os.rename(path, other)
    assert "already done" in circuit("attribute", "--run", prompted, "--prompts", other).err
    other.write_text(json.dumps({"prompt": PROMPT, "target": " heavens"}))
    circuit("attribute", "--run", prompted).refused(3, "made from other inputs", "--force")


def test_run_all_explains_and_draws_that(circuit: Circuit, profile: Path, tmp_path: Path):
    """Nothing is ablated feature by feature, nothing said of it; what is drawn follows from what was asked for last."""
    run = tmp_path / "run"
    typed = ["run-all", "--profile", profile, "--run", run, "--prompt", PROMPT, "--format", "json"]
    done = circuit(*typed, "--attribute", "--json")
    assert done.code == 0, done.err
    assert list(done.document["stages"]) == ["fetch-saes", "cache-acts", "attribute", "graph"]
    assert "ablat" not in done.err
    metadata = json.loads((run / "graph/circuit.json").read_text())["metadata"]
    assert metadata["attribution"]["tokens"][1:] == ["In", " the", " beginning", ",", " God", " created", " the"]
    assert not (run / "ablations").exists()
    shown = circuit("run-all", "--run", run)  # the run remembers what its graph is of
    assert shown.err.count("already done.") == 4
    assert shown.err.splitlines()[-1].startswith(f"{run}: {amount(done.document['nodes'], 'node')}, ")
    drawn = circuit("run-all", "--run", run, "--of", "effects")
    assert drawn.code == 0, drawn.err
    assert [line for line in drawn.err.splitlines() if line.startswith("graph: made again")]
    assert json.loads((run / "graph/circuit.json").read_text())["metadata"].get("attribution") is None
    assert "attribute: already done." in circuit("attribute", "--run", run).err
    again = circuit("graph", "--run", run, "--of", "attribution")
    assert again.code == 0, again.err
    assert json.loads((run / "graph/circuit.json").read_text())["metadata"]["attribution"] == metadata["attribution"]


def test_what_takes_the_attribution_back_takes_its_graph_back(circuit: Circuit, prompted: Path):
    """Of `auto` too: the graph of a run that has nothing else."""
    assert circuit("attribute", "--run", prompted).code == 0
    assert circuit("graph", "--run", prompted).code == 0
    assert circuit("attribute", "--run", prompted, "--force").code == 0
    assert not (prompted / "graph" / "stage.json").exists()
    assert "graph: made again, as attribute was." in circuit("graph", "--run", prompted).err


def test_attribute_beside_ablate_takes_nothing_back(circuit: Circuit, run: Path, tmp_path: Path):
    """They are siblings: each is done again without the other."""
    (tmp_path / "questions.jsonl").write_text(json.dumps({"prompt": "the light of the earth"}))
    before = contents(run)
    assert circuit("attribute", "--run", run, "--prompts", tmp_path / "questions.jsonl").code == 0
    kept = {name: digest for name, digest in before.items() if name != "settings.toml"}
    assert kept.items() <= contents(run).items()
    stored = {name: digest for name, digest in contents(run).items() if name.startswith("attribution/")}
    assert stored
    assert circuit("ablate", "--run", run, "--force").code == 0
    assert stored.items() <= contents(run).items()
    assert not (run / "graph" / "stage.json").exists()  # drawn of effects


def test_with_json_the_answer_is_in_the_document(circuit: Circuit, prompted: Path) -> None:
    """What the tables show, as numbers: scripts needn't read files."""
    said = circuit("attribute", "--run", prompted, "--json").document
    answer, nodes = said["answer"], api.open_run(prompted).attribution.nodes().set_index("id")
    assert answer["question"]["metric"].startswith("log p(")
    assert answer["question"]["nodes"] == said["nodes"]
    inner = nodes[nodes["kind"] != "target"]
    largest = inner["effect"].abs().nlargest(20)
    assert [one["id"] for one in answer["strongest"]] == largest.index.tolist()
    assert [one["effect"] for one in answer["strongest"]] == pytest.approx(inner["effect"][largest.index].tolist())
    assert [one["token"] for one in answer["strongest"]] == inner["token"][largest.index].tolist()
    assert answer["calibration"][0]["of"] == "nodes"
    assert all(path["nodes"][-1] and 0 < path["share"] <= 1 for path in answer["paths"])
