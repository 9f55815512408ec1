"""The stages on every family that we claim, with BOS and without: what is kept is what plain transformers gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.families import D_MODEL, FAMILIES, LAYERS, plain, save_checkpoint
from transformer_lens.model_bridge import TransformerBridge

from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.results.dictionaries import entries_of
from circuitcli.stages import ablate, cache_acts, effects, fetch_saes
from circuitcli.store import acts, tables

D_SAE, BOS = 24, 0
TEXTS = [" ".join(f"w{20 + (7 * i + 3 * j) % 40}" for j in range(9)) for i in range(6)]


def save_sae(folder: Path, layer: int, *, prepend_bos: bool) -> None:
    folder.mkdir(parents=True)
    draw = torch.Generator().manual_seed(layer)
    shapes = {"W_enc": (D_MODEL, D_SAE), "W_dec": (D_SAE, D_MODEL), "b_enc": (D_SAE,), "b_dec": (D_MODEL,)}
    save_file(
        {name: torch.randn(shape, generator=draw) / D_MODEL**0.5 for name, shape in shapes.items()},
        folder / "sae_weights.safetensors",
    )
    metadata = {"hook_name": f"blocks.{layer}.hook_resid_post", "prepend_bos": prepend_bos}
    config = {"architecture": "standard", "d_in": D_MODEL, "d_sae": D_SAE, "normalize_activations": "layer_norm"}
    (folder / "cfg.json").write_text(json.dumps(config | {"metadata": metadata}))


@pytest.mark.parametrize("with_bos", [True, False], ids=["BOS", "no BOS"])
@pytest.mark.parametrize(
    "family", [pytest.param(f, marks=pytest.mark.seams if f in ("gpt2", "llama") else ()) for f in FAMILIES]
)
def test_stages(start: Callable[..., Any], tmp_path: Path, family: str, with_bos: bool) -> None:
    model = save_checkpoint(family, tmp_path / "model")
    for layer in (1, 2):
        save_sae(tmp_path / "saes" / str(layer), layer, prepend_bos=with_bos)
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    job = start(
        tmp_path / "run",
        {
            "model": str(model),
            "saes": {"release": str(tmp_path / "saes"), "sites": "auto"},
            "texts": {"file": str(tmp_path / "text.jsonl"), "num_sequences": 6, "max_tokens": 10},
            "features": {"thinning": 0.2, "seq_cap": 3},
            "allow_misfit": True,
        },
    )
    for stage in (fetch_saes, cache_acts, ablate, effects):
        stage.run(job)
    tokens = acts.read_sample(job.run.path(acts.TOKENS)).tokens
    assert set(acts.read_sample(job.run.path(acts.TOKENS)).lengths) == {9 + with_bos}
    assert (tokens[:, 0] == BOS).all() == with_bos
    assert len(tables.read(job.run.path("effects/effects.parquet"))["n"])
    hf = plain(model, family)
    site = Site(2, "resid_post")
    [entry] = [e for e in entries_of(job.run) if e.at == site]
    sae = job.subject.sae(entry)
    dense = torch.zeros(*tokens.shape, D_SAE)
    for path in sorted(job.run.path("acts/2.resid_post").iterdir()):
        shard = acts.read_firings(path)
        dense[shard.seq, shard.pos, shard.feature] = torch.as_tensor(shard.value)
    with torch.no_grad():
        x = hf.run(torch.as_tensor(tokens.astype(np.int64)), [site])[0][site]
    normal = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)
    theirs = ((normal - sae.b_dec) @ sae.w_enc + sae.b_enc).relu()[:, 1:]
    torch.testing.assert_close(dense[:, 1:], theirs, rtol=0, atol=1e-4 * float(theirs.max()))
    assert not dense[:, 0].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_centring_is_for_models_whose_norms_drop_the_mean(
    start: Callable[..., Any], tmp_path: Path, family: str
) -> None:
    """An SAE that says it was trained on centred weights: processing centres LayerNorm models alone."""
    model = save_checkpoint(family, tmp_path / "model")
    save_sae(tmp_path / "saes" / "1", 1, prepend_bos=True)
    path = tmp_path / "saes" / "1" / "cfg.json"
    config = json.loads(path.read_text()) | {"normalize_activations": "none"}
    config["metadata"]["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    path.write_text(json.dumps(config))
    job = start(tmp_path / "run", {"model": str(model), "saes": {"release": str(tmp_path / "saes"), "sites": "auto"}})
    fetch_saes.run(job)
    [entry] = entries_of(job.run)
    loaded = job.subject.model
    sae = job.subject.sae(entry)
    bridge = TransformerBridge.boot_transformers(str(model), device="cpu", dtype=torch.float32)
    bridge.enable_compatibility_mode()
    tokens = torch.arange(20, 31).unsqueeze(0)
    with torch.no_grad():
        _, cache = bridge.run_with_cache(tokens)
    theirs = ((cache[entry.at.hook] - sae.b_dec) @ sae.w_enc + sae.b_enc).relu()
    ours = sae.encode(loaded.run(tokens, [entry.at]).sites[entry.at])
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.max()))
    assert entry.facts.centre == (family in ("gpt2", "neox"))


def test_saes_of_layers_that_the_model_has_not_are_refused(start: Callable[..., Any], tmp_path: Path) -> None:
    model = save_checkpoint("gpt2", tmp_path / "model")
    for layer in (1, LAYERS):
        save_sae(tmp_path / "saes" / str(layer), layer, prepend_bos=True)
    settings = {"model": str(model), "saes": {"release": str(tmp_path / "saes"), "sites": "auto"}}
    with pytest.raises(InputError, match=f"SAEs at {LAYERS}.resid_post; .* has {LAYERS} layers"):
        fetch_saes.run(start(tmp_path / "run", settings))
    for release in ("demo", str(tmp_path / "saes")):
        settings["saes"] = {"release": release, "revision": "v2", "layers": "1", "sites": "auto"}
        with pytest.raises(InputError, match="no revisions"):
            fetch_saes.run(start(tmp_path / "run", settings))
