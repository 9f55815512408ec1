"""Law 7: our encode and decode equal SAELens's on the same files within 1e-5.

SAELens writes the folders and reads them back with its own loader; we read the same files. A latent whose
pre-activation lies within 1e-4 of its threshold, or of the border between the k-th and the next value, may fire here
and not there: such are left out and counted.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("sae_lens", reason="SAELens isn't here: it needs transformer_lens < 4 (`nox -s saelens`)")

from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.sae import SAE, SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig, TopKTrainingSAE, TopKTrainingSAEConfig

from circuitcli import demo
from circuitcli.core.sae import Sae
from circuitcli.core.sites import Site
from circuitcli.saes.demo import plugin as demo_source
from circuitcli.saes.local import plugin as local

pytestmark = [pytest.mark.saelens, pytest.mark.filterwarnings("ignore")]

HEADS, D_IN, D_SAE, K = 4, 16, 96, 7
TOLERANCE, BORDER, FEW = 1e-5, 1e-4, 0.005
HOOKS = ("blocks.2.hook_resid_post", "blocks.2.hook_attn_out", "blocks.2.hook_mlp_out", "blocks.2.attn.hook_z")
KINDS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "standard": (StandardSAE, StandardSAEConfig, {}),
    "topk": (TopKSAE, TopKSAEConfig, {"k": K}),
    "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
}


def write(
    folder: Path,
    kind: str,
    hook: str = HOOKS[0],
    *,
    apply_b_dec: bool = True,
    normalisation: str = "none",
    dtype: str = "float32",
) -> Path:
    """A folder that SAELens saved, with random weights, biases and thresholds."""
    sae_class, config_class, more = KINDS[kind]
    metadata = SAEMetadata(model_name="gpt2", hook_name=hook, prepend_bos=False, context_size=64)
    config = config_class(
        d_in=D_IN, d_sae=D_SAE, dtype=dtype, apply_b_dec_to_input=apply_b_dec, normalize_activations=normalisation,
        reshape_activations="hook_z" if hook.endswith("_z") else "none", metadata=metadata, **more,
    )  # fmt: skip
    sae = sae_class(config)
    randomise(sae)
    sae.save_model(folder)
    return folder


def randomise(sae: Any) -> None:
    """Weights of order 1, biases so low that some of the k largest are negative, thresholds on both sides of 0."""
    draw = torch.Generator().manual_seed(11)

    def normal(like: Tensor, scale: float, shift: float = 0.0) -> Tensor:
        return (torch.randn(like.shape, generator=draw) * scale + shift).to(like.dtype)

    sae.W_enc.data = normal(sae.W_enc, D_IN**-0.5)
    sae.W_dec.data = normal(sae.W_dec, D_IN**-0.5)
    sae.b_dec.data = normal(sae.b_dec, 0.5)
    sae.b_enc.data = normal(sae.b_enc, 0.3, shift=-1.3)
    if hasattr(sae, "threshold"):
        sae.threshold.data = normal(sae.threshold, 0.4, shift=0.5)


def activations(d_in: int = D_IN) -> Tensor:
    """As a model's: an offset, and sizes that differ from row to row."""
    draw = torch.Generator().manual_seed(12)
    size = torch.rand(40, 9, 1, generator=draw) * 3 + 0.5
    return torch.randn(40, 9, d_in, generator=draw) * size + 0.4


def near_border(ours: Sae, pre: Tensor) -> Tensor:
    """Which latents may flip. Their order around the border is what rounding can change, whatever their values."""
    if ours.activation == "topk":
        assert ours.k is not None
        top = pre.topk(ours.k + 1).values
        kth, following = top[..., -2:-1], top[..., -1:]
        return (kth - following < BORDER) & (((pre - kth).abs() < BORDER) | ((pre - following).abs() < BORDER))
    threshold = ours.threshold if ours.threshold is not None else torch.tensor(-torch.inf)  # relu is continuous
    return (pre - threshold).abs() < BORDER


def assert_equal(ours: Sae, folder: Path, x: Tensor) -> None:
    """Law 7, by SAELens's own loader of the same folder."""
    theirs = SAE.load_from_disk(folder, dtype="float32")
    shaped = x.unflatten(-1, (HEADS, -1)) if theirs.cfg.reshape_activations == "hook_z" else x
    pre: list[Tensor] = []
    theirs.hook_sae_acts_pre.register_forward_hook(lambda module, args, out: pre.append(out.detach().clone()))
    with torch.no_grad():
        a = theirs.encode(shaped)
        decoded = theirs.decode(a).reshape(x.shape)
    mine = ours.encode(x)
    left_out = near_border(ours, pre[0])
    assert left_out.float().mean() <= FEW, "too many latents on the border for a comparison"
    assert (a > 0).float().mean() > 0.01, "nothing fires"
    assert_close(mine[~left_out], a[~left_out])
    assert_close(ours.decode(a, x), decoded)
    whole = ~left_out.any(-1)
    assert_close(ours.decode(mine, x)[whole], decoded[whole])


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    error = (ours - theirs).abs() / theirs.abs().clamp(min=1)
    assert error.max() <= TOLERANCE, f"{error.max():.1e}"


