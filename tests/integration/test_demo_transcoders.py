"""The demo's transcoders, from `--release` to a picture; and one ablation beside transformers and the files."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest
import torch
from safetensors.torch import load_file
from support.brute import rows

from circuitcli import demo
from circuitcli.demo import language_model
from circuitcli.settings import resolve, to_dict
from circuitcli.stages import run_all
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.store.run import Run

RELEASES = ("demo-transcoders", "demo-clt")


@pytest.fixture(scope="module", params=RELEASES)
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run by the demo's own settings, on less text; nothing is said of a misfit."""
    settings = resolve({
        "saes": {"release": request.param},
        "runtime": {"device": "cpu"},
        "texts": {"num_sequences": 60},
        "features": {"max_features": 5, "seq_cap": 8},
        "graph": {"formats": ["svg", "json"]},
    })  # fmt: skip
    run = Run(tmp_path_factory.mktemp("demo") / "run", STAGES.folders)
    run.save_settings(to_dict(settings))
    job = Job(settings, Silent(), run, False)
    run_all.run(job, lambda outcome: None)
    return job


def test_a_picture_comes_out(done: Job) -> None:
    drawn = json.loads((done.run.root / "graph/circuit.json").read_text())
    nodes = [node for node in drawn["nodes"] if node["kind"] == "feature"]
    assert {node["site"] for node in nodes} == {"mlp_in"}
    assert {node["layer"] for node in nodes} == {0, 1, 2, 3}
    assert len(drawn["edges"]) >= 15
    assert "mlp_in" in (done.run.root / "graph/circuit.svg").read_text()


def test_records_say_what_each_writes(done: Job) -> None:
    across = done.settings.saes.release == "demo-clt"
    for one in json.loads((done.run.root / "saes/saes.json").read_text())["saes"]:
        last = 3 if across else one["layer"]
        assert one["writes"] == [[layer, "mlp_out"] for layer in range(one["layer"], last + 1)]
        assert one["skip"] == (not across)
        assert {one[key] for key in ("normalized", "centre_out", "centre")} == {False}
        assert one["architecture"] == ("jumprelu" if across else "standard")
        assert one["prepend_bos"]


def test_ablations_are_those_of_transformers(done: Job) -> None:
    """KL of one ablation of each layer: a·W_dec of its file is taken from what its MLPs give, at one position."""
    plain = language_model.load(demo.MODEL)
    text = load_file(done.run.root / "acts/tokens.safetensors")
    made = rows(done.run.root, "ablations/contexts-*.parquet")
    for layer in range(4):
        row = max((row for row in made if row["layer"] == layer), key=lambda row: row["kl"])
        ids = text["tokens"][row["seq"], : text["lengths"][row["seq"]]].long()[None]
        steps = row["activation"] * written(done.settings.saes.release, layer, row["feature"])
        clean = log_probs(plain, ids, [], layer, row["pos"])
        ablated = log_probs(plain, ids, steps, layer, row["pos"])
        assert (clean.exp() * (clean - ablated)).sum().item() == pytest.approx(row["kl"], rel=1e-3, abs=1e-5)


def written(release: str, layer: int, feature: int) -> torch.Tensor:
    """W_dec of a feature, [layers written, d]."""
    if release == "demo-clt":
        return load_file(demo.CLT / f"W_dec_{layer}.safetensors")[f"W_dec_{layer}"][feature].float()
    return load_file(demo.TRANSCODERS / f"layer_{layer}.safetensors")["W_dec"][feature : feature + 1].float()


@torch.no_grad()
def log_probs(plain, ids, steps, layer: int, pos: int) -> torch.Tensor:
    with ExitStack() as stack:
        for later, step in enumerate(steps, layer):

            def take(_module, _inputs, out, step=step):
                out = out.clone()
                out[:, pos] -= step
                return out

            stack.callback(plain.transformer.h[later].mlp.register_forward_hook(take).remove)
        return plain(ids).logits[0, pos].log_softmax(-1)
