"""Attributions on disk."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from circuitcli.errors import InputError
from circuitcli.store import attributions, tables
from circuitcli.store.attributions import Prompt, Target
from circuitcli.store.records import Record
from circuitcli.store.run import Run

ASKED = Prompt(
    prompt="In the \ud800",
    tokens=("<|endoftext|>", "In", " the", " \ud800"),  # half a character, as a byte-level token may be
    ids=(0, 5, 6, 7),
    counts=(False, True, True, True),
    target=" heavens",
    target_id=8,
    against=None,
    against_id=None,
    counterfactual=None,
    counterfactual_tokens=None,
    clean=-0.7,
    prob=0.4966,
    unit="nats",
)
NODE = {"prompt": 0, "node": [0, 1], "kind": ["token", "feature"], "layer": [0, 2], "site": ["token", "resid_post"]}
NUMBERS = {"activation": [1.0, 2.5], "replacement": [np.nan, 0.0], "effect": [0.1, -0.3], "method": "exact"}
ESTIMATES = {"atp": [0.1, -0.2], "ig": np.nan, "relp": [0.1, -0.25], "exact": [0.1, -0.3], "drawn": 1.0}
NODES = {**NODE, "feature": [0, 7], "pos": [1, 1], **NUMBERS, **ESTIMATES}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    found = Run(tmp_path / "run", {attributions.STAGE: "attribution"})
    found.save_settings({})
    return found


def _written(run: Run, *asked: Prompt) -> None:
    edges = {
        "prompt": 0,
        "source": [0],
        "target": [1],
        "weight": [0.5],
        "method": ["relp"],
        "estimate": [0.5],
        "exact": np.nan,
    }
    rows = {"prompt": 0, "target": [1], "abs_in": [2.0]}
    found = attributions.write(run, asked, [NODES, {**NODES, "prompt": 1}], [{**edges, "drawn": 0.0}], [rows])
    run.save_record(attributions.STAGE, Record("f", {}, {}, found, {}, {}, "cpu", 0.0))


def test_attributions_come_back(run: Run):
    _written(run, ASKED, replace(ASKED, against=" earth", against_id=9, unit="logits", baseline_metric=-3.25))
    assert attributions.questions(run) == [
        ASKED,
        replace(ASKED, against=" earth", against_id=9, unit="logits", baseline_metric=-3.25),
    ]
    nodes = tables.read(run.verified(attributions.STAGE, attributions.NODES))
    assert nodes["prompt"].tolist() == [0, 0, 1, 1]
    assert nodes["kind"].tolist() == ["token", "feature"] * 2
    assert np.isnan(nodes["ig"]).all()
    assert nodes["exact"].tolist() == np.float32([0.1, -0.3, 0.1, -0.3]).tolist()
    assert {name: entry.rows for name, entry in run.require(attributions.STAGE).files.items()} == {
        attributions.QUESTIONS: None,
        attributions.NODES: 4,
        attributions.EDGES: 1,
        attributions.ROWS: 1,
    }


def test_several_targets_come_back_and_older_files_have_none(run: Run):
    several = replace(ASKED, targets=(Target(" heavens", 8, 0.6, 0.75), Target(" \ud800", 9, 0.2, 0.25)))
    _written(run, several)
    assert attributions.questions(run) == [several]
    path = run.path(attributions.QUESTIONS)
    tree = json.loads(path.read_text())
    del tree[0]["targets"]
    path.write_text(json.dumps(tree))
    record = run.require(attributions.STAGE)
    run.save_record(
        attributions.STAGE, replace(record, files={**record.files, attributions.QUESTIONS: run.entry(path)})
    )
    assert attributions.questions(Run(run.root, run.folders)) == [ASKED]


def test_without_the_stage_there_is_nothing_to_read(run: Run):
    with pytest.raises(InputError, match="has no finished attribute stage"):
        attributions.questions(run)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda tree: tree[0].update(clean="much"), r"\[0\]\.clean: should be a finite number"),
        (lambda tree: tree[0].update(more=1), r"\[0\]\.more: isn't known"),
        (lambda tree: tree[0].pop("target"), r"\[0\]\.target: is missing"),
        (lambda tree: tree.append(3), r"\[1\]: should be an object"),
    ],
)
def test_questions_of_another_shape(damage, said: str, run: Run):
    _written(run, ASKED)
    path = run.path(attributions.QUESTIONS)
    tree = json.loads(path.read_text())
    damage(tree)
    path.write_text(json.dumps(tree))
    record = run.require(attributions.STAGE)
    run.save_record(
        attributions.STAGE, replace(record, files={**record.files, attributions.QUESTIONS: run.entry(path)})
    )
    with pytest.raises(InputError, match=said):
        attributions.questions(Run(run.root, run.folders))
