"""All of GPT-2 small with 131,072 features a dictionary: what it takes of memory. Minutes; not in CI.

Three SAEs in every layer; and a cross-layer transcoder, whose twelve dictionaries have 78 decoders, 16 GB in bfloat16.

`pytest -m huge -s tests/real/test_large.py` prints what was measured; `tests/bench/NOTES.md` has it.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file
from support import truesize
from support.commands import command, environment

from circuitcli import demo

pytestmark = [pytest.mark.huge, pytest.mark.timeout(3600)]
D_SAE, K, SITES, LAYERS = 131_072, 32, ("attn_out", "mlp_out", "resid_post"), 12
LIMIT_GIB = 6.0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("large")


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    return truesize.save_model(root / "model")


@pytest.fixture(scope="module")
def text(root: Path) -> Path:
    lines = demo.TEXT.read_text(encoding="utf-8").splitlines()
    passages = [json.loads(line)["text"] for line in lines]
    path = root / "text.txt"
    path.write_text("\n\n".join(" ".join(passages[i : i + 4]) for i in range(0, len(passages), 4)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def saes(root: Path) -> Path:
    """OpenAI's layout: TopK and layer_norm. One file of weights under every name: the disk is as full as once."""
    folder, draw = root / "saes", torch.Generator().manual_seed(0)
    folder.mkdir()
    w_dec = torch.randn(D_SAE, truesize.D_MODEL, generator=draw)
    w_dec /= w_dec.norm(dim=-1, keepdim=True)
    weights = {"W_enc": w_dec.T.contiguous(), "W_dec": w_dec, "b_enc": torch.zeros(D_SAE), "b_dec": torch.zeros(768)}
    save_file(weights, folder / "weights")
    for layer in range(LAYERS):
        for site in SITES:
            one = folder / f"blocks.{layer}.hook_{site}"
            one.mkdir()
            os.link(folder / "weights", one / "sae_weights.safetensors")
            config = {
                "architecture": "topk", "k": K, "d_in": 768, "d_sae": D_SAE, "dtype": "float32",
                "apply_b_dec_to_input": True, "normalize_activations": "layer_norm", "reshape_activations": "none",
                "metadata": {"model_name": "gpt2-small", "hook_name": one.name, "prepend_bos": False},
            }  # fmt: skip
            (one / "cfg.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def across(root: Path) -> Path:
    """A cross-layer transcoder in circuit-tracer's layout: 50 of 131,072 unit rows are above 3.37."""
    folder, draw = root / "across", torch.Generator().manual_seed(0)
    folder.mkdir()
    w_enc = torch.randn(D_SAE, truesize.D_MODEL, generator=draw)
    w_enc /= w_enc.norm(dim=-1, keepdim=True)
    some = (0.02 * torch.randn(D_SAE, truesize.D_MODEL, generator=draw)).bfloat16()
    (folder / "config.yaml").write_text(
        "model_name: gpt2\nmodel_kind: cross_layer_transcoder\n"
        "feature_input_hook: mlp.hook_in\nfeature_output_hook: hook_mlp_out\n"
    )
    for layer in range(LAYERS):
        reads = {
            f"W_enc_{layer}": w_enc, f"b_enc_{layer}": torch.zeros(D_SAE), f"b_dec_{layer}": torch.zeros(768),
            f"threshold_{layer}": torch.full((D_SAE,), 3.37),
        }  # fmt: skip
        save_file(reads, folder / f"W_enc_{layer}.safetensors")
        writes = torch.empty(D_SAE, LAYERS - layer, truesize.D_MODEL, dtype=torch.bfloat16)
        for slot in range(LAYERS - layer):
            writes[:, slot] = some.roll(slot, 0)
        save_file({f"W_dec_{layer}": writes}, folder / f"W_dec_{layer}.safetensors")
    return folder


def measured(*args: str | Path) -> tuple[float, float]:
    """Seconds, and the most GiB that were resident, of a command."""
    started = time.monotonic()
    process = subprocess.Popen(command(*args), env=environment(), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0, args
    return time.monotonic() - started, usage.ru_maxrss / 2**20


def strongest(run: Path, per_layer: int) -> list[str]:
    """Flags that pin the features of each layer that fire most often, at one site after another."""
    rows = pq.read_table(run / "acts" / "features.parquet").to_pylist()
    flags: list[str] = []
    for layer in sorted({row["layer"] for row in rows}):
        sites = sorted({row["site"] for row in rows if row["layer"] == layer})
        site = sites[layer % len(sites)]
        here = [row for row in rows if (row["layer"], row["site"]) == (layer, site)]
        here.sort(key=lambda row: -row["n_active"])
        flags += [flag for row in here[:per_layer] for flag in ("--pin", f"{layer}.{site}.{row['feature']}")]
    return flags


def test_full_depth_stays_within_six_gibibytes(root: Path, model: Path, text: Path, saes: Path) -> None:
    run = root / "run"
    site_flags = [flag for site in SITES for flag in ("--site", site)]
    text_flags = ("--text", text, "--num-sequences", "40", "--max-tokens", "64", "--allow-misfit")
    measured("fetch-saes", "--run", run, "--model", model, "--release", saes, "--layers", "0:12", *site_flags)
    peaks = {"cache-acts": measured("cache-acts", "--run", run, *text_flags)}
    peaks["ablate"] = measured("ablate", "--run", run, *strongest(run, 1), "--seq-cap", "20")
    for stage, (seconds, peak) in peaks.items():
        print(f"{stage}: {seconds:.0f} s, {peak:.2f} GiB at most")
    facts = json.loads((run / "ablations" / "stage.json").read_text())["facts"]
    assert facts["features_ablated"] == LAYERS
    assert all(peak <= LIMIT_GIB for _, peak in peaks.values())


def test_a_cross_layer_transcoder_stays_within_six_gibibytes(root: Path, model: Path, text: Path, across: Path) -> None:
    """Its decoders are never held: of 78, 16 GB together, the rows of features that fire are read."""
    run, peaks = root / "run-across", {}
    peaks["fetch-saes"] = measured("fetch-saes", "--run", run, "--model", model, "--release", across)
    text_flags = ("--text", text, "--num-sequences", "40", "--max-tokens", "64", "--allow-misfit")
    peaks["cache-acts"] = measured("cache-acts", "--run", run, *text_flags)
    peaks["ablate"] = measured("ablate", "--run", run, *strongest(run, 1), "--seq-cap", "20")
    asked = root / "asked.jsonl"
    asked.write_text(json.dumps({"prompt": " ".join(text.read_text(encoding="utf-8").split()[:20])}), encoding="utf-8")
    peaks["attribute"] = measured("attribute", "--run", run, "--prompts", asked, "--method", "atp")
    for stage, (seconds, peak) in peaks.items():
        print(f"{stage}: {seconds:.0f} s, {peak:.2f} GiB at most")
    facts = json.loads((run / "ablations" / "stage.json").read_text())["facts"]
    assert facts["features_ablated"] == LAYERS
    saes = json.loads((run / "saes" / "saes.json").read_text())["saes"]
    assert sum(len(one["writes"]) for one in saes) == LAYERS * (LAYERS + 1) // 2 == 78
    assert all(peak <= LIMIT_GIB for _, peak in peaks.values())


def test_ten_times_the_contexts(root: Path, model: Path, text: Path) -> None:
    """At most 10.5 times the time, and the same memory within a tenth; two SAEs of 24,576, eight features pinned."""
    passages = text.read_text(encoding="utf-8").split("\n\n")[:40]
    x = truesize.activations(model, [4, 5], passages)
    for layer in (4, 5):
        truesize.save_sae(root / "two" / f"blocks.{layer}.hook_resid_pre", layer, x[layer])
    base = ("--model", model, "--release", root / "two", "--text", text, "--num-sequences", "200", "--max-tokens", "64")
    found = {}
    for cap in (12, 120):
        run = root / f"cap-{cap}"
        measured("fetch-saes", "--run", run, *base[:4])
        measured("cache-acts", "--run", run, *base[4:], "--allow-misfit")
        pins = [flag for i in range(60) for flag in ("--pin", f"4:{truesize.PINNED + i}")]
        _, peak = measured("ablate", "--run", run, *pins, "--seq-cap", str(cap))
        record = json.loads((run / "ablations" / "stage.json").read_text())
        found[cap] = (record["facts"]["contexts"], record["seconds"], peak)
        print("seq_cap {}: {} contexts, {:.1f} s, {:.2f} GiB".format(cap, *found[cap]))
    few, many = found[12], found[120]
    assert many[0] / few[0] > 5
    assert many[1] / few[1] <= 1.05 * many[0] / few[0]
    assert many[2] <= 1.1 * few[2]
