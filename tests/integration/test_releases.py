"""Every release of GPT-2 small, from a hub on loopback that has the real repositories' layout at small widths.

The layouts are written down here by hand, from the repositories themselves; `tests/saelens/test_registry.py` compares
the table with SAELens's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save
from support.commands import tsv
from support.families import save_checkpoint
from support.hub import LoopbackHub
from support.pickled import save_first_format
from torch import Tensor
from transformers import GPT2Config

from circuitcli.core.sites import Site
from circuitcli.results.dictionaries import entries_of
from circuitcli.runtime.hub import Hub
from circuitcli.saes import SaeEntry, load
from circuitcli.saes.hub import releases
from circuitcli.stages.contents import Content, Contents
from circuitcli.stages.fetch_saes import known_releases
from circuitcli.stages.sources import Sources
from circuitcli.stages.spec import STAGES
from circuitcli.store.run import Run

LAYERS, D_MODEL, D_SAE, K = 12, 24, 40, 5
GPT2 = "openai-community/gpt2"
OAI = {"resid-post": "resid_post", "resid-mid": "resid_mid", "attn-out": "attn_out", "mlp-out": "mlp_out"}
KK = "gpt2-small_L{}_Hcat_z_lr1.20e-03_l1{}_ds{}_bs4096_dc{}_rsanthropic_rie25000_nr4_v{}"
KK_RUNS = {
    0: ("1.80e+00", 24576, "1.00e-06", 9),
    5: ("1.00e+00", 49152, "1.00e-06", 9),
    8: ("1.30e+00", 24576, "1.00e-05", 6),
}


@dataclass(frozen=True)
class Kind:
    """A release as it lies on the hub: its repository, what a layer's files are, and what must come of them."""

    repository: str
    site: str
    layers: tuple[int, ...]
    files: Callable[[int, dict[str, Tensor]], dict[str, bytes]]
    architecture: str = "standard"
    normalisation: str = "none"
    centre: bool = False
    fold_value_biases: bool = False
    prepend_bos: bool = True
    factor: float = 1.0


def weights(layer: int) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(layer)
    shapes = {"W_enc": (D_MODEL, D_SAE), "b_enc": (D_SAE,), "W_dec": (D_SAE, D_MODEL), "b_dec": (D_MODEL,)}
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def folder(name: str, config: dict[str, Any]) -> Callable[[int, dict[str, Tensor]], dict[str, bytes]]:
    """A SAELens folder a layer."""

    def files(layer: int, tensors: dict[str, Tensor]) -> dict[str, bytes]:
        hook = config["hook"].format(layer=layer)
        key = "hook_point" if "activation_fn_str" not in config else "hook_name"
        cfg = {"d_in": D_MODEL, "d_sae": D_SAE, "dtype": "torch.float32", key: hook, f"{key}_layer": layer}
        cfg |= {k: v for k, v in config.items() if k != "hook"}
        place = name.format(layer=layer)
        sparsity = save({"sparsity": torch.zeros(D_SAE)})
        return {
            f"{place}/cfg.json": json.dumps(cfg).encode(),
            f"{place}/sae_weights.safetensors": save(tensors),
            f"{place}/sparsity.safetensors": sparsity,
        }

    return files


def first_format(layer: int, tensors: dict[str, Tensor]) -> dict[str, bytes]:
    import tempfile

    config = {"hook_point": f"blocks.{layer}.hook_resid_pre", "hook_point_layer": layer, "d_in": D_MODEL,
              "d_sae": D_SAE, "dtype": torch.float32, "device": torch.device("cpu")}  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        path = save_first_format(Path(place) / "sae.pt", "sae_training.config", config, tensors)
        return {f"final_sparse_autoencoder_gpt2-small_blocks.{layer}.hook_resid_pre_24576.pt": path.read_bytes()}


