"""SAELens's transcoders on files that SAELens wrote, and other formats by its own loaders: activations and outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support import layouts
from torch import Tensor

pytest.importorskip("sae_lens", reason="SAELens isn't here: it needs transformer_lens < 4 (`nox -s saelens`)")

from sae_lens.loading import pretrained_sae_loaders as loaders
from sae_lens.saes.sae import SAE, SAEMetadata
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)

from circuitcli import plugins
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from circuitcli.saes import _read
from circuitcli.saes._files import Files

pytestmark = [pytest.mark.saelens, pytest.mark.filterwarnings("ignore")]

D, N, LAYER = 16, 96, 2
TOLERANCE, BORDER, FEW = 1e-5, 1e-4, 0.005
KINDS: dict[str, tuple[Any, Any]] = {
    "transcoder": (Transcoder, TranscoderConfig),
    "skip_transcoder": (SkipTranscoder, SkipTranscoderConfig),
    "jumprelu_transcoder": (JumpReLUTranscoder, JumpReLUTranscoderConfig),
    "jumprelu_skip_transcoder": (JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig),
}
NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")
X = torch.randn(40, 9, D, generator=torch.Generator().manual_seed(1)) * 2 + 0.4


def write(folder: Path, kind: str, normalisation: str = "none", dtype: str = "float32") -> Files:
    """A folder that SAELens saved, its tensors at random."""
    made, config = KINDS[kind]
    hooks = {"hook_name": f"blocks.{LAYER}.mlp.hook_in", "hook_name_out": f"blocks.{LAYER}.hook_mlp_out"}
    metadata = SAEMetadata(model_name="gpt2", prepend_bos=False, context_size=64, **hooks)
    one = made(config(d_in=D, d_out=D, d_sae=N, dtype=dtype, apply_b_dec_to_input=False,
                      normalize_activations=normalisation, metadata=metadata))  # fmt: skip
    draw = torch.Generator().manual_seed(7)
    for name, scale, shift in (("W_enc", 0.25, 0.0), ("W_dec", 0.25, 0.0), ("b_enc", 0.3, -0.8), ("b_dec", 0.5, 0.0),
                               ("threshold", 0.3, 0.5), ("W_skip", 0.2, 0.0)):  # fmt: skip
        tensor = getattr(one, name, None)
        if tensor is not None:
            tensor.data = (torch.randn(tensor.shape, generator=draw) * scale + shift).to(tensor.dtype)
    one.save_model(folder)
    return Files(folder / "sae_weights.safetensors", folder / "cfg.json")


def check(ours: Dictionary, theirs: Any, x: Tensor, reached: Tensor | None = None) -> None:
    """Activations, what is said of the output, and what ablating one feature changes of that."""
    with torch.no_grad():
        a = theirs.encode(x)
        pre = theirs.process_sae_in(x) @ theirs.W_enc + theirs.b_enc
        near = (pre - getattr(theirs, "threshold", torch.zeros(()))).abs() < BORDER
        assert near.float().mean() < FEW
        assert 0.02 < (a > 0).float().mean() < 0.7
        mine = ours.encode(x)
        assert ((mine - a).abs() * ~near).max() <= TOLERANCE * a.abs().max()
        said = theirs(x) if reached is None else reached
        ours_said = ours.decode(a, x, torch.zeros_like(said))
        assert (ours_said - said).abs().max() <= TOLERANCE * said.abs().max()
        rows, flat = x.flatten(0, -2), a.flatten(0, -2)
        feature = torch.arange(len(rows)) % a.shape[-1]
        without = flat.clone()
        without[range(len(rows)), feature] = 0
        change = theirs.decode(without) - theirs.decode(flat)
        (delta,) = ours.edit(rows, feature, flat[range(len(rows)), feature], torch.zeros(len(rows))).values()
        assert (delta - change).abs().max() <= TOLERANCE * max(1.0, float(said.abs().max()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_transcoders_that_saelens_saved(tmp_path: Path, kind: str, normalisation: str, dtype: str) -> None:
    saved = write(tmp_path, kind, normalisation, dtype)
    facts, ours = _read.facts(saved), _read.sae(saved)
    theirs = SAE.load_from_disk(tmp_path, dtype="float32")
    assert theirs.cfg.architecture() == kind
    assert facts.site == Site(LAYER, "mlp_in")
    assert facts.writes == (Site(LAYER, "mlp_out"),)
    assert facts.skip == ("skip" in kind)
    check(ours, theirs, X)


@pytest.mark.parametrize("kind", KINDS)
def test_their_names_for_gemmas_hooks_are_understood(tmp_path: Path, kind: str) -> None:
    """Their registry calls hook_mlp_in what Gemma's norm gives; its module says so."""
    saved = write(tmp_path, kind)
    assert saved.config is not None
    told = json.loads(saved.config.read_text())
    told["metadata"] |= {"hook_name": f"blocks.{LAYER}.hook_mlp_in",
                         "hf_hook_name": f"model.layers.{LAYER}.pre_feedforward_layernorm.output"}  # fmt: skip
    saved.config.write_text(json.dumps(told))
    assert _read.facts(saved).site == Site(LAYER, "mlp_in")


def in_folder(folder: Path) -> list[tuple[Site, Dictionary]]:
    source = plugins.load("saes", "local")
    located = source.locate(str(folder), "main", source.sites(str(folder), "main"))
    return [(one.site, _read.sae(one.files({}))) for one in located]


def loaded(monkeypatch: pytest.MonkeyPatch, loader: Any, folder: Path, name: str) -> Any:
    """By one of their loaders from the hub, whose files are here."""

    def here(repo_id: str, filename: str, subfolder: str | None = None, **more: Any) -> str:
        return str(folder / (subfolder or "") / filename)

    def shapes(repo_id: str, filename: str) -> dict[str, list[int]]:
        return {name: list(tensor.shape) for name, tensor in load_file(folder / filename).items()}

    monkeypatch.setattr(loaders, "hf_hub_download", here)
    monkeypatch.setattr(loaders, "get_safetensors_tensor_shapes", shapes)
    config, state, _ = loader("google/gemma-scope-2-270m-pt", name)
    made = SAE.from_dict(loaders.handle_config_defaulting(config))
    made.load_state_dict(state)
    return made


@pytest.mark.parametrize("skip", [False, True])
def test_gemma_scope_2_by_their_loader(tmp_path: Path, skip: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "D", D)
    monkeypatch.setattr(layouts, "N", N)
    folder = layouts.save_gemma(tmp_path / "transcoder_all", layouts.per_layer("jumprelu", skip=skip))
    for place in folder.iterdir():
        told = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**told, "affine_connection": skip}))
    for site, ours in in_folder(folder):
        name = f"transcoder_all/layer_{site.layer}_width_16k_l0_small"
        check(ours, loaded(monkeypatch, loaders.gemma_3_sae_huggingface_loader, tmp_path, name), X / 8)
