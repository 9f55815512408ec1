"""Where dictionaries read and write, by the names of hooks that their files use.

What lies between the stream and an MLP has several names, and some of them mean different things:

    hook_resid_mid, hook_mlp_in, ln2.hook_in      the stream before the norm: the site resid_mid
    mlp.hook_in, ln2.hook_out, …layernorm.output  what the norm gives, with its gain and bias: mlp_in
    ln2.hook_normalized                           of RMS norm and of every norm whose weights were folded away, what it
                                                  makes before its gain; of LayerNorm in TransformerLens's
                                                  HookedTransformer what it gives, in its bridge what it makes before
    hook_mlp_out, mlp.hook_out, …                 what the MLP adds to the stream: mlp_out
"""

from __future__ import annotations

import re

from circuitcli.core.sites import Site, parse_hook

NORMALIZED = "ln2.hook_normalized"

_BLOCK = re.compile(r"blocks\.(\d{1,9})\.([a-z_0-9.]+)")
_READ = {
    "hook_mlp_in": "resid_mid",
    "ln2.hook_in": "resid_mid",
    "ln2.hook_out": "mlp_in",
    NORMALIZED: "mlp_in",
}
_WRITTEN = {"mlp.hook_out": "mlp_out"}
_MODULE = re.compile(r"(?:model\.)?(?:language_model\.)?layers\.(\d{1,9})\.([a-z_.]+)")
_MODULES = {
    "input": "resid_pre",
    "self_attn.o_proj.input": "z",
    "post_attention_layernorm.output": "attn_out",
    "pre_feedforward_layernorm.input": "resid_mid",
    "pre_feedforward_layernorm.output": "mlp_in",
    "post_feedforward_layernorm.output": "mlp_out",
    "output": "resid_post",
}


def read(hook: str, module: str | None = None) -> Site | None:
    """The site that a hook is read at; None if it is none.

    Args:
        hook: `blocks.L.…`.
        module: What it is in transformers' words, where the files say that too: SAELens calls what Gemma's norm gives
            hook_mlp_in, which in TransformerLens is what that norm reads.
    """
    if hook.endswith(".hook_mlp_in") and module is not None and module.endswith("layernorm.output"):
        hook = f"{hook.removesuffix('hook_mlp_in')}ln2.hook_out"
    return _named(hook, _READ)


def written(hook: str) -> Site | None:
    """The site that a transcoder's hook is written at; None if it is none."""
    return _named(hook, _WRITTEN)


def module(name: str) -> Site | None:
    """The site of the input or output of a module of Gemma in transformers; None if it is none."""
    found = _MODULE.fullmatch(name)
    return Site(int(found[1]), _MODULES[found[2]]) if found and found[2] in _MODULES else None


def normalized(hook: str | None) -> bool:
    """Whether what is read there may be without the norm's gain and bias."""
    return hook is not None and hook.endswith(NORMALIZED)


def _named(hook: str, names: dict[str, str]) -> Site | None:
    found = _BLOCK.fullmatch(hook)
    name = names.get(found[2]) if found else None
    site = parse_hook(hook) if found is None or name is None else Site(int(found[1]), name)
    return site if site is None or name is None or hook.startswith(f"blocks.{site.layer}.") else None
