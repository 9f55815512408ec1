"""Exit 3: missing, stale, corrupt or unfit input. Two lines say so, and the run stays as it was."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.commands import Result, contents

Circuit = Callable[..., Result]


@pytest.fixture
def saes(tiny_saes: Path, tmp_path: Path) -> Path:
    """The SAEs of resid_post, to be spoilt."""
    for layer in range(3):
        shutil.copytree(tiny_saes / f"{layer}.resid_post", tmp_path / "saes" / f"{layer}.resid_post")
    return tmp_path / "saes"


def spoil(folder: Path, **changes: torch.Tensor) -> None:
    """Replace weights of an SAE."""
    path = folder / "sae_weights.safetensors"
    save_file({**load_file(path), **changes}, path)


def configure(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change an SAE's cfg.json."""
    path = folder / "cfg.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, ["can't be read", "No such file"]),
        (b"", ["empty"]),
        (b"\n \n", ["empty"]),
        ("model = 'é'".encode("latin-1"), ["not UTF-8"]),
    ],
)
def test_profile(data: bytes | None, words: list[str], circuit: Circuit, run: Path, tmp_path: Path):
    profile = tmp_path / "profile.toml"
    if data is not None:
        profile.write_bytes(data)
    before = contents(tmp_path)
    for folder in (run, tmp_path / "new"):
        circuit("run-all", "--profile", profile, "--run", folder).refused(3, str(profile), *words)
        circuit("run-all", "--profile", profile, "--run", folder, "--json").refused_in_json(3)
    assert contents(tmp_path) == before


TEXTS = {
    "missing": ("t.txt", None, ["t.txt", "can't be read"]),
    "empty": ("t.txt", b"", ["t.txt", "empty"]),
    "only blank lines": ("t.txt", b"\n\n \n", ["t.txt", "no text in it"]),
    "not UTF-8": ("t.txt", b"\xff\xfehello", ["t.txt", "not UTF-8"]),
    "not UTF-8 at its end": ("t.txt", b"hello world " * 200_000 + b"\xc3", ["t.txt", "not UTF-8"]),
    "a folder": ("t", "folder", ["can't be read"]),
}


@pytest.mark.parametrize("name", TEXTS)
def test_text(name: str, circuit: Circuit, run: Path, profile: Path, tmp_path: Path):
    file, data, words = TEXTS[name]
    if isinstance(data, bytes):
        (tmp_path / file).write_bytes(data)
    elif data == "folder":
        (tmp_path / file).mkdir()
    before = contents(tmp_path)
    args = ["--text", tmp_path / file]
    circuit("run-all", "--profile", profile, "--run", tmp_path / "new", *args).refused(3, *words)
    circuit("run-all", "--profile", profile, "--run", run, *args, "--force").refused(3, *words)
    circuit("cache-acts", "--run", run, *args, "--force", "--json").refused_in_json(3)
    assert contents(tmp_path) == before


