"""`circuit bench --attribution`: both ways give the same, what is extrapolated adds up, and nothing is fetched."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.commands import Result, tsv

from circuitcli.runtime import shapes
from circuitcli.settings import resolve
from circuitcli.stages import cases, wiring
from circuitcli.stages.report import Silent
from circuitcli.stages.study import Study
from circuitcli.stages.timed_attribution import Sample, Workload
from circuitcli.stages.tools import Tools

Circuit = Callable[..., Result]
SIZES = {"n_layer": 3, "n_embd": 64, "n_head": 4, "vocab_size": 60, "n_positions": 64, "initializer_range": 0.3}
FLAGS = ("bench", "--attribution", "--shape", "small", "--d-sae", "512", "--tokens", "6")


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """A shape that is timed in a second, and whose nodes matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(shapes.SHAPES, "small", ("GPT2Config", SIZES))
        yield


@pytest.fixture(scope="module")
def opened(small: None) -> tuple[Workload, Study]:
    tools = Tools(resolve({}), Silent())
    case = cases.synthetic_prompt(tools, "small", 512, 6)
    work = Workload(case, tools.runtime, Silent())
    return work, work.open()


def test_what_is_said(circuit: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = circuit(*FLAGS, "--budget", "4", "--json").document
    assert (found["subject"], found["tokens"], found["dictionaries"]) == ("small, random weights, d_sae 512", 6, 9)
    assert 30 <= found["mean_l0"] <= 50
    assert found["nodes"] == pytest.approx(5 * 9 * (found["mean_l0"] + 1))
    assert found["exact_measured"] == found["nodes"], "all of them: there is time"
    assert set(found["estimate_seconds"]) == {"atp", "relp", "ig 10"}
    assert set(found["edges_seconds"]) == {"200", "2000"}
    assert max(found["worst_relative_difference"].values()) < 1e-4
    for ratio in found["ratios"].values():
        assert ratio["value"] > 0
        assert ratio["low"] is None or ratio["low"] <= ratio["value"] <= ratio["high"]
    seconds = found["open_seconds"], found["exact_seconds"], found["plain_node_seconds"], found["plain_edges_seconds"]
    assert min(seconds) > 0
    assert not list(tmp_path.iterdir()), "it writes nothing"


def test_tables(circuit: Circuit) -> None:
    rows = {row[0]: row[1:] for row in tsv(circuit(*FLAGS, "--layers", "1:3", "--budget", "2").out)}
    assert rows["subject"] == ["small, random weights, d_sae 512", "6 SAEs"]
    assert {"opening", "atp", "relp", "ig 10", "exact", "edges of 200", "edges of 2,000"} <= set(rows)
    assert "(" in rows["exact"][2]


def test_both_ways_give_the_same(opened: tuple[Workload, Study]) -> None:
    """All nodes of a sample, and rows of edges; and what is timed is what a sample says that it is."""
    work, study = opened
    sample = Sample(work, study)
    assert max(sample.difference().values()) < 1e-4
    for group in sample.groups:
        ours = sample.measured(group.nodes)
        assert len({int(pos) for pos in study.pos[group.nodes]}) == 1
        plain = np.asarray([sample.plain_node(int(node)) for node in group.nodes])
        assert abs(ours - plain).max() <= 1e-4 * abs(plain).max()
        assert abs(plain).max() > 1e-3, "they matter"
    assert sample.targets == sum(len(rows) for rows in sample.ways["edges"]())
    assert 0 < sample.share < 1
    for name in ("nodes", "plain node", "plain edges"):
        sample.ways[name]()


def test_what_there_is_no_time_for_follows_by_operations(
    opened: tuple[Workload, Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On nodes that take as long as they have operations all of them take what some say."""
    work, study = opened
    groups = {int(group.nodes[0]): group.work for group in work.groups(study)}
    whole = sum(groups.values())

    def slow(nodes: np.ndarray, batches: Any) -> np.ndarray:
        time.sleep(0.4 * groups[int(nodes[0])] / whole)
        return np.zeros(len(nodes))

    monkeypatch.setattr(study, "measured", slow)
    seconds, measured = work.exact(study, 0.1)
    assert 0.4 <= seconds < 0.8
    assert measured < work.nodes(study)
    seconds, measured = work.exact(study, 10.0)
    assert 0.4 <= seconds < 0.8
    assert measured == work.nodes(study)


def test_saes_share_their_matrices_and_fire_alike(opened: tuple[Workload, Study]) -> None:
    work, study = opened
    saes = list(work.case.saes.values())
    assert {one.w_dec.data_ptr() for one in saes} == {saes[0].w_dec.data_ptr()}
    assert len({float(one.b_enc[0]) for one in saes}) == len(saes)
    wired = work.wire(study, 20)
    assert isinstance(wired, wiring.Wired)
    assert len(set(wired.edges["target"].tolist()) - {study.nodes}) <= 20
    assert set(wired.rows["target"].tolist()) >= set(wired.edges["target"].tolist())


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--attribution", "--model", "gpt2"), 2, ("--attribution", "no --model")),
        (("--attribution", "--shape", "small", "--tokens", "65"), 2, ("64 tokens", "--tokens 64")),
        (("--attribution", "--shape", "nothing"), 2, ("nothing",)),
        (("--attribution", "--num-prompts", "3"), 2, ("--num-prompts", "--estimates")),
        (("--attribution", "--freeze"), 2, ("--freeze", "--estimates")),
    ],
)
def test_what_does_not_go_together(circuit: Circuit, flags: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    circuit("bench", *flags).refused(code, *words)