def read(folder: Path, site: Site) -> Sae:
    """As `circuit fetch-saes` and then any later command read it."""
    assert set(local.folders(str(folder))) == {site}
    return local.load(local.entry(site, folder))


@pytest.mark.parametrize(("kind", "apply_b_dec"), product(KINDS, [True, False]))
@pytest.mark.parametrize("normalisation", ["none", "layer_norm"])
@pytest.mark.parametrize("hook", HOOKS)
def test_every_kind_that_saelens_saves(
    tmp_path: Path, kind: str, apply_b_dec: bool, normalisation: str, hook: str
) -> None:
    folder = write(tmp_path / "sae", kind, hook, apply_b_dec=apply_b_dec, normalisation=normalisation)
    ours = read(folder, Site(2, hook.rsplit("hook_", 1)[1]))
    assert (ours.d_in, ours.d_sae) == (D_IN, D_SAE)
    assert_equal(ours, folder, activations())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_half_precision(tmp_path: Path, kind: str, dtype: str) -> None:
    folder = write(tmp_path / "sae", kind, normalisation="layer_norm", dtype=dtype)
    ours = read(folder, Site(2, "resid_post"))
    assert ours.w_enc.dtype == torch.float32
    assert_equal(ours, folder, activations())


@pytest.mark.parametrize(
    ("training", "config", "architecture"),
    [
        (TopKTrainingSAE, TopKTrainingSAEConfig, "topk"),
        (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, "jumprelu"),
    ],
)
def test_what_training_saves_for_inference(tmp_path: Path, training: Any, config: Any, architecture: str) -> None:
    metadata = SAEMetadata(hook_name=HOOKS[0], prepend_bos=True)
    trained = training(config(D_IN, D_SAE, k=K, rescale_acts_by_decoder_norm=False, metadata=metadata))
    randomise(trained)
    if architecture == "jumprelu":
        trained.topk_threshold = torch.tensor(0.7, dtype=torch.double)
    trained.save_inference_model(tmp_path)
    entry = local.entry(Site(2, "resid_post"), tmp_path)
    assert (entry.architecture, entry.prepend_bos) == (architecture, True)
    assert_equal(local.load(entry), tmp_path, activations())


# As the files on the hub have it: the first (res-jb) names no architecture, the last is OpenAI's TopK v5.
OLD = [
    ("standard", "none", {"hook_point": "blocks.2.hook_resid_pre", "hook_point_layer": 2}),
    ("standard", "none", {"hook_name": "blocks.2.attn.hook_z", "hook_layer": 2, "architecture": "standard",
                          "activation_fn_str": "relu", "activation_fn_kwargs": {}, "normalize_activations": False,
                          "apply_b_dec_to_input": False}),
    ("jumprelu", "none", {"hook_name": "blocks.2.hook_mlp_out", "hook_layer": 2, "architecture": "jumprelu",
                          "activation_fn_str": "relu", "activation_fn_kwargs": None, "normalize_activations": None,
                          "apply_b_dec_to_input": False}),
    ("topk", "layer_norm", {"hook_point": "blocks.2.hook_resid_post", "hook_point_layer": 2, "architecture": "standard",
                            "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K},
                            "normalize_activations": "layer_norm", "prepend_bos": False}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "normalisation", "old"), OLD)
def test_configurations_from_before_saelens_6(
    tmp_path: Path, kind: str, normalisation: str, old: dict[str, Any]
) -> None:
    folder = write(tmp_path, kind, normalisation=normalisation)
    config = {"model_name": "gpt2", "d_in": D_IN, "d_sae": D_SAE, "dtype": "torch.float32", "device": "cpu", **old}
    (folder / "cfg.json").write_text(json.dumps(config))
    hook = config.get("hook_name") or config["hook_point"]
    site = Site(2, hook.rsplit("hook_", 1)[1])
    entry = local.entry(site, folder)
    assert entry.architecture == kind
    theirs = SAE.load_from_disk(folder)
    assert theirs.cfg.metadata.hook_name == hook == site.hook
    assert theirs.cfg.metadata.prepend_bos == entry.prepend_bos
    assert_equal(read(folder, site), folder, activations())


def demo_folders() -> list[str]:
    return sorted(path.name for path in demo.SAES.iterdir() if path.is_dir())


@pytest.mark.parametrize("name", demo_folders())
def test_the_demos_saes(name: str) -> None:
    folder = demo.SAES / name
    site = {path.name: site for site, path in demo_source.folders("demo").items()}[name]
    ours = demo_source.load(demo_source.entry(site, folder))
    assert_equal(ours, folder, activations(ours.d_in))