def kissane(layer: int, tensors: dict[str, Tensor]) -> dict[str, bytes]:
    l1, width, dead, version = KK_RUNS[layer]
    name, file = KK.format(layer, l1, width, dead, version), BytesIO()
    torch.save(tensors, file)
    config = {"act_size": D_MODEL, "dict_size": D_SAE, "act_name": f"blocks.{layer}.attn.hook_z", "seq_len": 128}
    return {f"{name}.pt": file.getvalue(), f"{name}_cfg.json": json.dumps(config).encode()}


def openai(site: str, width: str, folder_name: str) -> Kind:
    hook = f"blocks.{{layer}}.hook_{OAI[site]}"
    config = {"hook": hook, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "prepend_bos": False,
              "normalize_activations": "layer_norm", "context_size": 64, "architecture": "standard"}  # fmt: skip
    return Kind(
        f"jbloom/GPT2-Small-OAI-v5-{width}-{site}-SAEs", OAI[site], tuple(range(LAYERS)), folder(folder_name, config),
        architecture="topk", normalisation="layer_norm", prepend_bos=False,
    )  # fmt: skip


RES_JB = {"hook": "blocks.{layer}.hook_resid_pre", "context_size": 128}
KINDS = {
    "gpt2-small-res-jb": Kind("jbloom/GPT2-Small-SAEs-Reformatted", "resid_pre", tuple(range(LAYERS)),
                              folder("blocks.{layer}.hook_resid_pre", RES_JB), centre=True),
    "gpt2-small-res-jb-first-format": Kind("jbloom/GPT2-Small-SAEs", "resid_pre", tuple(range(LAYERS)), first_format,
                                           centre=True),
    "gpt2-small-hook-z-kk": Kind("ckkissane/attn-saes-gpt2-small-all-layers", "z", tuple(KK_RUNS), kissane,
                                 fold_value_biases=True),
    "gpt2-small-res_sce-ajt": Kind("neuronpedia/gpt2-small__res_sce-ajt", "resid_pre", (2, 6, 10),
                                   folder("{layer}-res_sce-ajt", RES_JB), centre=True),
    "gpt2-small-resid-post-v5-32k": openai("resid-post", "32k", "v5_32k_layer_{layer}.pt"),
    **{f"gpt2-small-{site}-v5-32k": openai(site, "32k", "v5_32k_layer_{layer}") for site in list(OAI)[1:]},
    **{f"gpt2-small-{site}-v5-128k": openai(site, "128k", "v5_128k_layer_{layer}") for site in OAI},
    "gpt2-small-mlp-tm": Kind("tommmcgrath/gpt2-small-mlp-out-saes", "mlp_out", (1, 2, 3),
                              folder("sae_group_gpt2_blocks.{layer}.hook_mlp_out_24576:v0",
                                     {"hook": "blocks.{layer}.hook_mlp_out", "normalize_activations": True}),
                              centre=True, factor=1.6411934982190302),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    config = GPT2Config(n_layer=LAYERS, n_embd=D_MODEL, n_head=4, n_positions=32, vocab_size=61)
    model = save_checkpoint("gpt2", tmp_path_factory.mktemp("gpt2"), config=config)
    with LoopbackHub() as hub:
        hub.add(GPT2, {path.name: path for path in model.iterdir()} | {"flax_model.msgpack": b"another framework's"})
        hub.aliases["gpt2"] = GPT2
        for kind in KINDS.values():
            each = [kind.files(layer, weights(layer)) for layer in kind.layers]
            hub.add(kind.repository, {path: content for files in each for path, content in files.items()})
        yield hub


@pytest.fixture(autouse=True)
def _online(server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def fetch(circuit: Any, run: Path, release: str, *more: str) -> list[SaeEntry]:
    done = circuit("fetch-saes", "--run", run, "--model", "gpt2-small", "--release", release, "--json", *more)
    assert done.code == 0, done.err
    assert "center_writing_weights" not in done.err, "everything that matters is stated"
    return entries_of(Run(run, STAGES.folders))


@pytest.mark.parametrize("release", KINDS)
def test_every_release_is_read_as_it_was_trained(circuit: Any, tmp_path: Path, release: str) -> None:
    kind = KINDS[release]
    some = kind.layers if len(kind.layers) < LAYERS else (4, 5)
    entries = fetch(circuit, tmp_path / "run", release, "--layers", f"{some[1]}:{some[1] + 1}")
    [entry] = entries
    layer = some[1]
    assert entry.at == Site(layer, kind.site)
    assert (entry.facts.architecture, entry.facts.normalisation) == (kind.architecture, kind.normalisation)
    assert (entry.facts.centre, entry.facts.fold_value_biases) == (kind.centre, kind.fold_value_biases)
    assert entry.facts.prepend_bos == kind.prepend_bos
    assert entry.source.startswith(f"hf://{kind.repository}/")
    sae, raw = load(entry, Hub()), weights(layer)
    torch.testing.assert_close(sae.w_enc, raw["W_enc"] * kind.factor)
    torch.testing.assert_close(sae.w_dec, raw["W_dec"] / kind.factor)
    assert getattr(sae.activation, "k", None) == (K if kind.architecture == "topk" else None)


@pytest.mark.parametrize("release", ["gpt2-small-res_sce-ajt", "gpt2-small-mlp-tm"])
def test_all_layers_are_those_that_there_are(release: str) -> None:
    sites = {sae.site.layer for sae in releases()[release].saes}
    assert sites == ({2, 6, 10} if release.endswith("ajt") else set(range(LAYERS)))


def test_sources_on_neuronpedia(circuit: Any, tmp_path: Path) -> None:
    assert [e.facts.neuronpedia for e in fetch(circuit, tmp_path / "a", "gpt2-small-res-jb", "--layers", "4:6")] == [
        "4-res-jb", "5-res-jb"]  # fmt: skip
    [entry] = fetch(circuit, tmp_path / "b", "gpt2-small-mlp-out-v5-32k", "--layers", "7")
    assert entry.facts.neuronpedia == "7-mlp_32k-oai"
    final = next(sae for sae in releases()["gpt2-small-res-jb"].saes if sae.site == Site(11, "resid_post"))
    assert final.neuronpedia == "12-res-jb"


def test_a_repository_that_isnt_listed(circuit: Any, tmp_path: Path) -> None:
    listed = fetch(circuit, tmp_path / "a", "gpt2-small-mlp-out-v5-32k", "--layers", "3:5")
    address = "hf://jbloom/GPT2-Small-OAI-v5-32k-mlp-out-SAEs"
    there = fetch(circuit, tmp_path / "b", address, "--layers", "3:5")
    assert [(e.source, e.revision, e.at) for e in there] == [(e.source, e.revision, e.at) for e in listed]
    [own] = fetch(circuit, tmp_path / "b2", "hf://jbloom/GPT2-Small-SAEs-Reformatted/blocks.4.hook_resid_pre")
    assert (own.facts.centre, own.facts.neuronpedia) == (True, "4-res-jb"), "whatever it is called by, it is res-jb"
    [one] = fetch(circuit, tmp_path / "c", f"{address}/v5_32k_layer_4")
    assert one.at == Site(4, "mlp_out")
    nothing = circuit(
        "fetch-saes", "--run", tmp_path / "d", "--model", "gpt2", "--release", f"{address}/v5_32k_layer_x"
    )
    nothing.refused(3, "no SAE or transcoder in", "it has no files", "cfg.json")
    circuit("fetch-saes", "--run", tmp_path / "e", "--model", "gpt2", "--release", "hf://jbloom").refused(
        2, "hf://jbloom"
    )


def test_a_run_goes_on_with_the_commits_that_it_began_with(circuit: Any, server: LoopbackHub, tmp_path: Path) -> None:
    kind = KINDS["gpt2-small-res_sce-ajt"]
    run, [before, *_] = tmp_path / "run", fetch(circuit, tmp_path / "run", "gpt2-small-res_sce-ajt", "--layers", "6")
    repository = server.repositories[next(key for key in server.repositories if kind.repository in str(key))]
    old = repository.revisions["main"]
    changed = [kind.files(layer, {k: v + 1 for k, v in weights(layer).items()}) for layer in kind.layers]
    new = server.add(kind.repository, {path: content for files in changed for path, content in files.items()})
    try:
        asked = len(server.requests)
        again = circuit("fetch-saes", "--run", run, "--json")
        assert again.document["stages"] == {"fetch-saes": "skipped"}, again.err
        assert len(server.requests) == asked
        [forced] = fetch(circuit, run, "gpt2-small-res_sce-ajt", "--force")
        assert (before.revision, forced.revision) == (old, new)
        [pinned] = fetch(circuit, tmp_path / "other", "gpt2-small-res_sce-ajt", "--layers", "6", "--revision", old)
        assert pinned.facts.sha256 == before.facts.sha256 != forced.facts.sha256
    finally:
        repository.revisions["main"] = old


def test_offline_says_what_is_missing_and_how_much(
    circuit: Any, server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(circuit, tmp_path / "run", "gpt2-small-res-jb", "--layers", "4")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(server.requests)
    fetch(circuit, tmp_path / "same", "gpt2-small-res-jb", "--layers", "4")
    more = circuit("fetch-saes", "--run", tmp_path / "more", "--model", "gpt2", "--layers", "4:6")
    more.refused(4, "HF_HUB_OFFLINE", "blocks.5.hook_resid_pre/sae_weights.safetensors")
    assert re.search(r"15\d(\.\d)? MB", more.err), more.err
    assert len(server.requests) == asked


def test_a_process_without_them_gets_what_a_task_needs_from_the_hub(
    circuit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another machine has another cache: the commits that were recorded are fetched there."""
    [entry] = fetch(circuit, tmp_path / "run", "gpt2-small-hook-z-kk", "--layers", "5")
    commit = json.loads((tmp_path / "run" / "saes" / "stage.json").read_text())["inputs"]["model identity"]
    contents = Contents(
        "gpt2-small", commit, "float32", (entry,), Content("none", "", 0), 1, {}, None, Content("none", "", 0)
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "other"))
    opened = Sources([], "cpu").opened(contents)
    assert opened.model.shape.n_layers == LAYERS
    sae = opened.load(entry)
    torch.testing.assert_close(sae.w_enc, weights(5)["W_enc"] * KINDS["gpt2-small-hook-z-kk"].factor)
    assert sae.frame.offset is not None
    assert list((tmp_path / "other").rglob("model.safetensors"))


def test_only_what_makes_the_model_is_fetched(circuit: Any, server: LoopbackHub, tmp_path: Path) -> None:
    fetch(circuit, tmp_path / "run", "gpt2-small-res-jb", "--layers", "4")
    cached = {path.name for path in (tmp_path / "cache").rglob("snapshots/*/*")}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= cached
    assert "flax_model.msgpack" not in cached
    assert not list((tmp_path / "cache").rglob("sparsity.safetensors"))


def test_the_list_needs_no_run_and_no_network(circuit: Any, server: LoopbackHub) -> None:
    asked = len(server.requests)
    shown = circuit("fetch-saes", "--list")
    rows = {row[0]: row for row in tsv(shown.out)}
    assert rows["gpt2-small-res-jb"][1:] == ["resid_pre  resid_post", "24,576", "0–11", "151 MB", "{layer}-res-jb"]
    assert rows["gpt2-small-resid-post-v5-128k"][4] == "806 MB"
    assert set(KINDS) | {"demo"} <= set(rows)
    document = circuit("fetch-saes", "--list", "--json").document
    assert [row["name"] for row in document["releases"]] == [offer.name for offer in known_releases()]
    assert len(server.requests) == asked
