"""`circuit bench --truth`: what measures recovers every known circuit, and a wrong answer is found out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from support.commands import Result, tsv

from circuitcli.known import KNOWN, Known, cancelling, copying, share
from circuitcli.known.program import Attention, Block
from circuitcli.settings import resolve
from circuitcli.stages import bench_truth
from circuitcli.stages.report import Silent
from circuitcli.stages.tools import Tools

Circuit = Callable[..., Result]
WAYS = ["exact", "auto", "ig", "atp", "relp"]


def run(known: Sequence[Known]) -> bench_truth.Truth:
    return bench_truth.run(Tools(resolve({}, {"runtime": {"device": "cpu"}}), Silent()), known)


def test_what_measures_recovers_every_circuit_and_estimates_are_reported(circuit: Circuit) -> None:
    found = circuit("bench", "--truth", "--json")
    assert found.code == 0, found.err
    document = found.document
    assert (document["wrong"], document["least"]) == ([], 1e-3)
    assert [model["name"] for model in document["models"]] == [known.name for known in KNOWN]
    for model, known in zip(document["models"], KNOWN, strict=True):
        assert (model["nodes"], model["edges"]) == (len(known.nodes), len(known.edges))
        assert model["node_candidates"] > model["nodes"]
        assert model["clean"] == pytest.approx(known.metric, abs=1e-5)
        assert [one["method"] for one in model["found"]] == WAYS
        for one in model["found"]:
            if one["method"] in ("exact", "auto"):
                assert one["nodes"] == one["edges"] == {"precision": 1, "recall": 1, "auroc": 1}
                assert (one["missed"], one["added"]) == ([], [])
                assert one["worst"] < 1e-5
    by_name = {model["name"]: {one["method"]: one for one in model["found"]} for model in document["models"]}
    # On one path of values that are never negative all gradients are the effects themselves.
    assert all(one["nodes"]["recall"] == one["edges"]["recall"] == 1 for one in by_name["share"].values())
    # Where two paths cancel there is no gradient, though there is an effect; on the way to 0 there is one.
    for method in ("atp", "relp"):
        assert by_name["cancelling"][method]["missed"][:2] == ["token@2", "0.resid_pre.tok:x@2"]
        assert by_name["cancelling"][method]["nodes"]["recall"] == 0.5
    assert by_name["cancelling"]["ig"]["nodes"] == {"precision": 1, "recall": 1, "auroc": 1}
    # Attention that has settled on one position has no gradient towards queries and keys.
    assert {"0.resid_pre.pos:2@2", "0.resid_pre.pos:3@3"} <= set(by_name["copying"]["atp"]["missed"])


def planted(known: Known, kind: str) -> Known:
    *lines, last = known.circuit.rstrip().splitlines()
    assert "->" in last
    first, second = (line.split()[0] for line in lines[1:3])
    circuits = {
        "an edge added": [*lines, last, f"{first} -> {second} -1"],
        "an edge taken away": lines,
        "a node added": [*lines, last, "token@1 -1"],
        "a wrong effect": [*lines, last.rsplit(maxsplit=1)[0] + " -3/4"],
    }
    return replace(known, circuit="\n".join(circuits[kind]))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("an edge added", "exact misses token@2 → token@3"),
        ("an edge taken away", "exact adds 0.resid_post.prev:b@3 → target"),
        ("a node added", "exact misses token@1"),
        ("a wrong effect", "exact has an effect that is off by 0.25 logits"),
    ],
)
def test_a_wrong_answer_fails(kind: str, words: str) -> None:
    wrong = run([planted(copying.KNOWN, kind)]).wrong
    assert [line for line in wrong if words in line], wrong
    assert [line for line in wrong if words.replace("exact", "auto") in line], wrong


def test_a_wrong_weight_fails() -> None:
    """One that changes what is computed, and one that leaves m as it is and changes how it comes about."""
    program = share.KNOWN.program
    attention = program.blocks[1].attention
    assert isinstance(attention, Attention)
    of_bos = replace(program, blocks=(program.blocks[0], Block(replace(attention, bos=0.0))))
    wrong = run([replace(share.KNOWN, program=of_bos)]).wrong
    assert any("m is 0.5, not 0.6667" in line for line in wrong), wrong
    (unit,) = cancelling.KNOWN.program.blocks[0].units
    alone = replace(cancelling.KNOWN.program, logits={"yes": {"tok:x": 0.5}}, blocks=(Block(units=(unit,)),))
    wrong = run([replace(cancelling.KNOWN, program=alone)]).wrong
    assert not any(" m is " in line for line in wrong), wrong
    assert any("exact misses 0.resid_post.excess@2" in line for line in wrong), wrong


def test_the_command_fails_where_a_circuit_is_not_recovered(circuit: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    known = [planted(copying.KNOWN, "an edge taken away")]
    monkeypatch.setattr(bench_truth, "run", partial(bench_truth.run, known=known))
    found = circuit("bench", "--truth", "--json")
    found.refused(6, "2 known answers", "exact adds 0.resid_post.prev:b@3 → target")
    assert found.document["error"]["code"] == 6
    assert len(found.document["wrong"]) == 2
    assert found.document["models"][0]["name"] == "copying"


def test_the_tables(circuit: Circuit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_truth, "run", partial(bench_truth.run, known=[cancelling.KNOWN]))
    found = circuit("bench", "--truth")
    assert found.code == 0, found.err
    rows = tsv(found.out)
    assert rows[:2] == [
        ["model", "prompt", "nodes", "edges", "what it says"],
        ["cancelling", "a x", "4 of 15", "5 of 68", "paths whose gradients cancel"],
    ]
    assert [row[:5] for row in rows[3:]] == [
        ["cancelling", "exact", "1", "1", "1"],
        ["cancelling", "auto", "1", "1", "1"],
        ["cancelling", "ig", "1", "1", "1"],
        ["cancelling", "atp", "1", ".50", ".75"],
        ["cancelling", "relp", "1", ".50", ".75"],
    ]
    assert "exact and auto recover every circuit" in found.out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--truth", "--estimates"), ("--estimates and --truth", "two benches")),
        (("--truth", "--model", "gpt2"), ("--truth", "Leave the other flags out")),
        (("--truth", "--budget", "9"), ("--truth", "Leave the other flags out")),
        (("--truth", "--tokens", "9"), ("--truth", "Leave the other flags out")),
        (("--truth", "--baseline", "mean"), ("--truth", "Leave the other flags out")),
        (("--truth", "--release", "demo"), ("--truth", "Leave the other flags out")),
    ],
)
def test_what_does_not_go_together(circuit: Circuit, flags: tuple[str, ...], words: Any) -> None:
    circuit("bench", *flags).refused(2, *words)
