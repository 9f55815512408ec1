"""`circuit stability`: what it counts, by plain sets from the files of repeats; what it keeps, what it refuses."""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.commands import Result, contents, tables_of
from test_resume import run_killed

from circuitcli.core import selection
from circuitcli.core.sites import FeatureId
from circuitcli.results.results import Results
from circuitcli.stages import run_all
from circuitcli.stages.spec import STAGES
from circuitcli.store.run import Run

Circuit = Callable[..., Result]
FEW = ["--seeds", "3", "--halves", "2", "--interventions", "zero,mean"]
PROMPTS = [
    "the light of the earth was upon the waters",
    "and the spirit of the deep was void",
    "the night of the earth was upon the deep",
]


def nodes_of(run: Path, graph: str = "graph") -> set[str]:
    tree = json.loads((run / graph / "circuit.json").read_text())
    return {node["id"] for node in tree["nodes"] if node["kind"] != "target"}


def edges_of(run: Path) -> set[tuple[str, str]]:
    tree = json.loads((run / "graph" / "circuit.json").read_text())
    return {(edge["source"], edge["target"]) for edge in tree["edges"]}


def rows(run: Path) -> list[dict[str, Any]]:
    return pq.read_table(run / "stability" / "stability.parquet").to_pylist()


def without_stability(run: Path) -> dict[str, str]:
    return {name: what for name, what in contents(run).items() if not name.startswith("stability")}


