"""SAELens's folders and the first pickles of transcoders: what they compute by plain formulas, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import pickled
from test_saes import refused, take
from torch import Tensor

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.model import NormWeights
from circuitcli.core.sites import Site
from circuitcli.saes import _read, fitted
from circuitcli.saes._files import Files, Stated
from circuitcli.saes._fitted import with_norm

D, N, LAYER = 4, 6, 3
KINDS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
OUT = "hook_name_out", f"blocks.{LAYER}.hook_mlp_out"


def drawn(*names: str, d_out: int = D) -> dict[str, Tensor]:
    """Tensors of a transcoder in SAELens's names and orientation."""
    draw = torch.Generator().manual_seed(0)
    shapes = {"W_enc": (D, N), "b_enc": (N,), "W_dec": (N, d_out), "b_dec": (d_out,), "W_skip": (d_out, D)}
    shapes |= {"threshold": (N,), "b_dec_out": (d_out,)}
    return {name: torch.randn(shapes[name], generator=draw) for name in ("W_enc", "b_enc", "W_dec", "b_dec", *names)}


def parts(kind: str) -> tuple[str, ...]:
    return (*(["threshold"] if "jumprelu" in kind else []), *(["W_skip"] if "skip" in kind else []))


def write(folder: Path, kind: str, w: dict[str, Tensor], hook: str = "mlp.hook_in", **more: Any) -> Path:
    said = {"hook_name": f"blocks.{LAYER}.{hook}", OUT[0]: OUT[1], "prepend_bos": False, "hook_head_index_out": None}
    config = {"architecture": kind, "d_in": D, "d_out": D, "d_sae": N, "dtype": "float32",
              "apply_b_dec_to_input": False, "normalize_activations": "none", "metadata": said}  # fmt: skip
    said.update(more.pop("metadata", {}))
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps({**config, **more}))
    save_file(w, folder / "sae_weights.safetensors")
    return folder


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def fired(x: Tensor, w: dict[str, Tensor]) -> Tensor:
    pre = x @ w["W_enc"] + w["b_enc"]
    return pre.relu() * (pre > w["threshold"] if "threshold" in w else 1)


def check(ours: Dictionary, w: dict[str, Tensor]) -> None:
    """Activations, reconstruction and edits are y = act(xW_enc + b_enc)W_dec + b_dec + x W_skipᵀ."""
    x = 3 * torch.randn(50, D, generator=torch.Generator().manual_seed(1))
    y, a = torch.randn(50, D), fired(x, w)
    assert 0 < (a > 0).float().mean() < 1
    close(ours.encode(x), a)
    close(ours.decode(a, x, y), a @ w["W_dec"] + w["b_dec"] + (x @ w["W_skip"].T if "W_skip" in w else 0))
    feature = torch.arange(50) % N
    made = ours.edit(x, feature, a[range(50), feature], torch.full((50,), 0.5))
    assert list(made) == [Site(LAYER, "mlp_out")]
    close(made[Site(LAYER, "mlp_out")], (0.5 - a[range(50), feature]).unsqueeze(1) * w["W_dec"][feature])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("hook", "site"), [("mlp.hook_in", "mlp_in"), ("hook_resid_mid", "resid_mid")])
def test_saelens_transcoders_read_one_site_and_write_another(tmp_path: Path, kind: str, hook: str, site: str) -> None:
    w = drawn(*parts(kind))
    ((recorded, loaded),) = take(write(tmp_path / "one", kind, w, hook)).values()
    facts = recorded.facts
    assert (facts.site, facts.writes) == (loaded.reads, loaded.written)
    assert (facts.site, facts.writes) == (Site(LAYER, site), (Site(LAYER, "mlp_out"),))
    assert (facts.skip, facts.normalized, facts.centre_out) == ("skip" in kind, False, False)
    assert facts.architecture == ("jumprelu" if "jumprelu" in kind else "standard")
    assert recorded.document()["writes"] == ((LAYER, "mlp_out"),)
    check(loaded, w)


