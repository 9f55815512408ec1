"""Small random checkpoints of many families, and what is known of each: the table in docs/models-and-text.md."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

LAYERS, D_MODEL, VOCAB = 4, 32, 61
# Whether these are the libraries that the table is of: older ones know fewer kinds.
NEWEST = importlib.metadata.version("transformers").startswith("5.24.")
# One size under all the names that configurations have for it.
_SIZES = {
    "num_hidden_layers": LAYERS, "n_layer": LAYERS, "num_layers": LAYERS,
    "hidden_size": D_MODEL, "n_embd": D_MODEL, "d_model": D_MODEL, "word_embed_proj_dim": D_MODEL,
    "num_attention_heads": 4, "n_head": 4, "num_heads": 4, "n_heads": 4, "attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "rotary_dim": 4,
    "intermediate_size": 48, "ffn_dim": 48, "moe_intermediate_size": 16,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2,
    "max_position_embeddings": 32, "n_positions": 32, "max_seq_len": 32, "n_ctx": 32,
    "vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 16,
}


@dataclass(frozen=True)
class Kept:
    """One kind of checkpoint.

    Attributes:
        kind: `model_type` of its configuration.
        verdict: exact, fast | exact, slow | refused.
        options: What its configuration says besides sizes.
        leave: Sizes that its configuration doesn't take.
        words: What a reader should know: of a refusal, some words of it.
    """

    kind: str
    verdict: str = "exact, fast"
    options: dict[str, Any] = field(default_factory=dict)
    leave: tuple[str, ...] = ()
    words: str = ""

    @property
    def name(self) -> str:
        return " ".join(
            [self.kind, *(f"{k}={'…' if isinstance(v, dict | list) else v}" for k, v in self.options.items())]
        )


ZOO = (
    Kept("gpt2"),
    Kept("gpt2", options={"scale_attn_weights": False}),
    Kept("gpt2", options={"scale_attn_by_inverse_layer_idx": True}),
    Kept("gpt2", options={"reorder_and_upcast_attn": True}),
    Kept("gpt_bigcode"),
    Kept("gpt_neox", options={"attention_bias": True}),
    Kept("gpt_neox", options={"use_parallel_residual": False}),
    Kept("gptj"),
    Kept("codegen"),
    Kept("llama"),
    Kept("llama", options={"attention_bias": True}),
    Kept("mistral", options={"sliding_window": 4}),
    Kept("mixtral"),
    Kept("gemma"),
    Kept("gemma2", options={"sliding_window": 4}),
    Kept("gemma3_text", options={"sliding_window": 4}),
    Kept("qwen2"),
    Kept("qwen2_moe"),
    Kept("qwen3"),
    Kept("qwen3_moe"),
    Kept("phi"),
    Kept("phi3"),
    Kept(
        "phi3",
        options={"original_max_position_embeddings": 16, "rope_parameters": _LONGROPE},
        words="up to its original context",
    ),
    Kept("stablelm"),
    Kept("starcoder2"),
    Kept("olmo"),
    Kept("olmo2"),
    Kept("olmo3"),
    Kept("olmoe"),
    Kept("granite", options={"logits_scaling": 8.0, "residual_multiplier": 0.22, "embedding_multiplier": 12.0}),
    Kept("granitemoe", options={"logits_scaling": 8.0, "residual_multiplier": 0.22}),
    Kept("cohere"),
    Kept("cohere2", options={"sliding_window": 4}),
    Kept("glm"),
    Kept("glm4"),
    Kept("smollm3"),
    Kept("nemotron"),
    Kept("ernie4_5"),
    Kept("exaone4", options={"sliding_window": 4}),
    Kept("hunyuan_v1_dense"),
    Kept("arcee"),
    Kept("seed_oss"),
    Kept("bitnet"),
    Kept("apertus"),
    Kept(
        "gpt_neo",
        "exact, slow",
        {"attention_types": [[["global", "local"], 2]], "window_size": 4},
        words="its attention doesn't go through transformers' interface",
    ),
    Kept("gpt_neox", "refused", {"attention_bias": False}, words="AssertionError"),
    Kept("falcon", "refused", {"alibi": False}, ("head_dim", "rotary_dim")),
    Kept("falcon", "refused", {"alibi": True}, ("head_dim", "rotary_dim")),
    Kept("bloom", "refused", words="can't be resumed from 0.resid_pre"),
    Kept("mpt", "refused", words="can't be resumed from 0.resid_pre"),
    Kept("opt", "refused", words="its MLP is no module of its own"),
    Kept("deepseek_v2", "refused"),
    Kept("deepseek_v3", "refused"),
    Kept("gpt_oss", "refused", words="its MLP gives more than one tensor"),
    Kept("xglm", "refused"),
    Kept("mamba", "refused", words="no attention"),
    Kept("jamba", "refused", words="no attention"),
    Kept("persimmon", "refused", words="TransformerLens doesn't bridge it"),
)


def save(kept: Kept, folder: Path) -> Path | None:
    """A random checkpoint whose every parameter matters, with a tokenizer; None where transformers has no such kind."""
    if kept.kind not in CONFIG_MAPPING:
        return None
    sizes = {key: value for key, value in _SIZES.items() if key not in kept.leave}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kept.kind](**sizes | kept.options))
    for name, parameter in model.named_parameters():
        spread = 1.0 if "embed" in name or "wte" in name else 0.3 if parameter.ndim == 1 else 0.25
        parameter.data += torch.randn_like(parameter) * spread
    model.save_pretrained(folder)
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", bos_token="w0", eos_token="w1").save_pretrained(
        folder
    )
    return folder
