"""Raw weights and TransformerLens's processed ones: what its processing does to activations is undone exactly.

SAEs such as res-jb and hook-z-kk were trained on the processed model. Here the second route is TransformerLens's own
processing (folded norms, centred writing weights, folded value biases) of the same checkpoint.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import FAMILIES, LAYERS, VOCAB, save_checkpoint
from support.tiny import load_model
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from circuitcli.core.activations.standard import Relu
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.frame import Frame
from circuitcli.core.sites import Site
from circuitcli.runtime.model import BridgeModel

LAYER_NORM = ("gpt2", "neox")
CENTRED = ("resid_pre", "attn_out", "mlp_out", "resid_post")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[BridgeModel, Any]]:
    """Each family as this package loads it, and processed."""
    found = {}
    for family in FAMILIES:
        folder = save_checkpoint(family, tmp_path_factory.mktemp(family))
        found[family] = (load_model(folder), processed(folder))
    return found


def processed(folder: Path) -> Any:
    bridge = TransformerBridge.boot_transformers(str(folder), device="cpu", dtype=torch.float32)
    bridge.enable_compatibility_mode()
    return bridge


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, VOCAB, (3, 9), generator=torch.Generator().manual_seed(7))


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()))


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_mlps_input_without_its_norms_weights_is_that_of_the_processed_model(
    both: Any, tokens: Tensor, family: str, layer: int
) -> None:
    """Folding puts them into the MLP; of Gemma's gain 1 is left out in the files."""
    model, other = both[family]
    gain, bias = model.norm_weights(layer)
    raw = model.run(tokens, [Site(layer, "mlp_in")]).sites[Site(layer, "mlp_in")]
    theirs = other.run_with_cache(tokens)[1][f"blocks.{layer}.mlp.hook_in"]
    assert (gain - 1).abs().max() > 0.01
    assert bool(bias.any()) == (family in LAYER_NORM)
    close((raw - bias) / gain, theirs)


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("family", FAMILIES)
def test_z_without_its_offset_is_that_of_the_processed_model(
    both: Any, tokens: Tensor, family: str, layer: int
) -> None:
    model, other = both[family]
    site = Site(layer, "z")
    with torch.no_grad():
        _, cache = other.run_with_cache(tokens)
    raw, offset = model.run(tokens, [site]).sites[site], model.z_offset(layer)
    close(raw - offset, cache[site.hook].flatten(2))
    assert offset.shape == (model.shape.d_z,)
    assert (offset.abs().max() > 0.1) == (family in LAYER_NORM), "only norms and projections with biases leave any"


@pytest.mark.parametrize("name", CENTRED)
@pytest.mark.parametrize("family", LAYER_NORM)
def test_a_centred_sae_sees_the_processed_models_stream(both: Any, tokens: Tensor, family: str, name: str) -> None:
    model, other = both[family]
    site = Site(1, name)
    width = model.shape.width(name)
    identity = Dictionary(
        site, site, Relu(), torch.eye(width), torch.zeros(width), torch.eye(width), torch.zeros(width)
    )
    centred = replace(identity, frame=Frame(centre=True))
    with torch.no_grad():
        _, cache = other.run_with_cache(tokens)
    raw = model.run(tokens, [site]).sites[site]
    close(centred.encode(raw), identity.encode(cache[site.hook]))
    assert raw.mean(-1).abs().max() > 0.05, "the mean must matter for the comparison to mean anything"


def test_an_offset_is_in_the_frame_of_encoding_and_decoding(both: Any, tokens: Tensor) -> None:
    model, other = both["gpt2"]
    site = Site(2, "z")
    draw = torch.Generator().manual_seed(1)
    d_z, d_sae = model.shape.d_z, 3 * model.shape.d_z
    weights = [torch.randn(shape, generator=draw) for shape in ((d_z, d_sae), (d_sae,), (d_sae, d_z), (d_z,))]
    trained = Dictionary(site, site, Relu(), *weights)
    told = replace(trained, frame=Frame(offset=model.z_offset(2)))
    with torch.no_grad():
        _, cache = other.run_with_cache(tokens)
    x, theirs = model.run(tokens, [site]).sites[site], cache[site.hook].flatten(2)
    close(told.encode(x), trained.encode(theirs))
    close(told.decode(told.encode(x), x) - x, trained.decode(trained.encode(theirs), theirs) - theirs)
