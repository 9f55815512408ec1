"""`circuit validate --audit`: what is measured of a feature, beside plain transformers; ranks by plain numpy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from support.commands import Result
from support.plain import Place, PlainModel, PlainSae
from test_joint import ablated
from test_validate import PROMPTS

from circuitcli import api
from circuitcli.core.sites import FeatureId, parse_feature
from circuitcli.stages import cache_acts, fetch_saes
from circuitcli.stages.halves import halves
from circuitcli.stages.opened import opened
from circuitcli.stages.report import Silent
from circuitcli.stages.stage import Job
from circuitcli.store import tables, validations

Circuit = Callable[..., Result]
SITES = ["attn_out", "resid_post"]
TYPED = ("--circuit", "none", "--draws", "1", "--nodes", "4", "--candidates", "20")
CUTS = 10


@pytest.fixture(scope="module")
def cached(start: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny model whose activations are cached."""
    job = start(tmp_path_factory.mktemp("audit") / "run", {"saes": {"sites": SITES}})
    for stage in (fetch_saes, cache_acts):
        stage.run(job)
    return job.run.root


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("asked") / "questions.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    return path


@pytest.fixture(scope="module")
def plain_run(cached: Path, asked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It was validated, and nothing was audited; not to be touched."""
    root = Path(shutil.copytree(cached, tmp_path_factory.mktemp("plain") / "run"))
    settings = {"circuit": "none", "draws": 1, "nodes": 4, "candidates": 20, "prompts": str(asked)}
    with opened(root, [{"validate": settings}], Silent()) as job:
        job.stages["validate"].work()(job)
    return root


@pytest.fixture
def run(plain_run: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(plain_run, tmp_path / "run"))


def firing(run: Path) -> dict[str, list[FeatureId]]:
    """Features by how often they fire in the sample: `often`, and `never`, at each site."""
    table = tables.read(run / "acts/features.parquet")
    names = [f"{a}.{b}.{c}" for a, b, c in zip(table["layer"], table["site"], table["feature"], strict=True)]
    order = np.argsort(-table["n_active"], kind="stable")
    often = [parse_feature(names[i]) for i in order]
    return {
        "often": [next(one for one in often if one.site.name == name) for name in SITES],
        "never": [parse_feature(names[i]) for i in np.flatnonzero(table["n_active"] == 0)],
    }


def audit(circuit: Circuit, run: Path, asked: Path, *features: object, more: tuple[str, ...] = ()) -> Result:
    typed = [word for one in features for word in ("--audit", str(one))]
    found = circuit("validate", "--run", run, "--prompts", asked, *TYPED, *typed, *more)
    assert found.code == 0, found.err
    return found


def table(run: Path, name: str) -> pandas.DataFrame:
    return pandas.DataFrame(tables.read(run / f"validation/{name}.parquet"))


def test_m_without_a_feature_and_of_it_alone_is_what_plain_transformers_say(
    circuit: Circuit, run: Path, asked: Path, plain_model: PlainModel, plain_saes: dict[Place, PlainSae]
):
    """float64, hooks, dictionaries written out: ≤1e-5 nats."""
    features = firing(run)["often"]
    audit(circuit, run, asked, *features)
    with opened(run, [], Silent(), writes=False) as job:
        from circuitcli.stages.examples import examples

        sequences = [one.sequences[0] for one in examples(job)]
    found = table(run, "audit")
    places = [(layer, name) for layer in range(3) for name in SITES]
    saes, become = {place: plain_saes[place] for place in places}, {place: torch.zeros(40) for place in places}
    compared, moved = 0, 0.0
    for one in features:
        rows = found[(found["site"] == one.site.name) & (found["layer"] == one.site.layer)].set_index("example")
        assert rows["feature"].unique().tolist() == [one.index]
        for number, sequence in enumerate(sequences):
            tokens, counts = torch.tensor(sequence.ids), torch.tensor(sequence.counts)
            seen, clean = plain_model.run(tokens)
            target = int(clean[-1].argmax())
            only = {(one.site.layer, one.site.name): [one.index]}
            rest = {place: [j for j in range(40) if j not in only.get(place, [])] for place in places}
            row = rows.loc[number]
            assert row["m"] == pytest.approx(float(clean[-1, target]), abs=1e-5)
            for name, circuit_of in (("without", only), ("alone", rest)):
                said, doubtful = ablated(plain_model, saes, tokens, counts, circuit_of, become)
                if not doubtful:
                    assert row[name] == pytest.approx(float(said[-1, target]), abs=1e-5)
                    compared += 1
            a = saes[one.site.layer, one.site.name].encode(seen[one.site.layer, one.site.name])[counts, one.index]
            assert row["fires"] == int((a > 0).sum())
            assert row["activation"] == pytest.approx(float(a.sum()), rel=1e-4, abs=1e-4)
            moved = max(moved, abs(row["without"] - row["m"]))
    assert compared >= len(features) * len(sequences)
    assert moved > 1e-3, "they do something"


def test_ranks_are_those_of_the_effects_on_each_half(circuit: Circuit, run: Path, asked: Path):
    """By plain loops, from effects example by example."""
    features = firing(run)["often"]
    audit(circuit, run, asked, *features)
    told = validations.examples(api.open_run(run).run)
    effects: dict[FeatureId, np.ndarray] = {}
    half = {"measured": "discovery", "compared": "evaluation"}
    seen: dict[str, set[int]] = {name: set() for name in half}
    for name in half:
        for path in (run / "validation").glob(f"{name}-*.parquet"):
            part = tables.read(path)
            for i in range(len(part["example"])):
                one = parse_feature(f"{part['layer'][i]}.{part['site'][i]}.{part['feature'][i]}")
                effects.setdefault(one, np.zeros(len(told)))[part["example"][i]] = part["exact"][i]
                seen[name].add(int(part["example"][i]))
    assert all({told[i].half for i in seen[name]} == {half[name]} for name in half)
    audited = table(run, "audit")
    own = {}
    for one in features:
        rows = audited[(audited["site"] == one.site.name) & (audited["feature"] == one.index)]
        own[one] = (rows["without"] - rows["m"]).to_numpy()[np.argsort(rows["example"])]
        if one in effects:
            np.testing.assert_allclose(effects[one], own[one], atol=2e-5)
    with opened(run, [], Silent(), writes=False) as job:
        from circuitcli.stages.examples import examples

        cuts = [halves(examples(job), 0.5, seed) for seed in range(CUTS)]
    sides = [[i for i, h in enumerate(cut) if h == name] for cut in cuts for name in ("discovery", "evaluation")]
    found = table(run, "ranks")
    assert len(found) == len(features) * 2 * CUTS
    for one in features:
        others = [values for other, values in effects.items() if other != one]
        expected = [
            1 + sum(abs(np.mean(values[side])) >= abs(np.mean(own[one][side])) for values in others) for side in sides
        ]
        rows = found[(found["site"] == one.site.name) & (found["feature"] == one.index)]
        assert rows["draw"].tolist() == list(range(1, 2 * CUTS + 1))
        assert rows["rank"].tolist() == expected
        assert rows["n"].unique().tolist() == [20 if one in effects else 21]
        np.testing.assert_allclose(rows["exact"], [np.mean(own[one][side]) for side in sides], atol=1e-6)
    assert found["rank"].nunique() > 2, "the test would see a difference"


def test_the_rank_by_atp_is_that_of_the_estimates(circuit: Circuit, run: Path, asked: Path):
    often, never = firing(run)["often"][0], firing(run)["never"][0]
    document = json.loads(audit(circuit, run, asked, often, never, more=("--json",)).out)
    parts = pandas.concat([pandas.DataFrame(tables.read(p)) for p in (run / "validation").glob("screened-*.parquet")])
    total = parts[parts["kind"] == "features"].groupby(["layer", "site", "feature"])["atp"].sum().abs()
    rank = int((total > total[often.site.layer, often.site.name, often.index]).sum()) + 1
    by = {row["feature"]: row for row in document["audit"]["features"] if row["half"] == "discovery"}
    assert by[str(often)]["rank_atp"] == rank
    assert by[str(never)]["rank_atp"] is None


def test_one_that_never_fires_says_nothing(circuit: Circuit, run: Path, asked: Path):
    never = firing(run)["never"][0]
    said = json.loads(audit(circuit, run, asked, never, more=("--json",)).out)["audit"]
    found = table(run, "audit")
    assert (found["fires"] == 0).all()
    assert (found["without"] == found["m"]).all()
    assert {row["verdict"] for row in said["features"]} == {"silent"}
    [paragraph] = said["said"]
    assert paragraph.startswith(f"{never} can't be judged on 4 evaluation examples: it fires on none of them.")
    assert "ranks" not in paragraph


def test_what_else_is_told_stays_as_it_is_and_is_not_measured_again(circuit: Circuit, run: Path, asked: Path):
    """Byte by byte; another feature costs itself alone, and `none` drops them."""
    names = (*validations.FILES, validations.JOINT)
    parts = list((run / "validation").glob("*-*.parquet"))
    assert {path.name.split("-")[0] for path in parts} == {"screened", "measured", "validation"}
    before = {name: (run / name).read_bytes() for name in names}
    kept = {path: path.stat().st_mtime_ns for path in [*parts, run / validations.JOINT]}
    first, second = firing(run)["often"]
    audit(circuit, run, asked, first)
    assert {name: (run / name).read_bytes() for name in names} == before
    alone = table(run, "audit")
    compared = {path: path.stat().st_mtime_ns for path in (run / "validation").glob("compared-*.parquet")}
    assert compared
    audit(circuit, run, asked, first, second)
    assert {path: path.stat().st_mtime_ns for path in [*kept, *compared]} == kept | compared
    both = table(run, "audit")
    again = both[(both["site"] == first.site.name) & (both["feature"] == first.index)].reset_index(drop=True)
    pandas.testing.assert_frame_equal(again[list(alone)], alone, rtol=0, atol=1e-5)
    results = api.open_run(run)
    assert results.validation.audit()["feature"].tolist() == [str(first), str(second)] * 2
    assert "already done" in audit(circuit, run, asked, first, second).err
    audit(circuit, run, asked, "none")
    assert api.open_run(run).validation.audit().empty
    assert {name: (run / name).read_bytes() for name in names} == before


@pytest.mark.parametrize("at", ["audit-", "compared-", "audit.", "ranks."])
def test_stopped_and_resumed(circuit: Circuit, run: Path, asked: Path, monkeypatch: pytest.MonkeyPatch, at: str):
    often = firing(run)["often"]
    write, names = tables.write, (validations.AUDIT, validations.RANKS)
    stopping = True

    def stopped(path: Path, name: str, parts: list[tables.Columns]) -> int:
        if stopping and path.name.startswith(at):
            raise KeyboardInterrupt
        return write(path, name, parts)

    monkeypatch.setattr(tables, "write", stopped)
    line = ("validate", "--run", run, "--prompts", asked, *TYPED, "--audit", str(often[0]), "--audit", str(often[1]))
    assert circuit(*line).code == 130
    stopping = False
    assert circuit(*line).code == 0
    resumed = {name: (run / name).read_bytes() for name in names}
    assert circuit(*line, "--force").code == 0
    assert {name: (run / name).read_bytes() for name in names} == resumed


# What is typed, the exit code, and words of the two lines.
BAD: dict[str, tuple[str, list[str]]] = {
    "no name": ("heavens", ["`heavens` doesn't name a feature"]),
    "no site": ("9.resid_post.3", ["The feature `9.resid_post.3` is at no SAE of this run", "0.attn_out"]),
    "too large": ("0.resid_post.40", ["lies outside its SAE of 40 features"]),
    "several sites": ("0:3", ["could be at several sites", "`0.resid_post.3`"]),
}


@pytest.mark.parametrize("what", BAD)
def test_features_that_there_are_not(circuit: Circuit, run: Path, asked: Path, what: str):
    typed, words = BAD[what]
    before = (run / "validation/stage.json").read_bytes()
    circuit("validate", "--run", run, "--prompts", asked, *TYPED, "--audit", typed).refused(2, *words)
    assert (run / "validation/stage.json").read_bytes() == before


def test_in_a_circuit_its_marginal_share_is_told_too(circuit: Circuit, cached: Path, asked: Path, tmp_path: Path):
    run = Path(shutil.copytree(cached, tmp_path / "run"))
    inside, outside = firing(run)["often"]
    line = ("validate", "--run", run, "--prompts", asked, "--draws", "1", "--pin", str(inside), "--candidates", "9")
    done = circuit(*line, "--audit", str(inside), "--audit", str(outside), "--json")
    assert done.code == 0, done.err
    document = json.loads(done.out)
    by = {(row["half"], row["feature"]): row for row in document["audit"]["features"]}
    share = {row["feature"]: row["share"] for row in document["nodes"]}
    assert by["evaluation", str(inside)]["in_circuit"] == share[str(inside)]
    assert by["evaluation", str(outside)]["in_circuit"]["value"] is None


QUESTIONS = [
    {"question": f"the {one} of the", "choices": [" earth", " waters", " day"], "answer": i % 3}
    for i, one in enumerate(("light", "deep", "night", "spirit", "face", "heaven"))
]


@pytest.mark.parametrize("baseline", ["zero", "mean", "resample", "patch"])
def test_choices(circuit: Circuit, cached: Path, tmp_path: Path, baseline: str):
    """All sequences of a question count where it fires, and m is the right choice's less the best wrong one's."""
    run, path = Path(shutil.copytree(cached, tmp_path / "run")), tmp_path / "q.jsonl"
    other = {"counterfactual": "the waters of the"} if baseline == "patch" else {}
    path.write_text("\n".join(json.dumps(one | other) for one in QUESTIONS))
    features = firing(run)["often"]
    audit(circuit, run, path, *features, more=("--baseline", baseline))
    found, judged = table(run, "audit"), table(run, "validation")
    whole = judged[judged["part"] == "everything"].sort_values("example")["m"].to_numpy()
    for one in features:
        rows = found[(found["site"] == one.site.name) & (found["feature"] == one.index)].sort_values("example")
        np.testing.assert_array_equal(rows["m"], whole)
        assert (rows["without"] != rows["m"]).any()


def test_what_it_takes_is_told_beforehand(circuit: Circuit, run: Path, asked: Path):
    """Of what is judged already the audit alone."""
    often = firing(run)["often"]
    typed = [word for one in often for word in ("--audit", str(one))]
    line = ("validate", "--run", run, "--prompts", asked, *TYPED, *typed, "--dry-run", "--json")
    parts: Any = json.loads(circuit(*line).out)["validate"]["parts"]
    assert [part["what"] for part in parts] == ["auditing features", "measuring features to compare"]
    assert parts[0]["count"] == 2 * len(PROMPTS)
    shutil.rmtree(run / "validation")
    everything = [part["what"] for part in json.loads(circuit(*line).out)["validate"]["parts"]]
    assert everything[-2:] == ["auditing features", "measuring features to compare"]
    assert len(everything) == 6
