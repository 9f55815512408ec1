"""The demo's own training, at a size of seconds, and the shape of what is shipped."""

import io
import json
import math
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from circuitcli import demo
from circuitcli.core.sites import Site
from circuitcli.demo import corpus, dictionary_training, measure, train, transcoder_training
from circuitcli.demo.activations import sites
from circuitcli.demo.dictionaries import Autoencoder, Recipe
from circuitcli.demo.language_model import Schedule, Shape
from circuitcli.demo.rows import Rows
from circuitcli.demo.transcoders import Transcoders

TINY = Shape(layers=2, width=32, heads=2, context=64, vocabulary=400)
SHORT = {"steps": 4, "tuning_steps": 2, "rows": 4, "d_sae": 64, "k": 4} | {
    "d_clt": 48, "l0_transcoder": 4.0, "l0_clt": 3.0, "transcoder_steps": 3, "transcoder_tuning_steps": 2
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full set of files, trained for a few steps."""
    out = tmp_path_factory.mktemp("demo") / "tiny"
    recipe = Recipe(**SHORT)
    train.run(train.Plan(demo.TEXT, out, 1, TINY, Schedule(steps=4, rows=4), recipe))
    return out


def test_a_tiny_training_writes_files_that_load_again(trained: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained / "model", local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(trained / "model", local_files_only=True)
    assert (model.config.n_layer, model.config.n_embd, model.config.vocab_size) == (2, 32, 400)
    assert tokenizer.bos_token_id == corpus.BOS_ID
    assert {p.name for p in (trained / "saes").iterdir()} == {site.hook for site in sites(2)}
    report = measure.measure(trained, most=8)
    assert len(report.dictionaries) == 6
    assert all(math.isfinite(q.fvu) and 0 <= q.dead <= 1 for q in report.dictionaries)
    assert all(q.l0 <= 4 for q in report.dictionaries if q.site.name != "resid_post")
    assert [one.name for one in report.transcoders] == ["transcoders", "clt"]
    assert all(math.isfinite(q.fvu) and q.l0 > 0 for one in report.transcoders for q in one.layers)
    assert all(math.isfinite(one.recovered) and 0 <= one.agreement <= 1 for one in report.transcoders)


def test_transcoders_are_trained_again_alone_and_come_out_the_same(trained: Path, tmp_path: Path) -> None:
    """On the model that is there, whose files and those of its autoencoders stay as they are."""
    out = tmp_path / "again"
    train.run(train.Plan(demo.TEXT, out, 1, TINY, Schedule(steps=0), Recipe(**SHORT | {"steps": 0}), kept=trained))
    files = [path.relative_to(trained) for path in sorted(trained.rglob("*")) if path.is_file()]
    assert [path.relative_to(out) for path in sorted(out.rglob("*")) if path.is_file()] == files
    for path in files:
        if path.name != "training.json":
            assert (trained / path).read_bytes() == (out / path).read_bytes(), path


def test_passages_are_held_out_word_for_word(trained: Path) -> None:
    documents = corpus.read(demo.TEXT)
    training, held = corpus.split(documents, seed=1)
    assert not {d.text for d in training} & {d.text for d in held}
    assert documents[:8] == training[:8]
    for passage in corpus.read(trained / "text.jsonl"):
        assert any(passage.text in d.text and passage.source == d.source for d in held)


def test_rows_begin_with_bos_and_follow_the_stream() -> None:
    stream = corpus.join([[10 + i] * 5 for i in range(9)], seed=0)
    rows = corpus.draw_rows(stream, 8, 12, torch.Generator().manual_seed(0))
    text = " ".join(map(str, stream.tokens.tolist()))
    assert rows.shape == (8, 12)
    assert (rows[:, 0] == corpus.BOS_ID).all()
    assert all(" ".join(map(str, row[1:])) in text for row in rows.tolist())


def test_the_bigram_of_a_deterministic_text_is_certain() -> None:
    stream = corpus.join([[1, 2, 3] * 400], seed=0)
    rows = Rows(torch.tensor([[0, 1, 2, 3, 1, 2, 3]]), torch.tensor([7]))
    assert measure.bigram_cross_entropy(stream, rows, 4) < 0.01


@pytest.mark.parametrize("site", ["resid_post", "mlp_out"])
def test_what_is_written_reconstructs_as_what_was_trained(site: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(50, 16) + torch.randn(16)
    trained = Autoencoder(Site(1, site), x, Recipe(steps=1, d_sae=40, k=5))
    _, x_hat = trained.loss(x, 0.0)
    dictionary_training.save([trained], 64, tmp_path)
    where, shipped = measure.load_dictionary(tmp_path / trained.site.hook)
    assert where == trained.site
    torch.testing.assert_close(shipped.decode(shipped.encode(x), x), x_hat.detach(), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("cross", [False, True])
def test_written_transcoders_say_what_was_trained(cross: bool, tmp_path: Path) -> None:
    """By the formulas of circuit-tracer's formats, of activations of any mean and spread."""
    torch.manual_seed(0)
    sites = [Site(layer, name) for layer in (0, 1, 2) for name in ("mlp_in", "mlp_out")]
    x = {site: (i + 1) * torch.randn(60, 16) + torch.randn(16) for i, site in enumerate(sites)}
    recipe = Recipe(steps=1, d_sae=40, d_clt=30, l0_transcoder=5.0, l0_clt=4.0)
    trained = Transcoders([0, 1, 2], x, recipe, cross=cross)
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    trained.settle([x])
    trained.loss(x)
    transcoder_training.save([trained], tmp_path / "per", tmp_path / "clt")
    said, sure = dict.fromkeys((0, 1, 2), torch.zeros(())), torch.ones(60, dtype=torch.bool)
    for layer in said:
        v = x[Site(layer, "mlp_in")]
        if cross:
            files = [load_file(tmp_path / "clt" / f"{name}_{layer}.safetensors") for name in ("W_enc", "W_dec")]
            w = {name: tensor.float() for file in files for name, tensor in file.items()}
            pre = v @ w[f"W_enc_{layer}"].T + w[f"b_enc_{layer}"]
            a = pre * (pre > w[f"threshold_{layer}"])
            sure &= ((pre / w[f"threshold_{layer}"] - 1).abs() > 0.003).all(1)  # of the rest float16 decides
            assert w[f"W_dec_{layer}"].shape == (30, 3 - layer, 16)
            for slot in range(3 - layer):
                said[layer + slot] = said[layer + slot] + a @ w[f"W_dec_{layer}"][:, slot]
            said[layer] = said[layer] + w[f"b_dec_{layer}"]
        else:
            w = {k: t.float() for k, t in load_file(tmp_path / "per" / f"layer_{layer}.safetensors").items()}
            a = (v @ w["W_enc"].T + w["b_enc"]).relu()
            said[layer] = a @ w["W_dec"] + w["b_dec"] + v @ w["W_skip"].T
        assert (a > 0).sum().item() == pytest.approx(60 * (4 if cross else 5), abs=8)
    for layer, found in said.items():
        site = Site(layer, "mlp_out")
        wanted = x[site] - trained.error[layer] * trained.spreads[site]
        torch.testing.assert_close(found[sure], wanted[sure], rtol=0.02, atol=0.02 * trained.spreads[site])
    assert sure.sum() >= 45


def test_shipped_transcoders_have_the_stated_shapes() -> None:
    for layer in range(4):
        found = load_file(demo.TRANSCODERS / f"layer_{layer}.safetensors")
        wanted = {"W_enc": (1024, 128), "b_enc": (1024,), "W_dec": (1024, 128), "b_dec": (128,), "W_skip": (128, 128)}
        assert {name: tuple(t.shape) for name, t in found.items()} == wanted
        found = load_file(demo.CLT / f"W_enc_{layer}.safetensors")
        wanted = {"W_enc": (768, 128), "b_enc": (768,), "b_dec": (128,), "threshold": (768,)}
        assert {name: tuple(t.shape) for name, t in found.items()} == {f"{k}_{layer}": v for k, v in wanted.items()}
        assert (found[f"threshold_{layer}"] > 0).all()
        decoders = load_file(demo.CLT / f"W_dec_{layer}.safetensors")[f"W_dec_{layer}"].float()
        assert decoders.shape == (768, 4 - layer, 128)
        torch.testing.assert_close(decoders.flatten(1).norm(dim=1), torch.ones(768), rtol=0, atol=2e-3)


def test_shipped_files_have_the_stated_shapes() -> None:
    weights = load_file(demo.MODEL / "model.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.float16}
    config = json.loads((demo.MODEL / "config.json").read_text())
    assert (config["n_layer"], config["n_embd"], config["n_head"], config["n_positions"]) == (4, 128, 4, 128)
    assert config["vocab_size"] == 4096
    for where in sites(4):
        folder = demo.SAES / where.hook
        tensors = load_file(folder / "sae_weights.safetensors")
        shapes = {"W_enc": (128, 1024), "W_dec": (1024, 128), "b_enc": (1024,), "b_dec": (128,)}
        assert {name: tuple(t.shape) for name, t in tensors.items()} == shapes
        assert {t.dtype for t in tensors.values()} == {torch.float16}
        cfg = json.loads((folder / "cfg.json").read_text())
        expected = ("standard", "none", None) if where.name == "resid_post" else ("topk", "layer_norm", 16)
        assert (cfg["architecture"], cfg["normalize_activations"], cfg.get("k")) == expected
        assert cfg["metadata"]["hook_name"] == where.hook
        if where.name == "resid_post":
            norms = tensors["W_dec"].float().norm(dim=1)
            torch.testing.assert_close(norms, torch.ones(1024), rtol=0, atol=2e-3)


def test_what_is_shipped_fits_a_wheel_of_16_mb() -> None:
    """Compressed as a wheel is."""
    package = demo.FOLDER.parent
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:
        for path in package.rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                wheel.write(path, path.relative_to(package))
    assert len(whole.getvalue()) <= 16e6


def test_shipped_text_is_enough_and_from_all_three_works() -> None:
    documents = corpus.read(demo.TEXT)
    assert len(documents) >= 600
    assert {d.source for d in documents} == {"World English Bible", "Jargon File 4.4.7", "The Devil's Dictionary"}
