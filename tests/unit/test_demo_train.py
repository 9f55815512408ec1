"""The demo's own training, at a size of seconds, and the shape of what is shipped."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from circuitcli import demo
from circuitcli.core.sites import Site
from circuitcli.demo import corpus, dictionary_training, measure, train
from circuitcli.demo.activations import sites
from circuitcli.demo.dictionaries import Autoencoder, Recipe
from circuitcli.demo.language_model import Schedule, Shape

TINY = Shape(layers=2, width=32, heads=2, context=64, vocabulary=400)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full set of files, trained for a few steps."""
    out = tmp_path_factory.mktemp("demo") / "tiny"
    recipe = Recipe(steps=4, tuning_steps=2, rows=4, d_sae=64, k=4)
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
    rows = measure.Rows(torch.tensor([[0, 1, 2, 3, 1, 2, 3]]), torch.tensor([7]))
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


def test_shipped_text_is_enough_and_from_all_three_works() -> None:
    documents = corpus.read(demo.TEXT)
    assert len(documents) >= 600
    assert {d.source for d in documents} == {"World English Bible", "Jargon File 4.4.7", "The Devil's Dictionary"}
