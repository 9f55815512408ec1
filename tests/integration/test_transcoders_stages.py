"""`attribute` and `validate` on transcoders in files, per layer and across layers, beside plain transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from support.brute import rows
from support.transcoded import Node, Transcoded
from support.transcoders import Kept, Made
from test_validate_plain import BACKEND, PROMPTS, TARGETS

from circuitcli.core.sites import Site
from circuitcli.stages import attribute, cache_acts, fetch_saes, validate
from circuitcli.stages.stage import Job
from circuitcli.store import tables, validations

# With layers: of some, whose last layer has a site that only features of earlier ones write.
MADE = [(Made("gpt2", "normalized"), ":"), (Made("gemma2", "across"), ":"), (Made("neox", "across"), ":2")]
Chosen = tuple[Kept, dict[str, Any]]


@pytest.fixture(scope="module", params=MADE, ids=lambda made: f"{made[0].family}-{made[0].layout}-{made[1]}")
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Chosen:
    """What is on disk, and settings of a run of it."""
    which, layers = request.param
    kept = which.save(tmp_path_factory.mktemp("made"))
    chosen = {place: one for place, one in kept.dictionaries.items() if layers == ":" or place[0] < int(layers[1:])}
    return replace(kept, dictionaries=chosen), kept.run(which.reads, layers=layers)


def by_hand(kept: Kept, ids: list[int], counts: list[bool], metric: Callable) -> Transcoded:
    all_of = {Site(*place): one for place, one in kept.dictionaries.items()}
    return Transcoded(kept.plain.hf, torch.tensor(ids), torch.tensor(counts), all_of, metric)


def test_attribute(made: Chosen, start: Callable[..., Job], tmp_path: Path) -> None:
    """Every node that there is; and the measured edges between the strongest."""
    kept, settings = made
    more = {
        "texts": settings["texts"] | {"source": "prompt", "prompt": [PROMPTS[0]], "file": ""},
        "attribute": {"method": "exact", "edges": "exact", "candidates": 15},
        "graph": {"of": "attribution"},
    }
    job = start(tmp_path / "run", settings | more)
    for stage in (fetch_saes, cache_acts, attribute):
        stage.run(job)
    (asked,) = json.loads((job.run.root / "attribution/questions.json").read_text())
    truth = by_hand(kept, asked["ids"], asked["counts"], lambda x: x.log_softmax(-1)[:, asked["target_id"]])
    assert not truth.doubtful()
    assert asked["clean"] == pytest.approx(truth.m, abs=1e-4)
    *found, target = rows(job.run.root, "attribution/nodes.parquet")
    nodes = [node_of(row) for row in found]
    fires = {
        Node(pos, site, j)
        for site, a in truth.acts(truth.clean).items()
        for pos, j in ((a > 0) & truth.counts[:, None]).nonzero().tolist()
    }
    assert {node for node in nodes if node.feature is not None} == fires
    assert len(nodes) == len(fires) + int(truth.counts.sum()) * (1 + len(truth.written))
    nothing = torch.zeros((), dtype=torch.float64)
    added = [truth.added(node, nothing) for node in nodes]
    effects = [truth.effect(node.pos, some) for node, some in zip(nodes, added, strict=True)]
    largest = max(map(abs, effects))
    for row, effect in zip(found, effects, strict=True):
        assert row["effect"] == pytest.approx(effect, abs=1e-4 * largest), row
    edges = rows(job.run.root, "attribution/edges.parquet")
    expected = []
    for edge in edges:
        down = None if edge["target"] == target["node"] else nodes[edge["target"]]
        expected.append(truth.edge(nodes[edge["source"]], added[edge["source"]], down))
    largest = max(map(abs, expected))
    for edge, weight in zip(edges, expected, strict=True):
        assert edge["exact"] == pytest.approx(weight, abs=1e-4 * largest + 2e-6), edge
    assert len(edges) > 30


def node_of(row: dict[str, Any]) -> Node:
    if row["kind"] == "token":
        return Node(row["pos"])
    return Node(row["pos"], Site(row["layer"], row["site"]), row["feature"] if row["kind"] == "feature" else None)


def test_validate(made: Chosen, start: Callable[..., Job], tmp_path: Path) -> None:
    """m of every circuit: errors kept, kept where a dictionary has a feature of the circuit, or removed."""
    kept, settings = made
    file = tmp_path / "questions.jsonl"
    told = [{"prompt": prompt, "target": TARGETS[0], "against": TARGETS[1]} for prompt in PROMPTS[:4]]
    file.write_text("\n".join(map(json.dumps, told)))
    choice = {"prompts": str(file), "circuit": "none", "draws": 1, "nodes": 5, "sizes": [20], "candidates": 40}
    job = start(tmp_path / "run", settings | {"validate": choice})
    for stage in (fetch_saes, cache_acts, validate):
        stage.run(job)
    nodes = pd.DataFrame(tables.read(job.run.path(validations.NODES))).query("curve == 'exact'")
    order = [(Site(one.layer, one.site), one.feature) for one in nodes.itertuples()]
    table = pd.DataFrame(tables.read(job.run.path(validations.MEASURED)))
    wanted = table[table["curve"].isin(["", "exact"]) & table["part"].isin(["circuit", "complement", "nothing"])]
    first, second = (BACKEND.encode(token, add_special_tokens=False).ids[0] for token in TARGETS)
    compared = set()
    for example, one in enumerate(validations.examples(job.run)):
        ids = [0, *BACKEND.encode(one.name, add_special_tokens=False).ids]
        counts = [False] + [True] * (len(ids) - 1)
        truth = by_hand(kept, ids, counts, lambda logits: logits[:, first] - logits[:, second])
        if truth.doubtful():
            continue
        for row in wanted[wanted["example"] == example].itertuples():
            inside = {site: torch.zeros(len(d.weights["b_enc"])) > 0 for site, d in truth.all.items()}
            for site, feature in order[: row.n] if row.part != "nothing" else []:
                inside[site][feature] = True
            keep = {site: ~one if row.part == "complement" else one for site, one in inside.items()}
            removed = {"kept": [], "sites": [s for s in keep if not keep[s].any()], "removed": keep}[row.errors]
            lost = {Site(*next(iter(truth.all[site].decoders))): torch.zeros(()).double() for site in removed}
            become = {site: torch.zeros(()).double() for site in keep}
            assert row.m == pytest.approx(truth.kept(keep, become, lost), abs=1e-4), row
            compared.add((row.errors, row.part, row.n))
    assert len({errors for errors, _, _ in compared}) == 3
    assert len(compared) > 8
