"""Edges that no estimate shows: which there may be, and that `--edges exact` measures these too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from circuitcli.core.attributed import node_name
from circuitcli.known import Known, cancelling, copying
from circuitcli.known.files import write
from circuitcli.settings import resolve, to_dict
from circuitcli.stages import attribute, cache_acts, fetch_saes, questions, wiring
from circuitcli.stages.baselines import Baselines
from circuitcli.stages.batching import by_positions
from circuitcli.stages.inputs import JobInputs
from circuitcli.stages.reachable import Reachable
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.stages.study import open_study, sites_of
from circuitcli.store import attributions, tables
from circuitcli.store.run import Run

PROMPT = "the light of the earth was"


@pytest.mark.parametrize(
    "sites",
    [("resid_pre", "resid_mid"), ("attn_out", "mlp_in", "mlp_out"), ("z", "resid_post"), ("resid_mid", "mlp_out")],
)
def test_where_no_edge_can_be_none_is_measured(
    start: Callable[..., Any], tmp_path: Path, sites: tuple[str, ...]
) -> None:
    job = start(tmp_path / "run", {"saes": {"sites": list(sites)}, "texts": {"file": "", "prompt": [PROMPT]}})
    fetch_saes.run(job)
    cache_acts.run(job)
    inputs = JobInputs(job)
    study = open_study(inputs, Baselines("zero", inputs, sites_of(inputs)), questions.asked(job)[0], 0, frozen=False)
    possible = Reachable(study)(np.arange(study.nodes), np.arange(study.nodes + 1))
    later = np.arange(study.nodes + 1)[:, None] > np.arange(study.nodes)
    assert not (possible & ~later).any()
    begins = [block.start for block in study.blocks]  # of a site's own features and errors none feeds another
    of = np.searchsorted([*begins, study.nodes], np.arange(study.nodes + 1), side="right") - 1
    apart = later & (of[:, None] != of[: study.nodes])
    target, source = np.nonzero(apart & ~possible)
    assert len(source) > 50
    every = np.random.default_rng(0).permutation(len(source))[:1500]
    edges: tables.Columns = {"source": source[every], "target": target[every]}
    saes = inputs.passes
    batches = by_positions(job.runtime, 64, len(study.prompt), lambda line: None)
    chosen = wiring.StratifiedSample(np.arange(len(every)), np.ones(len(every)))
    measured = wiring.measure(study, edges, chosen, lambda reads: saes.saes([reads])[reads], batches)
    assert np.abs(measured).max() < 1e-5


def attributed(known: Known, folder: Path, **more: Any) -> set[tuple[str, str]]:
    """The edges that the attribute stage writes of a known model."""
    written, words = write(known, folder), known.program.vocabulary
    ends = {"target": f"id:{words.index(known.target)}", "against": f"id:{words.index(known.against)}"}
    settings = resolve(
        {"runtime": {"device": "cpu"}},
        {
            "model": str(written.model),
            "saes": {"release": str(written.saes)},
            "texts": {"prompt": [known.prompt]},
            "attribute": {**ends, **more},
        },
    )
    run = Run(folder / "run", STAGES.folders)
    run.save_settings(to_dict(settings))
    job = Job(settings, Silent(), run)
    for stage in (fetch_saes, cache_acts, attribute):
        stage.run(job)
    nodes, edges = (tables.read(run.path(name)) for name in (attributions.NODES, attributions.EDGES))
    columns = (nodes[name].tolist() for name in ("kind", "layer", "site", "feature", "pos"))
    ids = [node_name(*one) for one in zip(*columns, strict=True)]
    if more["edges"] != "estimate":
        assert set(edges["method"]) == {"exact"}
    return {(ids[u], ids[d]) for u, d in zip(edges["source"], edges["target"], strict=True)}


@pytest.mark.parametrize("known", [copying.KNOWN, cancelling.KNOWN], ids=lambda known: known.name)
@pytest.mark.parametrize("how", ["exact", "auto"])
def test_edges_that_are_estimated_as_nothing_are_measured_and_what_is_nothing_is_left_out(
    known: Known, how: str, tmp_path: Path
) -> None:
    """An edge of a settled head, and one into a node whose paths cancel, have no gradient."""
    assert attributed(known, tmp_path, edges=how) == set(known.edges)


def test_estimates_alone_miss_them(tmp_path: Path) -> None:
    found = attributed(copying.KNOWN, tmp_path, edges="estimate", method="atp")
    settled = {(u, d) for u, d in copying.KNOWN.edges if ".pos:" in copying.KNOWN.named(u)}
    assert len(settled) == 2
    assert settled.isdisjoint(found)


def test_a_large_graph_is_not_tried_whole_by_auto(
    start: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start(tmp_path / "run", {"texts": {"file": "", "prompt": [PROMPT]}})
    fetch_saes.run(job)
    cache_acts.run(job)
    inputs = JobInputs(job)
    study = open_study(inputs, Baselines("zero", inputs, sites_of(inputs)), questions.asked(job)[0], 0, frozen=False)
    chosen = [np.ones(study.nodes + 1, np.bool_)]
    reachable = Reachable(study)(np.arange(study.nodes), np.arange(study.nodes + 1)).sum()
    for most, expected in ((reachable - 1, False), (reachable, True)):
        monkeypatch.setattr(wiring, "_MOST", int(most))
        assert wiring.all_of(lambda number: study, chosen, "auto") is expected
        assert wiring.all_of(lambda number: study, chosen, "exact") is True
        assert wiring.all_of(lambda number: study, chosen, "estimate") is False
