"""GPT-2 small and res-jb at their true size and layout, with random weights: what users fetch, but for its numbers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from circuitcli import demo

D_MODEL, D_SAE, VOCAB, END = 768, 24_576, 50_257, 50_256
L0, PINNED = 60, 112
MODEL, SAES = "openai-community/gpt2", "jbloom/GPT2-Small-SAEs-Reformatted"


def save_model(folder: Path) -> Path:
    """A random checkpoint as `openai-community/gpt2` lays it out: fused, tied, float32, weights without a prefix."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config())
    assert model.num_parameters() == 124_439_808
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # biases and norms begin at 0 and 1, where they would hide mistakes
            parameter.data += torch.randn_like(parameter) * 0.05
        elif "wte" in name or "wpe" in name:
            parameter.data += 0.02  # so that the stream has a mean, which res-jb never saw
    weights = {name: t.contiguous() for name, t in model.transformer.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads(GPT2Config(architectures=["GPT2LMHeadModel"]).to_json_string())
    (folder / "config.json").write_text(json.dumps(config))
    save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    """The demo's byte pairs, filled up to GPT-2's 50,257 tokens, of which the last is <|endoftext|>."""
    tree = json.loads((demo.MODEL / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"] for token in tree["added_tokens"]}
    vocab = {token: i for token, i in tree["model"]["vocab"].items() if token not in special}
    free = iter(sorted(set(range(END)) - set(vocab.values())))
    vocab |= {f"<filler {i}>": i for i in free}
    tree["model"]["vocab"] = vocab | {"<|endoftext|>": END}
    tree["added_tokens"] = [{"id": END, "content": "<|endoftext|>", "single_word": False, "lstrip": False,
                             "rstrip": False, "normalized": False, "special": True}]  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    end = "<|endoftext|>"
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": end, "eos_token": end, "unk_token": end})
    )
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size() == VOCAB


def save_sae(folder: Path, layer: int, x: Tensor) -> Path:
    """A tied dictionary of res-jb's shape, in the words of its cfg.json, which says nothing of centring.

    The largest principal components of activations x [n, d_model], each with either sign, so that the dictionary
    explains much of what there is; of these the pinned feature is the first. All others are random directions, and
    b_enc lets so many of them fire that L0 is 60.
    """
    folder.mkdir(parents=True)
    x = x - x.mean(-1, keepdim=True)
    b_dec = x.mean(0)
    x = x - b_dec
    draw = torch.Generator().manual_seed(layer)
    w_dec = torch.randn(D_SAE, D_MODEL, generator=draw)
    w_dec /= w_dec.norm(dim=-1, keepdim=True)
    components = torch.linalg.svd(x[:2048], full_matrices=False).Vh[: L0 // 2]
    principal = slice(PINNED, PINNED + 2 * len(components))
    w_dec[principal] = torch.stack([components, -components], dim=1).flatten(0, 1)
    pre = x[:512] @ w_dec.T
    rest = (L0 - len(components)) * len(pre)
    b_enc = torch.full((D_SAE,), -float(pre.flatten().kthvalue(pre.numel() - rest).values))
    b_enc[principal] = 0
    save_file(
        {"W_enc": w_dec.T.contiguous(), "b_enc": b_enc, "W_dec": w_dec, "b_dec": b_dec},
        folder / "sae_weights.safetensors",
    )
    config = {
        "model_name": "gpt2-small", "hook_point": f"blocks.{layer}.hook_resid_pre", "hook_point_layer": layer,
        "hook_point_head_index": None, "dataset_path": "Skylion007/openwebtext", "is_dataset_tokenized": False,
        "context_size": 128, "use_cached_activations": False, "d_in": D_MODEL, "expansion_factor": 32, "d_sae": D_SAE,
        "l1_coefficient": 8e-05, "lp_norm": 1, "lr": 0.0004, "device": "cuda", "dtype": "torch.float32",
    }  # fmt: skip
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def activations(model: Path, layers: list[int], texts: list[str], *, length: int = 64) -> dict[int, Tensor]:
    """resid_pre of some layers at the positions behind BOS, by plain transformers."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    rows = [[END, *tokenizer.encode(text).ids[: length - 1]] for text in texts]
    tokens = torch.tensor([row for row in rows if len(row) == length])
    hf = GPT2LMHeadModel.from_pretrained(model).transformer.eval()
    del hf.h[max(layers) + 1 :]
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    with torch.no_grad():
        for part in tokens.split(16):
            states = hf(part, output_hidden_states=True).hidden_states
            for layer in layers:
                found[layer].append(states[layer][:, 1:].flatten(0, 1))
    return {layer: torch.cat(parts) for layer, parts in found.items()}
