"""circuit-tracer's transcoders of GPT-2 small at their true size: random weights, of which 50 fire at a position."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from circuitcli.core.sites import Site
from support.tiny import load_model
from support.truesize import D_MODEL, D_SAE, save_model

L0, LAYERS = 50, 12
CONFIG = """\
model_name: openai-community/gpt2
model_kind: transcoder_set
feature_input_hook: mlp.hook_in
feature_output_hook: hook_mlp_out
"""


def save(folder: Path) -> None:
    """A model, and for each of its MLPs a transcoder without a skip connection: 2.3 GB."""
    model = load_model(save_model(folder / "model"))
    into = folder / "transcoders"
    into.mkdir()
    (into / "config.yaml").write_text(CONFIG, encoding="utf-8")
    draw = torch.Generator().manual_seed(0)
    text = torch.randint(0, 50_000, (8, 64), generator=draw)
    for layer in range(LAYERS):
        reads = Site(layer, "mlp_in")
        with torch.no_grad():
            x = model.run(text, [reads]).sites[reads][:, 1:].flatten(0, 1)
        w_enc, w_dec = (torch.randn(D_SAE, D_MODEL, generator=draw) / D_MODEL**0.5 for _ in range(2))
        pre = x @ w_enc.T
        least = pre.flatten().kthvalue(pre.numel() - L0 * len(pre)).values
        weights = {"W_enc": w_enc, "b_enc": (-least).expand(D_SAE), "W_dec": w_dec, "b_dec": torch.zeros(D_MODEL)}
        save_file({name: part.contiguous() for name, part in weights.items()}, into / f"layer_{layer}.safetensors")