@pytest.fixture(scope="module")
def counted(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose discovery was repeated; not to be touched."""
    from circuitcli.settings import resolve
    from circuitcli.stages import stability
    from circuitcli.stages.report import Silent
    from circuitcli.stages.stage import Job

    root = Path(shutil.copytree(finished, tmp_path_factory.mktemp("counted") / "run"))
    run, few = Run(root, STAGES.folders), {"seeds": 3, "halves": 2, "interventions": "zero,mean"}
    settings = resolve(run.settings(), {"stability": few})
    stability.run(Job(settings, Silent(), run, stages=STAGES.drawing("effects")))
    return root


def test_counts_are_those_of_plain_sets(counted: Path):
    folder, own = counted / "stability", counted
    seed = json.loads((counted / "acts" / "plan.json").read_text())["inputs"]["seed"]
    repeats = {
        "seed": [own, folder / f"seed-{seed + 1}", folder / f"seed-{seed + 2}"],
        "half": [folder / "half-1", folder / "half-2"],
        "intervention": [own, folder / "intervention-mean"],
    }
    repeats["all"] = list(dict.fromkeys(run for many in repeats.values() for run in many))
    assert len(repeats["all"]) == 6
    told = json.loads((folder / "stage.json").read_text())["facts"]["causes"]
    for cause, many in repeats.items():
        for of, sets in (("nodes", [nodes_of(run) for run in many]), ("edges", [edges_of(run) for run in many])):
            pairs = [len(a & b) / len(a | b) for a, b in combinations(sets, 2)]
            assert told[cause][of]["value"] == pytest.approx(sum(pairs) / len(pairs))
            mine = nodes_of(own) if of == "nodes" else edges_of(own)
            assert told[cause][f"{of}_in_all"] == sum(all(one in some for some in sets) for one in mine)
            found = [row for row in rows(counted) if row["cause"] == cause and row["of"] == of[:-1]]
            names = {row["id"] if of == "nodes" else (row["source"], row["target"]): row for row in found}
            assert set(names) == mine.union(*sets)
            for name, row in names.items():
                assert row["survived"] == sum(name in some for some in sets)
                assert row["survival"] == pytest.approx(row["survived"] / len(many))
                assert row["drawn"] == (name in mine)
    assert 0 < told["seed"]["nodes"]["value"] < 1  # the test would see a difference


def test_the_graph_has_survival(counted: Path):
    survival = {row["id"]: row["survival"] for row in rows(counted) if row["cause"] == "all"}
    tree = json.loads((counted / "stability" / "circuit.json").read_text())
    assert nodes_of(counted, "stability") == nodes_of(counted)
    assert {node["id"]: node["survival"] for node in tree["nodes"]} == pytest.approx(
        {node["id"]: survival[node["id"]] for node in tree["nodes"]}
    )
    for edge in tree["edges"]:
        assert edge["survival"] == pytest.approx(survival[f"{edge['source']} → {edge['target']}"])
    assert "6 discoveries (3 seeds, 2 halves, 2 interventions)" in (counted / "stability" / "circuit.svg").read_text()


def test_repeats_differ_in_one_thing(counted: Path):
    def acts(name: str) -> list[list[int]]:
        from circuitcli.store import acts

        folder = counted / "stability" / name if name else counted
        return acts.read_sample(folder / "acts" / "tokens.safetensors").tokens.tolist()

    def plain(rows: list[list[int]]) -> list[tuple[int, ...]]:
        return [tuple(token for token in row if token) for row in rows]

    halves = [plain(acts(f"half-{number}")) for number in (1, 2)]
    assert sorted(halves[0] + halves[1]) == sorted(plain(acts("")))
    assert acts("intervention-mean") == acts("")
    assert acts("seed-1") != acts("")
    record = json.loads((counted / "stability/intervention-mean/ablations/stage.json").read_text())
    assert record["inputs"]["ablate.intervention"] == "mean"


def test_ranks_are_read_from_results(counted: Path):
    found = Results(Run(counted, STAGES.folders)).stability
    top = found.facts["strongest"]
    totals = pq.read_table(counted / "effects" / "features.parquet").to_pylist()
    drawn = nodes_of(counted)
    kl = {f"{r['layer']}.{r['site']}.{r['feature']}": r["kl_mean"] for r in totals}
    assert top == max((name for name in kl if name in drawn), key=lambda name: kl[name])
    node = found.nodes("intervention")[top]
    assert node.ranks is not None
    assert node.ranks[0] == 1
    assert (node.survived, node.repeats, node.drawn) == (2, 2, True)
    frame = found.survival()
    assert len(frame) == len(rows(counted))
    assert set(frame[frame["drawn"] & (frame["of"] == "node")]["id"]) == drawn


def test_the_run_itself_is_not_touched(circuit: Circuit, run: Path, counted: Path):
    before = without_stability(run)
    settings = (run / "settings.toml").read_text()
    done = circuit("stability", "--run", run, *FEW, "--json")
    assert done.code == 0
    after = without_stability(run)
    assert settings in (run / "settings.toml").read_text()  # and what was typed, as every command keeps it
    assert {**before, "settings.toml": ""} == {**after, "settings.toml": ""}
    assert tables_of(run) == tables_of(counted)
    assert done.document["causes"]["seed"]["repeats"] == 3
    assert done.document["words"][-1].startswith("6 discoveries in all: of ")
    again = circuit("stability", "--run", run)
    assert "stability: already done." in again.err
    for name in ("ablate", "graph"):
        assert f"{name}: already done." in circuit(name, "--run", run).err


def test_killed_at_any_change(circuit: Circuit, run: Path, counted: Path, tmp_path: Path):
    root = tmp_path / "counted"
    shutil.copytree(run, root)
    everything = run_killed(circuit, -1, "stability", "--run", root, *FEW)
    draw = random.Random(2)
    for moment in [0, len(everything) - 1, *draw.sample(range(1, len(everything) - 1), 5)]:
        root = tmp_path / str(moment)
        shutil.copytree(run, root)
        run_killed(circuit, moment, "stability", "--run", root, *FEW)
        assert circuit("stability", "--run", root, *FEW).code == 0
        assert tables_of(root) == tables_of(counted), everything[moment]
        assert not list(root.rglob("*.part"))


def test_what_is_made_is_kept(circuit: Circuit, counted: Path, tmp_path: Path):
    """More repeats make those alone; fewer make none."""
    root = Path(shutil.copytree(counted, tmp_path / "run"))
    more = circuit("stability", "--run", root, "--seeds", "4", "--halves", "2", "--interventions", "zero,mean")
    assert "stability: 1 repeat of the discovery" in more.err
    kept = {name: what for name, what in contents(counted / "stability").items() if "/" in name}
    assert kept.items() <= contents(root / "stability").items()
    fewer = circuit("stability", "--run", root, "--seeds", "2", "--halves", "0", "--interventions", "none")
    assert "of the discovery" not in fewer.err
    assert {row["cause"] for row in rows(root)} == {"seed", "all"}


def test_a_run_that_changed_asks_for_force(circuit: Circuit, counted: Path, tmp_path: Path):
    root = Path(shutil.copytree(counted, tmp_path / "run"))
    assert circuit("ablate", "--run", root, "--seq-cap", "3", "--force").code == 0
    assert circuit("effects", "--run", root).code == 0
    before = contents(root / "stability" / "seed-1")
    refused = circuit("stability", "--run", root)
    refused.refused(3, "seed-1", "features.seq_cap (5 → 3)", "--force")
    assert contents(root / "stability" / "seed-1") == before
    assert circuit("stability", "--run", root, "--force").code == 0
    plan = json.loads((root / "stability/seed-1/ablations/plan.json").read_text())
    assert plan["inputs"]["features.seq_cap"] == 3


def test_redrawing_the_graph_is_never_refused(circuit: Circuit, counted: Path, tmp_path: Path):
    root = Path(shutil.copytree(counted, tmp_path / "run"))
    assert circuit("graph", "--run", root, "--max-edges", "5").code == 0
    done = circuit("stability", "--run", root)
    assert done.code == 0
    assert "graph.max_edges" in done.err
    assert len(json.loads((root / "stability/seed-1/graph/circuit.json").read_text())["edges"]) <= 5


@pytest.fixture
def prompted(start: Any, tmp_path: Path) -> Callable[..., Path]:
    """Makes a run on prompts, all of which are read whatever the seed."""

    def make(**features: Any) -> Path:
        texts = {"source": "prompt", "prompt": PROMPTS, "file": ""}
        changes = {
            "saes": {"sites": ["resid_post"]},
            "texts": texts,
            "features": {"seq_cap": 100, **features},
            "graph": {"formats": ["json"]},
        }
        job = start(tmp_path / "prompted", changes)
        run_all.run(job, lambda outcome: None)
        return Path(job.run.root)

    return make


def test_what_the_seed_does_not_decide_is_the_same(circuit: Circuit, prompted: Callable[..., Path]):
    root = prompted(start="strongest")
    found = circuit("stability", "--run", root, "--seeds", "3", "--halves", "0", "--interventions", "none", "--json")
    seeds = found.document["causes"]["seed"]
    assert (seeds["nodes"], seeds["edges"]) == ({"value": 1, "low": 1, "high": 1},) * 2
    assert seeds["nodes_in_all"] == found.document["nodes"] > 0
    assert seeds["on_top"] == 3


def test_a_planted_instability(circuit: Circuit, prompted: Callable[..., Path], monkeypatch: pytest.MonkeyPatch):
    """All discoveries start from one feature but that of seed 2: what it alone misses survives 2 of 3."""

    def thin(firing: list[FeatureId], share: float, seed: int) -> list[FeatureId]:
        ordered = sorted(firing, key=lambda feature: feature.order)
        return [ordered[-1 if seed == 2 else 0]]

    monkeypatch.setattr(selection, "thin", thin)
    root = prompted(start="random")
    done = circuit("stability", "--run", root, "--seeds", "3", "--halves", "0", "--interventions", "none")
    assert done.code == 0
    assert "decides where the discovery starts" in done.out
    own, other = nodes_of(root), nodes_of(root / "stability" / "seed-2")
    assert nodes_of(root / "stability" / "seed-1") == own != other
    told = {row["id"]: row["survived"] for row in rows(root) if row["cause"] == "seed" and row["of"] == "node"}
    assert told == {name: 2 * (name in own) + (name in other) for name in own | other}


def test_of_an_attribution(circuit: Circuit, start: Any, tmp_path: Path):
    """Halves are of its questions, interventions its baselines; positions stay as the run had them."""
    texts = {"source": "prompt", "prompt": PROMPTS, "file": ""}
    job = start(tmp_path / "asked", {"saes": {"sites": ["resid_post"]}, "texts": texts, "graph": {"of": "attribution"}})
    run_all.run(replace(job, stages=STAGES.drawing("attribution")), lambda outcome: None)
    done = circuit("stability", "--run", job.run.root, "--seeds", "2", "--halves", "2")
    assert done.code == 0, done.err
    folder = job.run.root / "stability"
    halves = [json.loads((folder / f"half-{n}/attribution/questions.json").read_text()) for n in (1, 2)]
    assert [len(half) for half in halves] == [1, 2]
    assert sorted(one["prompt"] for half in halves for one in half) == sorted(PROMPTS)
    for name in ("half-1", "intervention-mean", "intervention-resample", "seed-1"):
        assert not any("@" in node for node in nodes_of(folder / name)), name
    assert {row["cause"] for row in rows(job.run.root)} == {"seed", "half", "intervention", "all"}
    assert "target" not in {row["id"] for row in rows(job.run.root)}


def test_one_question_has_no_halves(circuit: Circuit, start: Any, tmp_path: Path):
    texts = {"source": "prompt", "prompt": PROMPTS[:1], "file": ""}
    job = start(tmp_path / "asked", {"saes": {"sites": ["resid_post"]}, "texts": texts, "graph": {"of": "attribution"}})
    run_all.run(replace(job, stages=STAGES.drawing("attribution")), lambda outcome: None)
    done = circuit("stability", "--run", job.run.root, "--seeds", "2", "--interventions", "none")
    assert "Halves are left out: one question has none." in done.out
    alone = ["--seeds", "0", "--interventions", "none"]
    circuit("stability", "--run", job.run.root, *alone).refused(2, "one question has none", "--seeds 5")


@pytest.mark.parametrize(
    ("typed", "code", "words"),
    [
        (["--seeds", "1"], 2, "--seeds 1 leaves nothing to compare"),
        (["--halves", "1"], 2, "--halves 0 for none"),
        (["--interventions", "zero"], 2, "--interventions zero leaves nothing"),
        (["--interventions", "zero,men"], 2, "mean"),
        (["--seeds", "0", "--halves", "0", "--interventions", "none"], 2, "Nothing is to be repeated"),
        (["--seeds", "-1"], 2, "stability.seeds"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_made(
    circuit: Circuit, run: Path, typed: list[str], code: int, words: str
):
    before = contents(run)
    circuit("stability", "--run", run, *typed).refused(code, words)
    assert contents(run) == before


def test_a_run_that_is_not_finished(circuit: Circuit, run: Path):
    shutil.rmtree(run / "effects")
    circuit("stability", "--run", run).refused(3, "effects", "circuit effects")


def test_a_text_that_changed(circuit: Circuit, start: Any, tmp_path: Path, tiny_text: Path):
    text = tmp_path / "text.jsonl"
    shutil.copy(tiny_text, text)
    changes = {"saes": {"sites": ["resid_post"]}, "texts": {"file": str(text)}, "graph": {"formats": ["json"]}}
    job = start(tmp_path / "changing", changes)
    run_all.run(job, lambda outcome: None)
    text.write_text("".join(reversed(text.read_text().splitlines(keepends=True))))
    said = circuit("stability", "--run", job.run.root, "--seeds", "2", "--halves", "0", "--interventions", "none")
    said.refused(3, "seed-1", "The text changed since", "--seeds 0")


def test_dry_run_writes_nothing(circuit: Circuit, run: Path):
    before = contents(run)
    found = circuit("stability", "--run", run, *FEW, "--dry-run", "--json").document
    assert [(row["cause"], row["missing"]) for row in found["stability"]] == [
        ("seed", 2),
        ("half", 2),
        ("intervention", 1),
    ]
    assert found["seconds"] > 0
    assert contents(run) == before