def test_centred_weights_take_the_mean_from_what_it_reads_and_from_what_it_writes(tmp_path: Path) -> None:
    """Of LayerNorm's models only; what the skip connection reads is without its mean, too."""
    w = drawn("W_skip")
    said = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    folder = write(tmp_path / "one", "skip_transcoder", w, "hook_resid_mid", metadata=said)
    ((recorded, loaded),) = take(folder).values()
    assert (recorded.facts.centre, recorded.facts.centre_out, recorded.facts.centre_stated) == (True, True, True)
    files = Files(folder / "sae_weights.safetensors", folder / "cfg.json")
    rms = _read.facts(files, norms_subtract_mean=False)
    assert (rms.centre, rms.centre_out, rms.centre_stated) == (False, False, True)
    ours = fitted(loaded, recorded, None)  # type: ignore[arg-type]  # its model has nothing to add
    x, y = torch.randn(50, D) + 2, torch.randn(50, D) - 1
    seen = x - x.mean(1, keepdim=True)
    a = fired(seen, w)
    close(ours.encode(x), a)
    said_there = a @ w["W_dec"] + w["b_dec"] + seen @ w["W_skip"].T
    close(ours.decode(a, x, y), said_there + y.mean(1, keepdim=True))
    (delta,) = ours.edit(x[:1], torch.tensor([2]), torch.tensor([1.0]), torch.tensor([0.0])).values()
    close(delta[0], -w["W_dec"][2] + w["W_dec"][2].mean())


@pytest.mark.parametrize("kind", KINDS)
def test_a_norms_weights_are_folded_into_what_reads_without_them(tmp_path: Path, kind: str) -> None:
    w, norm = (
        drawn(*parts(kind)),
        NormWeights(torch.tensor([0.5, -2.0, 1.5, 0.01]), torch.tensor([0.1, 0.0, -3.0, 0.2])),
    )
    folder = write(tmp_path / "one", kind, w)
    loaded = _read.sae(Files(folder / "sae_weights.safetensors", folder / "cfg.json"))
    ours = with_norm(loaded, norm)
    normal = torch.randn(50, D)
    x, a = normal * norm.gain + norm.bias, fired(normal, w)
    close(ours.encode(x), a)
    close(ours.decode(a, x, x), loaded.decode(a, normal, normal))
    assert "is 0 in 1 of 4" in refused(lambda: with_norm(loaded, norm._replace(gain=torch.eye(4)[1] - 1))).message


