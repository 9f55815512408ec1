"""A random GPT-2 of three small blocks, random SAEs at all its sites, and a text: all made here, in a second."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from circuitcli import demo
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from circuitcli.runtime.checkpoint import find
from circuitcli.runtime.device import make
from circuitcli.runtime.model import BridgeModel, load
from circuitcli.saes._locate import in_folder
from circuitcli.saes._read import sae
from support.plain import PlainModel

# Settings of a small run, over those of the tiny model.
SMALL: dict[str, Any] = {
    "saes": {"sites": ["resid_post"]},
    "graph": {"formats": ["json", "dot"]},
}

LAYERS, D_MODEL, HEADS, VOCAB, N_CTX, D_SAE, K = 3, 32, 4, 4096, 32, 40, 6
# Each site's architecture, so that every one of them is both edited and read.
KINDS = {
    "resid_pre": ("topk", "none"),
    "z": ("jumprelu", "none"),
    "attn_out": ("standard", "none"),
    "resid_mid": ("topk", "layer_norm"),
    "mlp_in": ("jumprelu", "none"),
    "mlp_out": ("standard", "layer_norm"),
    "resid_post": ("jumprelu", "layer_norm"),
}
WORDS = (
    "and",
    "the",
    "light",
    "of",
    "earth",
    "was",
    "upon",
    "waters",
    "day",
    "night",
    "void",
    "deep",
    "spirit",
    "face",
)
FIRING = 0.15  # share of positions at which a feature of a standard or jumprelu SAE fires, by its bias or threshold


def save_model(folder: Path, *, seed: int = 0) -> Path:
    """A checkpoint whose every parameter matters, norms and biases too, with the demo's tokenizer."""
    torch.manual_seed(seed)
    config = GPT2Config(
        n_layer=LAYERS, n_embd=D_MODEL, n_head=HEADS, n_positions=N_CTX, vocab_size=VOCAB,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    for name, parameter in model.named_parameters():
        spread = 0.4 if "wte" in name or "wpe" in name else 0.2
        parameter.data += torch.randn_like(parameter) * spread
    model.save_pretrained(folder)
    return with_tokenizer(folder)


def with_tokenizer(folder: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(demo.MODEL / name, folder / name)
    return folder


def save_centred(source: Path, folder: Path) -> Path:
    """The same model with the mean over d_model taken from all that writes to the stream; its unembedding is kept."""
    model = GPT2LMHeadModel.from_pretrained(source)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for name in state:
        writes = name.endswith(("wte.weight", "wpe.weight")) or ".c_proj." in name
        if writes:
            state[name] = state[name] - state[name].mean(-1, keepdim=True)
    untied = GPT2LMHeadModel(GPT2Config(**{**model.config.to_dict(), "tie_word_embeddings": False}))
    untied.load_state_dict(state)
    untied.save_pretrained(folder)
    return with_tokenizer(folder)


def save_text(path: Path, *, documents: int = 40, seed: int = 0) -> Path:
    """Random words, in documents of different lengths."""
    draw = random.Random(seed)
    lines = [" ".join(draw.choices(WORDS, k=draw.randint(3, 14))) for _ in range(documents)]
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


def save_saes(folder: Path, model: Path, *, seed: int = 0) -> Path:
    """One SAELens folder for each site of each layer, whose biases and thresholds let a modest number fire."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCAB, (12, 16), generator=generator)
    plain = PlainModel(model)
    reads = [plain.run(row)[0] for row in tokens]
    for place in sorted(reads[0], key=lambda place: place[1] == "mlp_in"):  # last: what the others draw stays
        x = torch.cat([read[place][1:] for read in reads])
        save_sae(folder / f"{place[0]}.{place[1]}", place, *KINDS[place[1]], x, generator)
    return folder


def save_sae(
    folder: Path, place: tuple[int, str], architecture: str, normalisation: str, x: Tensor, generator: torch.Generator
) -> None:
    """A random SAE for activations like x."""
    x = x.double()
    scale = x.std()
    normal = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True) if normalisation == "layer_norm" else x
    d_in = x.shape[1]
    w_dec = torch.randn(D_SAE, d_in, generator=generator).double() / d_in**0.5
    w_enc = (w_dec + 0.5 * torch.randn(D_SAE, d_in, generator=generator).double() / d_in**0.5).T
    b_dec = normal.mean(0) + 0.1 * normal.std() * torch.randn(d_in, generator=generator).double()
    pre = (normal - b_dec) @ w_enc
    bar = pre.quantile(1 - FIRING, dim=0)
    small = 0.05 * pre.std() * torch.rand(D_SAE, generator=generator).double()
    weights = {"W_enc": w_enc, "W_dec": w_dec * (1 if normalisation == "layer_norm" else 1 / scale.clamp(max=1))}
    weights |= {"b_dec": b_dec, "b_enc": small - (bar if architecture == "standard" else 0)}
    if architecture == "jumprelu":
        weights["threshold"] = (bar + small).clamp(min=1e-3)
    folder.mkdir(parents=True)
    save_file({name: value.float().contiguous() for name, value in weights.items()}, folder / "sae_weights.safetensors")
    (folder / "cfg.json").write_text(json.dumps(config(place, architecture, normalisation, d_in)))


def config(place: tuple[int, str], architecture: str, normalisation: str, d_in: int) -> dict[str, Any]:
    """A cfg.json as SAELens 6 writes it."""
    end = {"z": "attn.hook_z", "mlp_in": "mlp.hook_in"}.get(place[1], f"hook_{place[1]}")
    return {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": D_SAE,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": normalisation,
        **({"k": K} if architecture == "topk" else {}),
        "metadata": {
            "hook_name": f"blocks.{place[0]}.{end}",
            "prepend_bos": True,
            "model_from_pretrained_kwargs": {"center_writing_weights": False},
        },
    }


def load_model(folder: Path, dtype: str = "float32") -> BridgeModel:
    """The model in a folder, as circuitcli loads it."""
    return load(find(str(folder)), make("cpu", dtype, None, seed=0))


def load_saes(folder: Path) -> dict[Site, Dictionary]:
    """The SAEs in a folder, as circuitcli loads them."""
    return {located.site: sae(located.files({})) for located in in_folder(folder)}


def save_as_centred(source: Path, folder: Path) -> Path:
    """The same SAEs, said to be trained on a model whose writing weights are centred."""
    shutil.copytree(source, folder)
    for path in folder.glob("*/cfg.json"):
        tree = json.loads(path.read_text())
        tree["metadata"]["model_from_pretrained_kwargs"]["center_writing_weights"] = True
        path.write_text(json.dumps(tree))
    return folder
