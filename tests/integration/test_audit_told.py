"""What is told of audited features, from the files of a validation with made-up numbers: words, tables, a DataFrame."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
from support.commands import tsv
from support.validated import Made, MadeAudit, feature, validate, with_audit

from circuitcli.cli import evidence_audit
from circuitcli.cli.console import Terminal
from circuitcli.core.sites import parse_feature
from circuitcli.stages.stage import Job
from circuitcli.store import tables

IN, OUT = feature(3), parse_feature("1.resid_post.33")  # of the circuit, and not
AUDITED = (
    MadeAudit(feature=IN),
    MadeAudit(feature=OUT, loses=(0.001, 0.01), ranks=(30, 31, 32, 41), by_atp=None, silent=("discovery",)),
)


@pytest.fixture
def job(start: Callable[..., Job], tmp_path: Path) -> Job:
    return validate(start(tmp_path / "run"), Made())


def said(job: Job) -> list[str]:
    return evidence_audit.document_audit(job.results())["said"]


# What a feature loses, where it doesn't fire, and words of what is said of it.
WORDS: dict[str, tuple[MadeAudit, list[str], list[str]]] = {
    "needed": (
        MadeAudit(feature=IN),
        [
            "is needed on 24 evaluation examples: m falls by ", " nats without it, ", " (q = 0.000",
            "It fires on 24 of the 24 evaluation examples, at 2.50 on average",
            "Alone it does .25 (.25–.25) of what the model does, errors kept.",
            "Its marginal share in the circuit is ",
            "On 20 discovery examples, of which it fires on 20, m falls by ",
            "it ranks 2.5 (1–12) among 41 measured features over 4 random halves of all examples: first in 1,",
            " among the 10 strongest in 3.",
            "By |atp| on the discovery examples it is 7 of the 60 that fire.",
        ],
        ["isn't", "can't", "rises", "seeds"],
    ),
    "against": (
        MadeAudit(feature=OUT, loses=(-1.0, 0.1)),
        ["1.resid_post.33 isn't needed on 24 evaluation examples, it works against the metric: m rises by "],
        ["falls", "in the circuit"],
    ),
    "not needed": (
        MadeAudit(feature=OUT, loses=(0.001, 0.01)),
        ["1.resid_post.33 isn't needed on 24", "and the whole interval is within ±.05."],
        ["against", "in the circuit"],
    ),
    "unclear": (
        MadeAudit(feature=OUT, loses=(0.3, 3.0)),
        ["Whether 1.resid_post.33 is needed can't be told on 24 evaluation examples: m "],
        ["isn't needed"],
    ),
    "silent": (
        MadeAudit(feature=OUT, silent=("evaluation",)),
        [
            "1.resid_post.33 can't be judged on 24 evaluation examples: it fires on none of them.",
            "On 20 discovery examples, of which it fires on 20, m falls by ",
            "it ranks ",
        ],
        ["needed", "Alone", "24 on"],
    ),
    "silent everywhere": (
        MadeAudit(feature=OUT, silent=("evaluation", "discovery"), by_atp=None),
        ["it fires on none of them. It fires on none of the 20 discovery examples."],
        ["needed", "ranks", "|atp|"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("verdict", WORDS)
def test_words(job: Job, verdict: str):
    made, there, missing = WORDS[verdict]
    [paragraph] = said(with_audit(job, made))
    assert [part for part in there if part not in paragraph] == [], paragraph
    assert [part for part in missing if part in paragraph] == [], paragraph


def test_columns_are_those_of_the_files(job: Job):
    found = with_audit(job, *AUDITED).results().validation.audit()
    assert found["half"].tolist() == ["evaluation"] * 2 + ["discovery"] * 2
    table = pandas.read_parquet(job.run.root / "validation/audit.parquet").astype({"half": str})
    rows = pandas.read_parquet(job.run.root / "validation/validation.parquet").astype({"half": str, "part": str})
    kept = rows[(rows["errors"] == "kept") & (rows["curve"] == "")]
    m = {part: kept[kept["part"] == part].set_index("example")["m"] for part in ("everything", "nothing")}
    for row in found.itertuples():
        here = table[(table["half"] == row.half) & (table["feature"] == row.index)].set_index("example")
        whole, none = (m[part].loc[here.index] for part in ("everything", "nothing"))
        drop = whole.mean() - here["without"].mean()
        assert row.drop == pytest.approx(drop, abs=1e-9)
        assert row.share == pytest.approx(drop / (whole.mean() - none.mean()), abs=1e-9)
        assert row.alone == pytest.approx((here["alone"].mean() - none.mean()) / (whole.mean() - none.mean()))
        assert (row.examples, row.fires) == (len(here), (here["fires"] > 0).sum())
        ranks = pandas.read_parquet(job.run.root / "validation/ranks.parquet")
        ranks = ranks[ranks["feature"] == row.index]["rank"]
        told = (row.rank_min, row.rank_median, row.rank_max, row.rank_halves, row.rank_among)
        assert told == (ranks.min(), ranks.median(), ranks.max(), 4, 41)
        assert (row.rank_first, row.rank_top) == ((ranks == 1).sum(), (ranks <= 10).sum())
    by = found.set_index(["half", "feature"])
    quiet = by.loc[("discovery", str(OUT))]
    assert (quiet["verdict"], quiet["fires"]) == ("silent", 0)
    assert quiet[["activation", "p", "q", "rank_atp", "seeds_median"]].isna().all()
    shares = job.results().validation.nodes().set_index("feature")["share"]
    assert by["in_circuit"][("evaluation", str(IN))] == shares[str(IN)]
    assert np.isnan(by["in_circuit"][("evaluation", str(OUT))])


def test_ranks_over_seeds_are_those_of_stability(job: Job):
    """Where `circuit stability` counted it."""
    names = {"id": [str(IN), "target"], "rank_min": [2.0, np.nan], "rank_median": [3.5, np.nan]}
    none = dict.fromkeys(("survival", "effect_mean", "effect_std"), np.ones(2))
    counts = {"drawn": np.ones(2, np.int8), "repeats": np.full(2, 5), "survived": np.full(2, 4)}
    blank = {"of": "node", "cause": "seed", "source": ["", ""], "target": ["", ""]}
    path = job.run.root / "stability/stability.parquet"
    count = tables.write(path, "stability/stability", [{**blank, **counts, **none, **names, "rank_max": [9.0, np.nan]}])
    record = job.run.require("validate")
    job.run.save_record("stability", replace(record, files={"stability/stability.parquet": job.run.entry(path, count)}))
    found = with_audit(job, *AUDITED).results().validation.audit()
    told = found[["seeds_min", "seeds_median", "seeds_max"]]
    assert told[found["feature"] == str(IN)].drop_duplicates().to_numpy().tolist() == [[2, 3.5, 9]]
    assert told[found["feature"] == str(OUT)].isna().all(axis=None)
    assert "Where discoveries with other seeds have it, it ranks 3.5 (2–9)." in said(job)[0]


def test_without_an_audit_there_is_none(job: Job, capsys: pytest.CaptureFixture[str]):
    results = job.results()
    assert results.validation.audit().empty
    evidence_audit.show_audit(results, Terminal(as_json=False, quiet=False))
    assert capsys.readouterr().out == ""
    assert evidence_audit.document_audit(results) == {"features": [], "said": []}


def test_tables_in_a_pipe(job: Job, capsys: pytest.CaptureFixture[str]):
    results = with_audit(job, *AUDITED).results()
    evidence_audit.show_audit(results, Terminal(as_json=False, quiet=False))
    out = capsys.readouterr().out
    notes = [line.removeprefix("# ") for line in out.splitlines() if line.startswith("# ")]
    assert notes[:2] == said(job)
    header, *rows = tsv(out)
    assert header[:4] == ["feature", "half", "fires on", "mean activation"]
    assert notes[2].startswith("Audited features: what m loses without each, in nats")
    drops, ranks = rows[:4], rows[5:]
    assert [row[:4] for row in drops] == [
        [str(IN), "evaluation", "24/24", "2.50"],
        [str(OUT), "evaluation", "24/24", "2.50"],
        [str(IN), "discovery", "20/20", "2.50"],
        [str(OUT), "discovery", "0/20", "–"],
    ]
    assert [row[-1] != "–" for row in drops] == [True, False, False, False]
    assert rows[4][0] == "feature"
    assert ranks == [
        [str(IN), "2.5", "1–12", "1/4", "3/4", "41", "7", "60", "–"],
        [str(OUT), "31.5", "30–41", "0/4", "0/4", "41", "–", "60", "–"],
    ]


def test_json_has_no_nan(job: Job):
    found = with_audit(job, *AUDITED).results()
    document = json.loads(json.dumps(evidence_audit.document_audit(found), allow_nan=False))
    assert [(row["half"], row["feature"]) for row in document["features"]] == [
        (half, str(one)) for half in ("evaluation", "discovery") for one in (IN, OUT)
    ]
    assert document["features"][0]["drop"].keys() == {"value", "low", "high"}
    assert document["features"][3]["q"] is None
