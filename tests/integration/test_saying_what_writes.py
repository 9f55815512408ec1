"""What commands say of dictionaries that write elsewhere: fetch-saes, a feature's card, and the circuit of a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import Result

Circuit = Callable[..., Result]
WRITTEN = {f"{i}.mlp_in": [f"{j}.mlp_out" for j in range(i, 4)] for i in range(4)}
OWN = {site: written[:1] for site, written in WRITTEN.items()}


@pytest.mark.parametrize(
    ("release", "writes", "skip", "title"),
    [
        ("demo-clt", WRITTEN, False, "Cross-layer transcoders"),
        ("demo-transcoders", OWN, True, "Transcoders"),
    ],
)
def test_fetch_saes_says_what_they_are_and_where_they_read_and_write(
    circuit: Circuit, tmp_path: Path, release: str, writes: dict[str, list[str]], skip: bool, title: str
) -> None:
    told = circuit("fetch-saes", "--run", tmp_path / "run", "--release", release, "--json").document
    assert told["writes"] == writes
    assert told["skip"] == dict.fromkeys(writes, skip)
    shown = circuit("fetch-saes", "--run", tmp_path / "run", "--release", release)
    rows = [line.split("\t") for line in shown.out.splitlines()]
    head = next(i for i, row in enumerate(rows) if row[0] == "reads")
    assert rows[head][:3] == ["reads", "writes", "skip"]
    first = " … ".join(dict.fromkeys((writes["0.mlp_in"][0], writes["0.mlp_in"][-1])))
    assert rows[head + 1][:3] == ["0.mlp_in", first, "yes" if skip else "no"]
    assert title in shown.out + shown.err


def test_of_saes_nothing_is_said(circuit: Circuit, tmp_path: Path) -> None:
    told = circuit("fetch-saes", "--run", tmp_path / "run", "--json").document
    assert not {"writes", "skip"} & set(told)


def test_nodes_and_cards_of_a_run(circuit: Circuit, tmp_path: Path) -> None:
    run = tmp_path / "run"
    small = ("--num-sequences", "20", "--max-features", "4")
    assert circuit("run-all", "--run", run, "--release", "demo-clt", *small).code == 0
    nodes = json.loads((run / "graph" / "circuit.json").read_text())["nodes"]
    assert nodes
    for node in nodes:
        assert node["writes"] == WRITTEN[f"{node['layer']}.mlp_in"], node["id"]
    name = next(node["id"] for node in nodes if node["layer"] == 0)
    rows = [line.split("\t") for line in circuit("effects", "--run", run, "--feature", name).out.splitlines()]
    head = next(row for row in rows if row[:2] == ["feature", "writes"])
    assert rows[rows.index(head) + 1][:2] == [name, "0.mlp_out … 3.mlp_out"]


def test_the_strongest_nodes_of_an_answer(circuit: Circuit, tmp_path: Path) -> None:
    run = tmp_path / "run"
    asked = ("--prompt", "Our Father which art in", "--attribute")
    assert circuit("run-all", "--run", run, "--release", "demo-clt", *asked).code == 0
    strongest = circuit("attribute", "--run", run, "--json").document["answer"]["strongest"]
    features = [one for one in strongest if ".mlp_in." in one["id"]]
    assert features
    for one in features:
        assert one["writes"] == WRITTEN[".".join(one["id"].split(".")[:2])], one["id"]
    assert all("writes" not in one for one in strongest if one not in features)
