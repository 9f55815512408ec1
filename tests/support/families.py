"""Random checkpoints of every architecture that we claim, and the same in plain transformers: the second route.

Its sites are read and edited by forward hooks on transformers' own modules; TransformerLens has no part in it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from circuitcli.core.model import Addition
from circuitcli.core.sites import SITES, Site

LAYERS, D_MODEL, VOCAB, WINDOW = 4, 36, 61, 4
CONFIGS: dict[str, PretrainedConfig] = {
    "gpt2": GPT2Config(n_layer=LAYERS, n_embd=D_MODEL, n_head=4, n_positions=32, vocab_size=VOCAB),
    # Grouped keys, untied, and heads whose width together (48) is not d_model.
    "llama": LlamaConfig(
        num_hidden_layers=LAYERS, hidden_size=D_MODEL, intermediate_size=48, num_attention_heads=4, head_dim=12,
        num_key_value_heads=2, max_position_embeddings=32, vocab_size=VOCAB, tie_word_embeddings=False,
    ),
    "neox": GPTNeoXConfig(
        num_hidden_layers=LAYERS, hidden_size=D_MODEL, intermediate_size=48, num_attention_heads=4, rotary_pct=0.5,
        max_position_embeddings=32, vocab_size=VOCAB, use_parallel_residual=True, attention_bias=True,
    ),
    "gemma2": Gemma2Config(
        num_hidden_layers=LAYERS, hidden_size=D_MODEL, intermediate_size=48, num_attention_heads=4, head_dim=12,
        num_key_value_heads=2, max_position_embeddings=32, vocab_size=VOCAB, sliding_window=WINDOW,
        query_pre_attn_scalar=12, attn_logit_softcapping=2.0, final_logit_softcapping=3.0,
    ),
    # SmolLM2's shape: nine heads on three of keys, tied.
    "smollm2": LlamaConfig(
        num_hidden_layers=LAYERS, hidden_size=D_MODEL, intermediate_size=48, num_attention_heads=9,
        num_key_value_heads=3, max_position_embeddings=32, vocab_size=VOCAB, tie_word_embeddings=True,
    ),
}  # fmt: skip
FAMILIES = tuple(CONFIGS)


@dataclass(frozen=True, eq=False)
class Hf:
    """A checkpoint in plain transformers, and where each site is in its modules: (module, whether its input)."""

    model: Any
    family: str

    @property
    def blocks(self) -> Any:
        return {
            "gpt2": lambda m: m.transformer.h,
            "neox": lambda m: m.gpt_neox.layers,
        }.get(self.family, lambda m: m.model.layers)(self.model)

    def place(self, site: Site, *, edited: bool = False) -> tuple[Any, bool]:
        block = self.blocks[site.layer]
        attention = {"gpt2": "attn", "neox": "attention"}.get(self.family, "self_attn")
        projection = {"gpt2": "c_proj", "neox": "dense"}.get(self.family, "o_proj")
        mlp_norm = {"gpt2": "ln_2", "gemma2": "pre_feedforward_layernorm"}.get(self.family, "post_attention_layernorm")
        post = self.family == "gemma2"
        attn_out = (block.post_attention_layernorm if post else getattr(block, attention), False)
        return {
            "resid_pre": (block, True),
            "z": (getattr(getattr(block, attention), projection), True),
            "attn_out": attn_out,
            # The stream after attention has no module of its own: to change it, change what attention adds to it.
            "resid_mid": attn_out if edited else (getattr(block, mlp_norm), True),
            "mlp_in": (block.mlp, True),
            "mlp_out": (block.post_feedforward_layernorm if post else block.mlp, False),
            "resid_post": (block, False),
        }[site.name]

    @contextmanager
    def hooked(self, site: Site, change: Callable[[Tensor], Tensor | None], *, edited: bool = False) -> Iterator[None]:
        """Calls `change` with the site's tensor, and puts what it returns, if anything, in the tensor's place."""
        module, is_input = self.place(site, edited=edited)

        def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if not args:
                new = change(kwargs["hidden_states"])
                return None if new is None else (args, {**kwargs, "hidden_states": new})
            new = change(args[0])
            return None if new is None else ((new, *args[1:]), kwargs)

        def after(module: Any, args: tuple[Any, ...], output: Any) -> Any:
            new = change(output[0] if isinstance(output, tuple) else output)
            return (new, *output[1:]) if isinstance(output, tuple) and new is not None else new

        handle = (
            module.register_forward_pre_hook(before, with_kwargs=True)
            if is_input
            else module.register_forward_hook(after)
        )
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def edited(self, site: Site, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Puts `change` of the site's tensor in its place; of resid_mid by what attention adds to the block's input."""
        before: list[Tensor] = []

        def added(attn_out: Tensor) -> Tensor:
            return attn_out + change(before[-1] + attn_out) - (before[-1] + attn_out)

        with ExitStack() as hooks:
            if site.name == "resid_mid":
                hooks.enter_context(self.hooked(Site(site.layer, "resid_pre"), before.append))
            hooks.enter_context(self.hooked(site, added if site.name == "resid_mid" else change, edited=True))
            yield

    def run(
        self,
        tokens: Tensor,
        read: list[Site],
        edits: Addition | Mapping[Site, Callable[[Tensor], Tensor]] | None = None,
    ) -> tuple[dict[Site, Tensor], Tensor]:
        """Activations of sites, an edited one's as it is then, and logits."""
        found: dict[Site, Tensor] = {}
        with ExitStack() as hooks:
            if isinstance(edits, Addition):
                for site, delta in {edits.site: edits.delta, **edits.further}.items():
                    hooks.enter_context(self.hooked(site, lambda x, delta=delta: x + delta, edited=True))
                edits = {}
            for site in sorted({*(edits or {}), *read}, key=lambda s: s.order):  # attn_out before resid_mid changes it
                if edits and site in edits:
                    hooks.enter_context(self.edited(site, edits[site]))
                if site in read:
                    hooks.enter_context(self.hooked(site, lambda x, site=site: found.__setitem__(site, x.clone())))
            logits = self.model(tokens, use_cache=False).logits
        return found, logits


