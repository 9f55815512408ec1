"""A Llama of 135 million parameters and an SAE of its stream, random: a real model's shape, where minutes were lost."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from circuitcli import demo
from support import tiny

LAYERS, D_MODEL, VOCAB = 30, 576, 49_152
L0, BOS = 40, 0


def config(**smaller: int) -> LlamaConfig:
    """SmolLM2-135M's own: grouped keys, RMSNorm, tied."""
    sizes = {
        "num_hidden_layers": LAYERS, "hidden_size": D_MODEL, "intermediate_size": 1536, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": VOCAB, "max_position_embeddings": 8192,
    }  # fmt: skip
    return LlamaConfig(**{**sizes, **smaller}, tie_word_embeddings=True, bos_token_id=BOS, eos_token_id=BOS)


def save_model(folder: Path, shape: LlamaConfig | None = None) -> Path:
    """A random checkpoint with the demo's tokenizer, whose ids are among its own."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(shape or config())
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data += torch.randn_like(parameter) * 0.05
        else:
            parameter.data *= 2  # so that blocks matter beside the embeddings
    model.save_pretrained(folder)
    return tiny.with_tokenizer(folder)


def save_sae(folder: Path, model: Path, layer: int, d_sae: int) -> Path:
    """A tied ReLU dictionary of resid_post: principal components with either sign, then random directions; L0 is 40."""
    x = activations(model, layer)
    b_dec = x.mean(0)
    x = x - b_dec
    w_dec = torch.randn(d_sae, x.shape[1], generator=torch.Generator().manual_seed(layer))
    w_dec /= w_dec.norm(dim=-1, keepdim=True)
    components = torch.linalg.svd(x, full_matrices=False).Vh[: L0 // 2]
    w_dec[: 2 * len(components)] = torch.stack([components, -components], dim=1).flatten(0, 1)
    pre = x[:256] @ w_dec.T
    b_enc = torch.full((d_sae,), -float(pre.topk(L0 // 2 + 1, dim=-1).values[:, -1].median()))
    b_enc[: 2 * len(components)] = 0
    folder.mkdir(parents=True)
    weights = {"W_enc": w_dec.T.contiguous(), "b_enc": b_enc, "W_dec": w_dec, "b_dec": b_dec}
    save_file(weights, folder / "sae_weights.safetensors")
    tree = tiny.config((layer, "resid_post"), "standard", "none", x.shape[1])
    (folder / "cfg.json").write_text(json.dumps({**tree, "d_sae": d_sae}))
    return folder


def activations(model: Path, layer: int, *, count: int = 24, length: int = 64) -> Tensor:
    """resid_post of a layer behind BOS in the demo's text, by plain transformers."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    lines = demo.TEXT.read_text(encoding="utf-8").splitlines()
    ids = tokenizer.encode(" ".join(json.loads(line)["text"] for line in lines[:400])).ids
    size = length - 1
    tokens = torch.tensor([[BOS, *ids[i * size : (i + 1) * size]] for i in range(count)])
    hf = LlamaForCausalLM.from_pretrained(model).model.eval()
    del hf.layers[layer + 1 :]
    hf.norm = torch.nn.Identity()
    with torch.no_grad():
        return hf(tokens).last_hidden_state[:, 1:].flatten(0, 1)
