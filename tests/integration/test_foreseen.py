"""`circuit validate --dry-run`: what judging would take, beside what it then does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.commands import Result

from circuitcli import api
from circuitcli.stages import cache_acts, fetch_saes
from circuitcli.stages.stage import Job
from circuitcli.store import tables, validations

Circuit = Callable[..., Result]
WORDS = (
    "light", "earth", "deep", "water", "day", "night", "heaven", "God", "evening", "morning", "face", "spirit", "land",
    "sea", "grass", "seed",
)  # fmt: skip
TYPED = ("--circuit", "none", "--draws", "2", "--nodes", "4", "--size", "6", "--candidates", "30")


@pytest.fixture(scope="module")
def cached(start: Callable[..., Job], tmp_path_factory: pytest.TempPathFactory) -> Path:
    job = start(tmp_path_factory.mktemp("foreseen") / "run", {"saes": {"sites": ["resid_post"]}})
    for stage in (fetch_saes, cache_acts):
        stage.run(job)
    return job.run.root


def asked(path: Path, count: int) -> Path:
    """So many prompts of one length."""
    pairs = [(WORDS[i % 16], WORDS[(i * 7 + i // 16) % 16]) for i in range(count)]
    path.write_text(
        "\n".join(json.dumps({"prompt": f"the {one} and the {other} {i}"}) for i, (one, other) in enumerate(pairs))
    )
    return path


def told(circuit: Circuit, run: Path, prompts: Path) -> dict[str, object]:
    found = circuit("validate", "--run", run, "--prompts", prompts, *TYPED, "--dry-run", "--json")
    assert found.code == 0, found.err
    document = json.loads(found.out)
    assert document["dry_run"]
    return dict(document["validate"])


def written(run: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


def counts(expected: dict[str, object]) -> dict[str, int]:
    return {part["what"]: part["count"] for part in expected["parts"]}  # type: ignore[attr-defined]


def test_it_counts_what_is_then_done_and_writes_nothing(circuit: Circuit, cached: Path, tmp_path: Path):
    run, prompts = Path(shutil.copytree(cached, tmp_path / "run")), asked(tmp_path / "q.jsonl", 12)
    before = written(run)
    expected = counts(told(circuit, run, prompts))
    assert written(run) == before
    found = circuit("validate", "--run", run, "--prompts", prompts, *TYPED)
    assert found.code == 0, found.err
    table = tables.read(run / validations.MEASURED)
    examples = validations.examples(api.open_run(run).run)
    assert expected["estimating components"] == sum(one.half == "discovery" for one in examples)
    # All of the table but m(M); MIB's fractions are of what fires in all of discovery, not in the few tried.
    done = int((table["part"] != "everything").sum())
    assert expected["judging circuits"] == pytest.approx(done, rel=0.2)
    again = circuit("validate", "--run", run, "--prompts", prompts, *TYPED, "--dry-run")
    assert "Nothing is to be done." in again.err


def test_time_is_linear_in_examples(circuit: Circuit, cached: Path, tmp_path: Path):
    """The counts by which the time of each pass is multiplied are."""
    few, many = (counts(told(circuit, cached, asked(tmp_path / f"{n}.jsonl", n))) for n in (20, 200))
    assert many["estimating components"] == 10 * few["estimating components"]
    assert many["judging circuits"] == pytest.approx(10 * few["judging circuits"], rel=0.15)
    assert many["ablating it over text"] == few["ablating it over text"]
    assert np.isfinite(list(many.values())).all()