class PlainFamily:
    """A checkpoint of any family, as `support.plain.PlainModel` is one of GPT-2: δ at places, one sequence, float64.

    (But for what transformers computes in float32 whatever it is given, as norms of all families but GPT-2's are.)
    """

    def __init__(self, folder: Path, family: str) -> None:
        self.hf = Hf(plain(folder, family).model.double(), family)
        names = [name for name in SITES if not (family == "neox" and name == "resid_mid")]
        self.sites = [Site(layer, name) for layer in range(len(self.hf.blocks)) for name in names]

    @torch.no_grad()
    def run(self, tokens: Tensor, *edits: tuple[tuple[int, str], Tensor]) -> tuple[dict[Any, Tensor], Tensor]:
        """Activations [t, d] of every site behind all edits, and log-probabilities [t, v]."""
        changes = {Site(*place): lambda x, delta=delta: x + delta for place, delta in edits}
        found, logits = self.hf.run(tokens[None], self.sites, changes)
        return {tuple(site): x[0] for site, x in found.items()}, logits[0].log_softmax(-1)

    def norm(self, layer: int) -> tuple[Tensor, Tensor]:
        """Gain and bias of the norm that an MLP reads."""
        norm, _ = self.hf.place(Site(layer, "resid_mid"))
        gain = norm.weight + (self.hf.family == "gemma2")
        return gain.detach(), getattr(norm, "bias", torch.zeros(())).detach()


def save_checkpoint(
    family: str, folder: Path, *, tied: bool | None = None, config: PretrainedConfig | None = None
) -> Path:
    """A random checkpoint whose every parameter matters, biases and norms too, and a tokenizer beside it."""
    torch.manual_seed(FAMILIES.index(family))
    config = config or copy.deepcopy(CONFIGS[family])
    config.tie_word_embeddings = config.tie_word_embeddings if tied is None else tied
    model = AutoModelForCausalLM.from_config(config)
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


def plain(folder: Path, family: str) -> Hf:
    """Eager attention, which alone has Gemma's soft cap in every transformers that we admit (5.9's sdpa drops it)."""
    return Hf(AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval(), family)
