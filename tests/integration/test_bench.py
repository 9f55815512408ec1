"""`circuit bench`: what it says is there, adds up, and agrees with counts made by torch itself."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import engine, tiny
from support.commands import Result, tsv
from support.families import CONFIGS
from torch.utils.flop_counter import FlopCounterMode

from circuitcli.core import flops
from circuitcli.core.ablation import ablate
from circuitcli.core.activations.standard import Relu
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.model import Addition, Places
from circuitcli.core.next_token import TokenSums
from circuitcli.core.sites import SITES, Site, last_block
from circuitcli.runtime import device, shapes

Circuit = Callable[..., Result]
KEYS = {
    "cache_tokens_per_second", "cache_gemm_share", "plain_ms", "raw_forward_ms", "engine_ms", "engine_ms_with_logits",
    "speedup", "speedup_with_logits", "gemm_gflops", "gemm_share", "gemm_share_with_logits", "ablations_per_second",
    "peak_memory_bytes", "worst_relative_difference",
}  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape that is timed in a second."""
    sizes = {"n_layer": 4, "n_embd": 64, "n_head": 4, "vocab_size": 500, "n_positions": 64}
    monkeypatch.setitem(shapes.SHAPES, "small", ("GPT2Config", sizes))


def test_a_shape(circuit: Circuit, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = circuit("bench", "--shape", "small", "--d-sae", "512", "--tokens", "12", "--budget", "2", "--json")
    found = result.document
    assert set(found) >= KEYS
    assert 20 <= found["mean_l0"] <= 60
    assert (found["site"], found["downstream"], found["tokens"]) == ("1.resid_pre", ["2.resid_pre"], 12)
    assert found["ablations"] > found["contexts"] > 0
    assert 0 < found["worst_relative_difference"] <= 1e-4
    assert found["latents_left_out"] <= 0.01 * found["latents_compared"]
    assert all(found[key] > 0 for key in KEYS)
    assert found["ablations_per_second"] == pytest.approx(1e3 / found["engine_ms_with_logits"])
    assert not list(tmp_path.iterdir()), "it writes nothing"


def test_the_table(circuit: Circuit, small: None) -> None:
    result = circuit("bench", "--shape", "small", "--d-sae", "256", "--tokens", "8", "--budget", "2")
    rows = dict(row[:2] for row in tsv(result.out))
    assert rows["subject"] == "small, random weights, d_sae 256"
    assert set(rows) >= {"products", "raw forward", "plain", "no logits", "with logits", "cache-acts", "agreement"}


def test_the_chosen_model(circuit: Circuit, profile: Path) -> None:
    result = circuit("bench", "--profile", profile, "--budget", "2", "--json")
    assert result.document["subject"].startswith(tiny.__name__) or "model" in result.document["subject"]
    assert result.document["site"] == "0.resid_post"
    assert result.document["worst_relative_difference"] <= 1e-4


@pytest.mark.timed
def test_the_demo_has_the_fast_engine(circuit: Circuit) -> None:
    """With the libraries of today: where they took it away, this fails."""
    result = circuit("bench", "--num-sequences", "2", "--max-tokens", "24", "--budget", "2", "--json")
    assert result.document["engine"] == "places", result.err
    assert result.document["speedup"] > 5
    assert "slower" not in result.err


@pytest.mark.timed
def test_a_slow_engine_is_told(circuit: Circuit, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why, and what it costs; and it takes a few ablations, not a budget many times over."""
    made = shapes.random_model

    def slow(*args: Any) -> Any:
        model = made(*args)
        model.whole_because = "it was told so"
        return model

    monkeypatch.setattr(shapes, "random_model", slow)
    args = ("bench", "--shape", "small", "--d-sae", "256", "--tokens", "12", "--budget", "2")
    result = circuit(*args)
    assert "it was told so" in result.err
    assert "slower" in result.err
    rows = dict(row[:2] for row in tsv(result.out))
    assert rows["engine"] == "whole"
    found = circuit(*args, "--json").document
    assert found["engine"] == "whole"
    assert found["ablations"] <= 16 * found["sequences"]
    assert found["worst_relative_difference"] <= 1e-4


@pytest.mark.timed
def test_ratios_have_intervals_and_the_budget_holds(circuit: Circuit, small: None) -> None:
    args = ("bench", "--shape", "small", "--d-sae", "512", "--tokens", "32", "--budget")
    start = time.perf_counter()
    found = circuit(*args, "12", "--json").document
    taken = time.perf_counter() - start
    assert found["budget"] == 12
    assert found["seconds"] <= taken
    assert found["seconds"] <= 1.5 * 12, "one round over, on a busy machine"
    names = {"plain_over_raw", "clean_share", "clean_share_with_logits", "cache_gemm_share"}
    names |= {f"{name}{more}" for name in ("speedup", "gemm_share") for more in ("", "_with_logits")}
    assert set(found["ratios"]) == names
    for name, ratio in found["ratios"].items():
        assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"], name
        assert ratio["rounds"] >= 3
        assert found.get(name, ratio["value"]) == ratio["value"]
    rounds = {(ratio["rounds"]) for ratio in found["ratios"].values()}
    assert max(rounds) > 3, "there was time for more than there must be"
    assert found["speedup"] / 4 <= found["plain_ms"] / found["engine_ms"] <= 4 * found["speedup"]


def test_what_takes_longer_than_its_budget_is_told_before_and_kept_short(
    circuit: Circuit, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model whose passes take 0.2 s: a round is made once, of a few ablations, and has no interval."""
    made = shapes.random_model

    def slow(*args: Any) -> Any:
        model = made(*args)
        model._bridge.register_forward_pre_hook(lambda *_: time.sleep(0.2))
        return model

    monkeypatch.setattr(shapes, "random_model", slow)
    args = ("bench", "--shape", "small", "--d-sae", "256", "--tokens", "12", "--budget", "1")
    result = circuit(*args, "--json")
    found = result.document
    [told] = [line for line in result.err.splitlines() if "--budget 1" in line]
    seconds = float(told.split("about ")[1].split(" s")[0])
    assert found["seconds"] / 2 <= seconds <= 2 * found["seconds"]
    assert found["rounds"] == 4, "one of each way"
    assert found["ablations"] <= 16
    assert {(ratio["low"], ratio["high"]) for ratio in found["ratios"].values()} == {(None, None)}
    rows = {row[0]: row[2] for row in tsv(circuit(*args).out)}
    assert "(–) times faster" in rows["with logits"]


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["--shape", "gpt3"], 2, ("Unknown shape `gpt3`", "gpt2")),
        (["--d-sae", "512"], 2, ("--shape",)),
        (["--tokens", "9"], 2, ("--shape",)),
        (["--shape", "small", "--tokens", "65"], 2, ("reads 64 tokens",)),
        (["--shape", "small", "--d-sae", "3"], 2, ("64",)),
        (["--shape", "small", "--layers", "7:9"], 2, ("4 layers",)),
        (["--shape", "small", "--budget", "0"], 2, ("1",)),
        (["--shape", "small", "--budget", "nan"], 2, ("integer",)),
        (["--shape", "small", "--model", "gpt2"], 2, ("no --model",)),
        (["--shape", "small", "--release", "demo"], 2, ("no --release",)),
        (["--shape", "small", "--max-tokens", "9"], 2, ("no text",)),
        (["--run", "nowhere"], 3, ("no run",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_input(args: list[str], code: int, words: tuple[str, ...], circuit: Circuit, small: None) -> None:
    circuit("bench", *args).refused(code, *words)


@pytest.mark.parametrize("name", sorted(shapes.SHAPES))
def test_shapes_are_those_of_their_models(name: str) -> None:
    """By the number of parameters that their makers state."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shapes.config_of(name))
    stated = {
        "gpt2": 124_439_808,
        "gpt2-medium": 354_823_168,
        "pythia-160m": 162_322_944,
        "llama-3.2-1b": 1_235_814_400,
        "gemma-2-2b": 2_614_341_888,
    }
    assert model.num_parameters() == stated[name]


def counted(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_operations_by_formula_are_those_that_torch_counts(family: str, tmp_path: Path) -> None:
    """The model's passes, encoders and logits, clean and ablated, at every site."""
    from support.families import save_checkpoint

    model = tiny.load_model(save_checkpoint(family, tmp_path / family))
    shape, t = model.shape, 9
    tokens, lengths = torch.randint(1, shape.d_vocab, (2, t)), torch.tensor([t, t])
    names = [name for name in SITES if not (shape.parallel and name == "resid_mid")]
    last = Site(shape.n_layers - 1, "resid_post")

    def sae(site: Site) -> Dictionary:
        d_in = shape.width(site.name)
        return Dictionary(
            site, site, Relu(), torch.randn(d_in, 50), torch.zeros(50), torch.randn(50, d_in), torch.zeros(d_in)
        )

    whole = counted(lambda: model.run(tokens, [last]))
    assert whole == pytest.approx(2 * t * shape.n_layers * flops.block(model.sizes, shape, float(t)), rel=1e-6)
    for site in (Site(1, "resid_pre"), Site(1, "z")):  # at a block's input, nothing of the block
        whole = counted(partial(model.run, tokens, [site]))
        assert whole == pytest.approx(2 * t * (last_block([site]) + 1) * flops.block(model.sizes, shape, float(t)))
    assert counted(lambda: model.logits(torch.randn(5, shape.d_model))) == 5 * flops.unembed(shape)
    for name in names:
        site = Site(1, name)
        saes = {s: sae(s) for s in (site, last)}
        clean = engine.clean_of(model, saes, (tokens, lengths))
        rows = engine.rows([0, 1, 2, 3], [1] * 4, [4, 4, 7, 2])  # one group, at three contexts
        sums = TokenSums(1, shape.d_vocab, torch.device("cpu"))
        rows = replace(rows, slot=rows.slot * 0)
        done = counted(partial(ablate, model, saes, site, rows, clean, [last], sums=sums))
        row = flops.resumed(site, last.layer, model.sizes, shape, t + 4.0) + flops.encode(shape.d_model, 50)
        adding = 2 * 4 * 3 * shape.d_vocab  # effects on tokens are added up by products, which no formula counts
        assert done == 4 * row + (4 + 3) * flops.unembed(shape) + adding, name
        assert resumed_to_the_next_block(model, name) == pytest.approx(
            4 * flops.resumed(Site(0, name), last_block([Site(1, "resid_pre")]), model.sizes, shape, t + 4.0)
        )


def resumed_to_the_next_block(model: Any, name: str) -> int:
    """What four edits in the first block take where only the input of the second is read."""
    site, behind = Site(0, name), Site(1, "resid_pre")
    bases = model.bases(site)
    clean = model.run(torch.randint(1, model.shape.d_vocab, (1, 9)), [site, *bases, behind], keep=0)
    places = Places(torch.tensor([0]), torch.tensor([[4, 4, 7, 2]]))
    base = {base: clean.sites[base][0][places.pos] for base in bases}
    edit = Addition(site, torch.zeros(1, 4, model.shape.width(name)))
    found = []
    done = counted(lambda: found.append(model.resume(clean, base, edit, [behind], places=places)))
    torch.testing.assert_close(
        found[0].sites[behind],
        clean.sites[behind][0][places.pos],
        rtol=0,
        atol=1e-4 * float(clean.sites[behind].abs().max()),
    )
    assert counted(lambda: model.resume(clean, base, edit, [], places=places)) == 0
    return done


def test_the_document_is_plain_json(circuit: Circuit, small: None) -> None:
    result = circuit("bench", "--shape", "small", "--d-sae", "128", "--tokens", "6", "--budget", "2", "--json")
    assert json.loads(json.dumps(result.document)) == result.document
    assert result.document["device"] == "cpu"
    assert device.peak_memory(torch.device("cpu")) >= result.document["peak_memory_bytes"]