@pytest.mark.parametrize("apply_b_dec", [True, False])
def test_so_are_those_of_an_sae_which_writes_where_it_reads(apply_b_dec: bool) -> None:
    w, norm = drawn(), NormWeights(torch.tensor([0.5, -2.0, 1.5, 0.1]), torch.tensor([0.1, 0.0, -3.0, 0.2]))
    site = Site(LAYER, "mlp_in")
    from circuitcli.core.activations.standard import Relu

    tensors = [w[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")]
    loaded = Dictionary(site, site, Relu(), *tensors, apply_b_dec_to_input=apply_b_dec)
    ours, normal = with_norm(loaded, norm), torch.randn(50, D)
    x, a = normal * norm.gain + norm.bias, loaded.encode(normal)
    close(ours.encode(x), a)
    close(ours.decode(a, x), loaded.decode(a, normal) * norm.gain + norm.bias)


@pytest.mark.parametrize("module", [None, "sae_training.config"])
def test_the_first_pickles_subtract_one_bias_and_add_another(tmp_path: Path, module: str | None) -> None:
    """They were trained on the processed model: no weights of the norm are in what is read, no mean in what is not."""
    w = drawn("b_dec_out")
    config = {"hook_point": f"blocks.{LAYER}.ln2.hook_normalized", "hook_point_layer": LAYER, "d_in": D, "d_out": D,
              "out_hook_point": f"blocks.{LAYER}.hook_mlp_out", "out_hook_point_layer": LAYER, "is_transcoder": True,
              "d_sae": N, "hook_point_head_index": None, "context_size": 128, "is_sparse_connection": False,
              "model_name": "gpt2-small", "dtype": torch.float32, "device": torch.device("cpu")}  # fmt: skip
    name = f"final_sparse_autoencoder_gpt2-small_blocks.{LAYER}.ln2.hook_normalized_{N}.pt"
    files = Files(pickled.save_first_format(tmp_path / name, module, config, w), None)
    facts, ours = _read.facts(files), _read.sae(files)
    assert (facts.site, facts.writes) == (Site(LAYER, "mlp_in"), (Site(LAYER, "mlp_out"),))
    assert (facts.normalized, facts.centre, facts.centre_out, facts.centre_stated) == (True, False, True, True)
    assert (facts.prepend_bos, facts.context_size) == (False, 128)
    x, y = torch.randn(50, D), torch.randn(50, D)
    a = ((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    close(ours.encode(x), a)
    close(ours.decode(a, x, y), a @ w["W_dec"] + w["b_dec_out"] + y.mean(1, keepdim=True))


def test_a_release_may_know_that_a_folder_of_an_sae_is_a_transcoder(tmp_path: Path) -> None:
    """As of those that were saved when SAELens had no word for them, with the bias of what they write as b_dec."""
    w = drawn()
    folder = write(tmp_path / "one", "standard", w, "ln2.hook_normalized", metadata={"hook_name_out": None}, d_out=None)
    stated = Stated(writes=Site(LAYER, "mlp_out"), normalized=True, center_writing_weights=True)
    files = Files(folder / "sae_weights.safetensors", folder / "cfg.json", stated)
    assert _read.facts(files).writes == (Site(LAYER, "mlp_out"),)
    x, y = torch.randn(50, D), torch.randn(50, D)
    close(_read.sae(files).encode(x), fired(x, w))
    close(_read.sae(files).decode(fired(x, w), x, y), fired(x, w) @ w["W_dec"] + w["b_dec"] + y.mean(1, keepdim=True))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"apply_b_dec_to_input": True}, "subtracts b_dec"),
        ({"metadata": {OUT[0]: None}}, "names no hook that it writes"),
        ({"metadata": {OUT[0]: f"blocks.{LAYER + 1}.hook_mlp_out"}}, "reads 3.mlp_in and writes 4.mlp_out"),
        ({"metadata": {OUT[0]: f"blocks.{LAYER}.hook_resid_post"}}, "writes 3.resid_post"),
        ({"metadata": {OUT[0]: "transformer.h.3.mlp"}}, "transformer.h.3.mlp"),
        ({"metadata": {"hook_name": f"blocks.{LAYER}.hook_resid_pre"}}, "reads 3.resid_pre"),
        ({"hook_layer_out": LAYER + 1}, "hook_layer_out = 4"),
        ({"hook_head_index_out": 0}, "hook_head_index_out = 0"),
        ({"d_out": D + 1}, "d_out = 5"),
        ({"use_skip": True}, "use_skip = True"),
        ({"is_crosscoder": True}, "is_crosscoder = True"),
        ({"architecture": "skip_transcoder"}, "has no W_skip"),
        ({"architecture": "jumprelu_transcoder"}, "has no threshold"),
        ({"d_sae": N + 1}, "W_enc has shape (4, 6)"),
    ],
)
def test_a_transcoder_that_is_not_supported_is_refused_by_name(
    tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    assert words in refused(lambda: take(write(tmp_path / "one", "transcoder", drawn(), **more))).message


@pytest.mark.parametrize(("name", "turned"), [("W_enc", "(4, 6)"), ("W_dec", "(6, 4)"), ("W_skip", None)])
def test_transposed_weights_are_refused_where_the_shape_tells(tmp_path: Path, name: str, turned: str | None) -> None:
    w = drawn("W_skip")
    w[name] = w[name].T.contiguous()
    if turned is None:  # square: `circuit doctor` tells
        take(write(tmp_path / "one", "skip_transcoder", w))
    else:
        error = refused(lambda: take(write(tmp_path / "one", "skip_transcoder", w)))
        assert f"{name} has shape" in error.message
        assert turned in error.hint