SAMPLES = {
    "no text key": ("t.jsonl", b'{"text": "good evening"}\n{"txt": "bad"}\n', ["line 2", '"text"']),
    "not JSON": ("t.jsonl", b"good evening\n", ["line 1", "JSON"]),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_sample(name: str, circuit: Circuit, run: Path, tmp_path: Path):
    file, data, words = SAMPLES[name]
    (tmp_path / file).write_bytes(data)
    before = contents(run)
    circuit("cache-acts", "--run", run, "--text", tmp_path / file, "--force").refused(3, *words)
    circuit("cache-acts", "--run", run, "--text", tmp_path / file, "--force", "--json").refused_in_json(3)
    assert contents(run) == before


def test_sample_that_was_refused_asks_for_no_force_afterwards(
    circuit: Circuit, profile: Path, tiny_text: Path, tmp_path: Path
):
    (tmp_path / "bad.jsonl").write_text('{"text": "good evening"}\n{"text": 5}\n')
    args = ["run-all", "--profile", profile, "--run", tmp_path / "new"]
    circuit(*args, "--text", tmp_path / "bad.jsonl").refused(3, "line 2", "number")
    assert circuit(*args, "--text", tiny_text).code == 0


def test_texts_that_are_too_short_or_too_long(circuit: Circuit, run: Path):
    before = contents(run)
    short = ["--prompt", "a", "--prepend-bos", "false"]
    circuit("cache-acts", "--run", run, *short, "--force").refused(3, "long enough", "two tokens")
    circuit("cache-acts", "--run", run, "--max-tokens", "33", "--force").refused(3, "32 tokens", "--max-tokens 32")
    assert contents(run) == before


def model_without_config(saes: Path) -> list[str]:
    return ["--model", str(saes)]


def unknown_release(saes: Path) -> list[str]:
    return ["--release", "nothing-res-jb"]


def release_without_saes(saes: Path) -> list[str]:
    folder = saes.parent / "others"
    (folder / "1.resid_post").mkdir(parents=True)
    (folder / "1.resid_post" / "weights.bin").write_bytes(b"")
    return ["--release", str(folder)]


def layer_without_sae(saes: Path) -> list[str]:
    shutil.rmtree(saes / "1.resid_post")
    return ["--release", str(saes), "--layers", "0:3"]


def site_without_sae(saes: Path) -> list[str]:
    return ["--release", str(saes), "--site", "mlp_out"]


def other_width(saes: Path) -> list[str]:
    return ["--release", "demo", "--layers", "0:3"]


def nan_weights(saes: Path) -> list[str]:
    spoil(saes / "2.resid_post", W_enc=torch.full((32, 40), torch.nan))
    return ["--release", str(saes)]


def infinite_weights(saes: Path) -> list[str]:
    spoil(saes / "2.resid_post", b_dec=torch.full((32,), torch.inf))
    return ["--release", str(saes)]


def wrong_shape(saes: Path) -> list[str]:
    spoil(saes / "0.resid_post", W_dec=torch.zeros(39, 32))
    return ["--release", str(saes)]


def torn_weights(saes: Path) -> list[str]:
    path = saes / "0.resid_post" / "sae_weights.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    return ["--release", str(saes)]


def missing_weights(saes: Path) -> list[str]:
    (saes / "0.resid_post" / "sae_weights.safetensors").unlink()
    return ["--release", str(saes)]


def torn_config(saes: Path) -> list[str]:
    (saes / "0.resid_post" / "cfg.json").write_text('{"architecture": ')
    return ["--release", str(saes)]


def unknown_architecture(saes: Path) -> list[str]:
    configure(saes / "0.resid_post", lambda config: config.update(architecture="crosscoder"))
    return ["--release", str(saes)]


def unknown_hook(saes: Path) -> list[str]:
    configure(saes / "0.resid_post", lambda config: config["metadata"].update(hook_name="blocks.0.hook_nothing"))
    return ["--release", str(saes)]


def no_cuda(saes: Path) -> list[str]:
    return ["--device", "cuda"]


WORDS = {
    model_without_config: ["config.json"],
    unknown_release: ["nothing-res-jb", "demo"],
    release_without_saes: ["no SAE or transcoder in", "1.resid_post/weights.bin", "cfg.json", "ae.pt", "config.yaml"],
    layer_without_sae: ["1.resid_post", "layers 0, 2", "--layers"],
    site_without_sae: ["mlp_out", "none"],
    other_width: ["128", "32", "--release"],
    nan_weights: ["W_enc", "NaN"],
    infinite_weights: ["b_dec", "infinite"],
    wrong_shape: ["W_dec", "(39, 32)", "(40, 32)"],
    torn_weights: ["sae_weights.safetensors", "can't be read"],
    missing_weights: ["sae_weights.safetensors", "isn't there"],
    torn_config: ["cfg.json", "can't be read"],
    unknown_architecture: ["crosscoder", "standard"],
    unknown_hook: ["blocks.0.hook_nothing", "resid_post"],
    no_cuda: ["CUDA", "--device auto"],
}


def test_model_that_is_in_no_cache_offline(circuit: Circuit, tmp_path: Path):
    run = tmp_path / "run"
    circuit("fetch-saes", "--run", run, "--model", "nobody/nothing").refused(4, "nobody/nothing", "HF_HUB_OFFLINE")
    circuit("fetch-saes", "--run", run, "--model", "nobody/nothing", "--json").refused_in_json(4)


def test_layers_take_all_that_a_release_has(circuit: Circuit, saes: Path, tiny_model: Path, tmp_path: Path):
    shutil.rmtree(saes / "1.resid_post")
    done = circuit(
        "fetch-saes",
        "--run",
        tmp_path / "run",
        "--model",
        tiny_model,
        "--release",
        saes,
        "--site",
        "resid_post",
        "--json",
    )
    assert done.document["saes"] == ["0.resid_post", "2.resid_post"]


@pytest.mark.parametrize("spoilt", WORDS, ids=lambda function: function.__name__)
def test_model_and_saes(
    spoilt: Callable[[Path], list[str]],
    circuit: Circuit, run: Path, profile: Path, saes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    args, words = spoilt(saes), WORDS[spoilt]
    before = contents(tmp_path)
    circuit("run-all", "--profile", profile, "--run", tmp_path / "new", *args).refused(3, *words)
    circuit("run-all", "--profile", profile, "--run", run, *args, "--force").refused(3, *words)
    name = "cache-acts" if spoilt is no_cuda else "fetch-saes"
    circuit(name, "--run", run, *args, "--force", "--json").refused_in_json(3)
    assert contents(tmp_path) == before


def test_saes_that_disagree_on_bos(circuit: Circuit, profile: Path, saes: Path, tmp_path: Path):
    configure(saes / "1.resid_post", lambda config: config["metadata"].update(prepend_bos=False))
    new = tmp_path / "new"
    assert circuit("fetch-saes", "--profile", profile, "--run", new, "--release", saes).code == 0
    before = contents(tmp_path)
    circuit("cache-acts", "--run", new).refused(3, "0.resid_post with", "1.resid_post without", "--prepend-bos")
    circuit("cache-acts", "--run", new, "--json").refused_in_json(3)
    assert contents(tmp_path) == before
    assert circuit("cache-acts", "--run", new, "--prepend-bos", "true").code == 0


def test_saes_without_decoders(circuit: Circuit, profile: Path, saes: Path, tmp_path: Path):
    """Ablation changes nothing at all: that is an error with its likely causes, and no empty table."""
    for folder in saes.iterdir():
        spoil(folder, W_dec=torch.zeros(40, 32))
    new = tmp_path / "new"
    result = circuit("run-all", "--profile", profile, "--run", new, "--release", saes)
    result.refused(3, "larger than rounding", "SAEs of another model", "decoder")
    before = contents(tmp_path)
    circuit("effects", "--run", new, "--json").refused_in_json(3)
    assert contents(tmp_path) == before
    assert not (new / "effects").exists()


def test_pinned_feature_that_never_fires(circuit: Circuit, profile: Path, saes: Path, tmp_path: Path):
    weights = load_file(saes / "1.resid_post" / "sae_weights.safetensors")
    weights["b_enc"][7] = -1e6
    spoil(saes / "1.resid_post", **weights)
    args = ["--profile", profile, "--run", tmp_path / "new", "--release", saes]
    assert circuit("run-all", *args).code == 0
    before = contents(tmp_path)
    result = circuit("ablate", "--run", tmp_path / "new", "--pin", "1:7")
    result.refused(3, "1.resid_post.7", "fires nowhere in the sample", "--num-sequences", "--text")
    circuit("ablate", "--run", tmp_path / "new", "--pin", "1:7", "--json").refused_in_json(3)
    assert contents(tmp_path) == before
