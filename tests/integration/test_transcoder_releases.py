"""Transcoders of GPT-2 small and of any repository, from a hub on loopback that has their layouts at small widths."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from support import layouts, pickled
from support.families import save_checkpoint
from support.hub import LoopbackHub
from support.layouts import D, Drawn, N
from transformers import GPT2Config

from circuitcli.core.sites import Site
from circuitcli.results.dictionaries import entries_of
from circuitcli.runtime.hub import Hub
from circuitcli.saes import SaeEntry, load
from circuitcli.saes.hub import releases
from circuitcli.stages.spec import STAGES
from circuitcli.store.run import Run

LAYERS = 12
GPT2 = "openai-community/gpt2"


@pytest.fixture(scope="module", autouse=True)
def _twelve_layers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layouts, "LAYERS", LAYERS)
        yield


def save_pickles(folder: Path, ones: list[Drawn]) -> Path:
    folder.mkdir()
    for layer, one in enumerate(ones):
        hooks = {"hook_point": f"blocks.{layer}.ln2.hook_normalized", "out_hook_point": f"blocks.{layer}.hook_mlp_out"}
        config = {**hooks, "d_in": D, "d_out": D, "d_sae": N, "is_transcoder": True, "context_size": 128}
        w = {"W_enc": one.w_enc, "b_enc": one.b_enc, "W_dec": one.w_dec[layer], "b_dec": torch.zeros(D),
             "b_dec_out": one.b_dec}  # fmt: skip
        name = f"final_sparse_autoencoder_gpt2-small_blocks.{layer}.ln2.hook_normalized_24576.pt"
        pickled.save_first_format(folder / name, "sae_training.config", config, w)
    return folder


def save_arena(folder: Path, ones: list[Drawn]) -> Path:
    """As SAEs, since SAELens had no word for transcoders."""
    for layer, one in enumerate(ones[:9]):
        inside = folder / f"gpt2-small-layer-{layer}-mlp-transcoder-folded-b_dec_out"
        inside.mkdir(parents=True)
        said = {"architecture": "standard", "d_in": D, "d_sae": N, "dtype": "float32", "context_size": 128,
                "hook_name": f"blocks.{layer}.ln2.hook_normalized", "hook_layer": layer, "prepend_bos": True,
                "activation_fn_str": "relu", "apply_b_dec_to_input": False, "normalize_activations": "none",
                "hook_name_out": f"blocks.{layer}.hook_mlp_out"}  # fmt: skip
        (inside / "cfg.json").write_text(json.dumps(said))
        w = {"W_enc": one.w_enc, "b_enc": one.b_enc, "W_dec": one.w_dec[layer], "b_dec": one.b_dec}
        save_file({name: tensor.contiguous() for name, tensor in w.items()}, inside / "sae_weights.safetensors")
    return folder


@dataclass(frozen=True)
class Kind:
    """A release as it lies on the hub, and what must come of it."""

    repository: str
    write: Callable[[Path, list[Drawn]], Path]
    site: str
    act: str = "relu"
    skip: bool = False
    across: bool = False
    revision: str = "main"
    normalized: bool = False
    prepend_bos: bool = True
    neuronpedia: str | None = None

    @property
    def drawn(self) -> list[Drawn]:
        return (layouts.across if self.across else layouts.per_layer)(self.act, skip=self.skip)


SWEEP, ELEUTHER = "mntss/sparsecoder-sweep-gpt2", "EleutherAI/gpt2-mntss-transcoder"
PROCESSED = {"site": "mlp_in", "normalized": True, "prepend_bos": False, "neuronpedia": "{}-tres-dc"}
KINDS = {
    "gpt2-small-transcoders-dc": Kind("pchlenski/gpt2-transcoders", save_pickles, **PROCESSED),
    "gpt2-small-transcoders-arena": Kind("callummcdougall/arena-demos-transcoder", save_arena, **PROCESSED),
    "gpt2-small-transcoders-relu-sp6-skip": Kind(
        SWEEP, layouts.save_sparsecoder, "resid_mid", skip=True, revision="relu-sp6-skip"
    ),
    "gpt2-small-transcoders-relu-sp8-noskip": Kind(
        SWEEP, layouts.save_sparsecoder, "resid_mid", revision="relu-sp8-noskip"
    ),
    "gpt2-small-clt-relu-sp8": Kind(
        SWEEP, layouts.save_sparsecoder_clt, "resid_mid", across=True, revision="clt-relu-sp8"
    ),
    "gpt2-small-clt-relu-sp10-1b": Kind(
        SWEEP, layouts.save_sparsecoder_clt, "resid_mid", across=True, revision="clt-relu-sp10-1b"
    ),
    "gpt2-small-sparsify-relu-sp6-skip": Kind(
        f"{ELEUTHER}-relu-sp6-skip", layouts.save_sparsify, "resid_mid", "topk", skip=True, prepend_bos=False
    ),
    "gpt2-small-sparsify-clt-relu-sp8": Kind(
        f"{ELEUTHER}-clt-relu-sp8", layouts.save_sparsify, "resid_mid", "topk", across=True, prepend_bos=False
    ),
    "gpt2-small-sparsify-clt-relu-sp10-1b": Kind(
        f"{ELEUTHER}-clt-relu-sp10-1b", layouts.save_sparsify, "resid_mid", "topk", across=True, prepend_bos=False
    ),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def server(_twelve_layers: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    config = GPT2Config(n_layer=LAYERS, n_embd=D, n_head=1, n_positions=32, vocab_size=61)
    model = save_checkpoint("gpt2", tmp_path_factory.mktemp("gpt2"), config=config)
    with LoopbackHub() as hub:
        hub.add(GPT2, contents(model))
        hub.aliases["gpt2"] = GPT2
        hub.add(SWEEP, {"README.md": b"on branches"})
        for name, kind in KINDS.items():
            folder = kind.write(tmp_path_factory.mktemp(name) / "x", kind.drawn)
            hub.add(kind.repository, contents(folder), revision=kind.revision)
        yield hub


@pytest.fixture(autouse=True)
def _online(server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def fetch(circuit: Any, run: Path, release: str | Path, *more: str) -> list[SaeEntry]:
    done = circuit("fetch-saes", "--run", run, "--model", "gpt2-small", "--release", release, "--json", *more)
    assert done.code == 0, done.err
    assert "center_writing_weights" not in done.err, "everything that matters is stated"
    return entries_of(Run(run, STAGES.folders))


def same(entry: SaeEntry, one: Drawn) -> None:
    """What is loaded of a record is the dictionary that was drawn."""
    ours, layer = load(entry, Hub()), entry.at.layer
    x = torch.randn(20, D, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours.encode(x), one.encode(x))
    expected = one.b_dec + (x @ one.w_skip if one.w_skip is not None else 0)
    torch.testing.assert_close(ours.constant(x), expected)
    assert ours.written == entry.written == tuple(Site(to, "mlp_out") for to in one.w_dec)
    for decoder in ours.decoders:
        torch.testing.assert_close(decoder.rows(torch.arange(N)), one.w_dec[decoder.site.layer])
    assert entry.facts.skip == (one.w_skip is not None)
    assert layer == ours.reads.layer


@pytest.mark.parametrize("release", KINDS)
def test_every_release_is_read_as_it_was_trained(
    circuit: Any, tmp_path: Path, release: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, run = KINDS[release], tmp_path / "run"
    entries = fetch(circuit, run, release, "--layers", "4:6")
    drawn = kind.drawn
    for entry, layer in zip(entries, (4, 5), strict=True):
        facts = entry.facts
        assert entry.at == Site(layer, kind.site)
        assert (facts.normalized, facts.centre, facts.centre_out) == (kind.normalized, False, kind.normalized)
        assert facts.prepend_bos == kind.prepend_bos
        assert facts.neuronpedia == (kind.neuronpedia and kind.neuronpedia.format(layer))
        assert entry.source.startswith(f"hf://{kind.repository}/")
        same(entry, drawn[layer])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # all that it takes is in the cache, at its commit
    same(entries[0], drawn[4])


def test_these_are_all_that_are_listed() -> None:
    assert set(KINDS) == {
        name for name, row in releases().items() if any(s.layout != "saelens" or s.stated.writes for s in row.saes)
    }
    for name, kind in KINDS.items():
        assert (releases()[name].repository, releases()[name].revision) == (kind.repository, kind.revision)
        assert [sae.site.layer for sae in releases()[name].saes] == list(range(9 if "arena" in name else LAYERS))


def test_a_release_on_a_branch_can_be_had_at_another_revision(
    circuit: Any, server: LoopbackHub, tmp_path: Path
) -> None:
    first = fetch(circuit, tmp_path / "a", "gpt2-small-clt-relu-sp8", "--layers", "3")
    commit = str(first[0].revision)
    again = fetch(circuit, tmp_path / "b", "gpt2-small-clt-relu-sp10-1b", "--layers", "3", "--revision", commit)
    assert [entry.revision for entry in again] == [commit]


def test_the_same_files_by_their_address_are_read_alike(circuit: Any, tmp_path: Path) -> None:
    """With what the table knows of them; a branch is a revision."""
    listed = fetch(circuit, tmp_path / "a", "gpt2-small-transcoders-dc", "--layers", "4:6")
    there = fetch(circuit, tmp_path / "b", "hf://pchlenski/gpt2-transcoders", "--layers", "4:6")
    assert there == [replace(entry) for entry in listed]
    sweep = fetch(circuit, tmp_path / "c", f"hf://{SWEEP}", "--layers", "4:6", "--revision", "clt-relu-sp8")
    assert sweep == fetch(circuit, tmp_path / "d", "gpt2-small-clt-relu-sp8", "--layers", "4:6")
    nothing = circuit("fetch-saes", "--run", tmp_path / "e", "--model", "gpt2", "--release", f"hf://{SWEEP}")
    nothing.refused(3, "no SAE or transcoder in", "README.md", "encoder_layer_0.safetensors")


WRITERS: dict[str, tuple[Callable[[Path, list[Drawn]], Path], Callable[[], list[Drawn]]]] = {
    "circuit-tracer": (layouts.save_circuit_tracer, lambda: layouts.per_layer("jumprelu", skip=True)),
    "circuit-tracer-clt": (layouts.save_circuit_tracer_clt, lambda: layouts.across("jumprelu")),
    "gemma-scope-2": (layouts.save_gemma, lambda: layouts.per_layer("jumprelu", skip=True)),
    "gemma-scope-2 clt": (layouts.save_gemma_clt, lambda: layouts.across("jumprelu", skip=True)),
    "sparsify": (layouts.save_sparsify, lambda: layouts.per_layer("topk", skip=True)),
}


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("inside", ["", "some/place/"])
def test_every_layout_is_found_in_a_repository(
    circuit: Any, server: LoopbackHub, tmp_path: Path, layout: str, inside: str
) -> None:
    write, draw = WRITERS[layout]
    drawn = draw()
    files = contents(write(tmp_path / "x", drawn))
    repo = f"someone/{layout.replace(' ', '-')}-{len(inside)}"
    server.add(repo, {f"{inside}{path}": content for path, content in files.items()} | {"README.md": b""})
    entries = fetch(circuit, tmp_path / "run", f"hf://{repo}/{inside}".rstrip("/"), "--layers", "2:4")
    assert [entry.at.layer for entry in entries] == [2, 3]
    for entry in entries:
        same(entry, drawn[entry.at.layer])
        assert entry.layout == layout.removesuffix(" clt")


def test_a_list_may_name_files_of_other_repositories_each_at_its_commit(
    circuit: Any, server: LoopbackHub, tmp_path: Path
) -> None:
    """From a folder here as well as from a repository; what is recorded is at the commits that there were."""
    ones = layouts.per_layer("jumprelu")[:3]
    for layer, one in enumerate(ones):
        layouts.save(tmp_path / f"{layer}.safetensors", layouts.circuit_tracer(one, layer))
    commits = [
        server.add("one/a", {"deep/w.safetensors": (tmp_path / "0.safetensors").read_bytes()}),
        server.add("two/b", {"w.safetensors": (tmp_path / "1.safetensors").read_bytes()}, revision="old"),
    ]
    server.add("two/b", {"w.safetensors": b"spoilt"})
    listed = ["hf://one/a/deep/w.safetensors", "hf://two/b/w.safetensors?revision=old", "own.safetensors"]
    said = layouts.circuit_tracer_config("transcoder_set", transcoders=listed)
    here = tmp_path / "here"
    layouts.say(here / "config.yaml", said)
    (here / "own.safetensors").write_bytes((tmp_path / "2.safetensors").read_bytes())
    server.add("three/c", contents(here))
    server.add("one/a", {"deep/w.safetensors": b"spoilt later"})
    server.add("one/a", {"deep/w.safetensors": (tmp_path / "0.safetensors").read_bytes(), "more": b""})
    for number, release in enumerate((str(here), "hf://three/c")):
        entries = fetch(circuit, tmp_path / f"run{number}", release, "--layers", "0:3")
        assert [entry.at.layer for entry in entries] == [0, 1, 2]
        for entry in entries:
            same(entry, ones[entry.at.layer])
        assert entries[1].revision == commits[1]
        assert (entries[2].revision is None) == (number == 0)
        config = entries[0].config
        assert config is not None
        assert ("?revision=" in config) == (number == 1), "of another repository, at a commit of its own"
    server.add("two/b", {"w.safetensors": b"spoilt again"}, revision="old")
    same(entries[1], ones[1])


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("hf://one/a", "names no file"),
        ("hf://one", "names no folder"),
        ("hf://one/a/../../x", "names no folder"),
        ("hf://nobody/none/w.safetensors", "nobody/none"),
        ("hf://one/known/missing.safetensors", "no file missing.safetensors"),
        ("hf://one/known/w.safetensors?revision=nowhere", "nowhere"),
        ("http://elsewhere/w.safetensors", "which is not there"),
    ],
)
def test_an_address_in_a_list_that_leads_nowhere_is_refused(
    circuit: Any, server: LoopbackHub, tmp_path: Path, address: str, words: str
) -> None:
    server.add("one/known", {"w.safetensors": b"x"})
    said = layouts.circuit_tracer_config("transcoder_set", transcoders=[address])
    layouts.say(tmp_path / "config.yaml", said)
    done = circuit("fetch-saes", "--run", tmp_path / "run", "--model", "gpt2", "--release", tmp_path)
    assert done.code in (2, 3, 4), done.err
    done.refused(done.code, words)


def test_a_cross_layer_transcoder_that_lacks_a_layer_says_so(circuit: Any, tmp_path: Path) -> None:
    folder = layouts.save_circuit_tracer_clt(tmp_path / "x", layouts.across())
    for part in ("W_enc_3", "W_dec_3"):
        (folder / f"{part}.safetensors").unlink()
    done = circuit("fetch-saes", "--run", tmp_path / "run", "--model", "gpt2", "--release", folder)
    assert done.code == 0, done.err
    assert "no dictionary that reads 3.resid_mid: what it would write is left to the errors" in done.err
    whole = circuit("fetch-saes", "--run", tmp_path / "b", "--model", "gpt2", "--release", folder, "--layers", "4:6")
    assert "no dictionary that reads" not in whole.err


def test_one_of_a_deeper_model_is_refused(circuit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "LAYERS", LAYERS + 2)
    folder = layouts.save_circuit_tracer_clt(tmp_path / "x", layouts.across())
    done = circuit("fetch-saes", "--run", tmp_path / "a", "--model", "gpt2", "--release", folder, "--layers", "4")
    done.refused(3, "4.resid_mid", "writes 12.mlp_out, 13.mlp_out", "12 layers")
