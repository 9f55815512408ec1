"""Whether a model is read rightly: bridged, beside plain transformers on the same weights, on a few tokens.

    1. Two rows of unlike length, each alone, through plain transformers: the stream at every block, and the logits.
       What it computes at a position must not depend on how far a batch goes (rotary scaling may switch at a length).
    2. The same rows in one padded batch through the bridge: streams and logits equal; at every block the sites add up,
       resid_pre + attn_out + mlp_out = resid_post; and an edit of nothing, resumed from each site, changes nothing.
    3. An edit in the middle, at each site: by a hook on a whole pass, and resumed.
    4. Whether a few positions can be computed behind their sequence's clean keys and values; if not, why.

1 to 3 must hold within `TOLERANCE` of the largest value of what is compared, or the model is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from circuitcli.core.edits import adding
from circuitcli.core.model import Addition, Model, Pass, Places
from circuitcli.core.shape import ModelShape
from circuitcli.core.sites import SITES, Site
from circuitcli.runtime.device import out_of_memory
from circuitcli.runtime.head import body

TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 5e-2}
_LENGTHS = (9, 5)


class Disagreement(Exception):
    """What differs, in words that follow "The model …"."""


@dataclass(frozen=True, eq=False)
class Reference:
    """What plain transformers gives.

    Attributes:
        within: The share of the largest value by which others may differ.
        tokens: [r, t], padded right.
        streams: Of each row, the input of each block and the output of the last: [n_layers + 1, t, d].
        logits: Of each row, [t, v].
    """

    within: float
    tokens: Tensor
    streams: list[Tensor]
    logits: list[Tensor]


@torch.no_grad()
def reference(model: Any, shape: ModelShape) -> Reference:
    """Plain transformers' own pass over a few tokens.

    Raises:
        LookupError: It has no list of so many blocks.
        Disagreement: What it computes depends on how far a batch goes.
    """
    first = next(model.parameters())
    device, within = first.device, TOLERANCE[first.dtype]
    lengths = [min(length, shape.n_ctx) for length in _LENGTHS] if shape.n_ctx > 1 else [1]
    tokens = (torch.arange(sum(lengths), device=device) * 7919 + 13) % shape.d_vocab
    rows = list(tokens.split(lengths, 0))
    found = [_alone(model, shape, row) for row in rows]
    _steady(model, shape, rows[0], within)
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return Reference(within, padded, [streams for streams, _ in found], [logits for _, logits in found])


def _alone(model: Any, shape: ModelShape, row: Tensor, **more: Any) -> tuple[Tensor, Tensor]:
    """The streams and the logits of one row."""
    streams: list[Tensor] = []
    with ExitStack() as hooks:
        _, blocks = body(model, shape.n_layers)
        for block in blocks:
            hooks.enter_context(_hook(block.register_forward_pre_hook(_entering(streams), with_kwargs=True)))
        hooks.enter_context(_hook(blocks[-1].register_forward_hook(_leaving(streams))))
        logits: Tensor = model(row.unsqueeze(0), use_cache=False, **more).logits[0]
    return torch.stack(streams), logits.float()


def _entering(streams: list[Tensor]) -> Any:
    def note(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        streams.append((args[0] if args else kwargs["hidden_states"])[0].clone())

    return note


def _leaving(streams: list[Tensor]) -> Any:
    def note(module: Any, args: tuple[Any, ...], output: Any) -> None:
        streams.append((output[0] if isinstance(output, tuple) else output)[0].clone())

    return note


def _steady(model: Any, shape: ModelShape, row: Tensor, within: float) -> None:
    """The first two positions mustn't change with a third one at the context's end."""
    if len(row) < 3 or shape.n_ctx < 4:
        return
    near, far = (torch.tensor([[0, 1, last]], device=row.device) for last in (2, shape.n_ctx - 1))
    streams = [_alone(model, shape, row[:3], position_ids=positions)[0][:, :2] for positions in (near, far)]
    _agree(
        f"computes other numbers at a position once a batch has one beyond its original context ({shape.n_ctx} tokens)",
        streams[1],
        streams[0],
        within,
    )


@torch.no_grad()
def check(model: Model, expected: Reference) -> None:
    """Refuse a bridged model that doesn't agree with plain transformers, or with itself.

    Raises:
        Disagreement: What differs, and by how much.
    """
    names = [name for name in SITES if not (name == "resid_mid" and model.shape.parallel)]
    sites = [Site(layer, name) for layer in range(model.shape.n_layers) for name in names]
    clean = model.run(expected.tokens, sites, final=True)
    assert clean.final is not None
    for row, (streams, logits) in enumerate(zip(expected.streams, expected.logits, strict=True)):
        ours = [clean.sites[Site(layer, "resid_pre")][row] for layer in range(model.shape.n_layers)]
        for layer, (one, other) in enumerate(zip([*ours, clean.final[row]], streams, strict=True)):
            what = f"in the stream into block {layer}" if layer < model.shape.n_layers else "in its last stream"
            _agree(f"differs from plain transformers {what}", one[: len(other)], other, expected.within)
        given = model.logits(clean.final[row, : len(logits)])
        _agree("differs from plain transformers in its logits", given, logits, expected.within)
    for layer in range(model.shape.n_layers):
        _check_block(model, clean, layer, names, expected.within)
    _check_edits(model, expected, clean, model.shape.n_layers // 2, names)


def _check_block(model: Model, clean: Pass, layer: int, names: Sequence[str], within: float) -> None:
    at = {name: clean.sites[Site(layer, name)] for name in names}
    mid = at["resid_pre"] + at["attn_out"]
    if "resid_mid" in at:
        _agree(f"adds something else than attn_out to resid_pre in block {layer}", mid, at["resid_mid"], within)
    end = mid + at["mlp_out"]
    _agree(f"adds something else than attn_out and mlp_out in block {layer}", end, at["resid_post"], within)
    for name in names:
        site, behind = Site(layer, name), Site(layer, "resid_post")
        if name != "resid_post":
            again = model.resume(clean, clean.sites, Addition(site, torch.zeros_like(at[name])), [behind])
            _agree(f"can't be resumed from {site}", again.sites[behind], at["resid_post"], within)


def _check_edits(model: Model, expected: Reference, clean: Pass, layer: int, names: Sequence[str]) -> None:
    """One edit at each site of a block: by a hook on a whole pass, and resumed."""
    for name in names:
        site = Site(layer, name)
        x = clean.sites[site]
        delta = torch.linspace(-1, 1, x.shape[-1], device=x.device, dtype=x.dtype) * x.float().std().to(x.dtype)
        edit = Addition(site, delta.expand_as(x))
        whole = model.run(expected.tokens, [], final=True, edits=adding(site, edit.delta)).final
        resumed = model.resume(clean, clean.sites, edit, [], final=True).final
        assert whole is not None
        assert resumed is not None
        _agree(f"can't be resumed from an edit of {site}", resumed, whole, expected.within)


@torch.no_grad()
def trouble_at_places(model: Model) -> str:
    """Why a few positions can't be computed behind their sequence's clean keys and values; empty where they can."""
    tokens = torch.arange(1, 9, device=model.device).unsqueeze(0) % model.shape.d_vocab
    tokens = tokens[:, : model.shape.n_ctx]
    site, end = Site(0, "resid_pre"), tokens.shape[1] - 1
    if end < 3:
        return "its context is too short"
    try:
        clean = model.run(tokens, [site], final=True, keep=0)
        assert clean.final is not None
        for pos, chained in (([2, end, 3, 3], False), (list(range(2, end + 1)), True)):
            places = Places(tokens.new_zeros(1), tokens.new_tensor([pos]), chained=chained)
            x = clean.sites[site][0][places.pos]
            again = model.resume(
                clean, {site: x}, Addition(site, torch.zeros_like(x)), [], final=True, places=places
            ).final
            assert again is not None
            there = clean.final[0][places.pos]
            _agree("gives other numbers there", again, there, TOLERANCE[there.dtype])
    except Disagreement as difference:
        return f"it {difference}"
    except Exception as error:
        if out_of_memory(error):
            raise
        return f"its blocks refuse ({type(error).__name__}: {first_line(error)})"
    return ""


def first_line(error: BaseException) -> str:
    """What an error of another library says, in one line."""
    return (str(error).strip().split("\n")[0] or "no reason given").rstrip(" .:")[:200]


def _agree(what: str, ours: Tensor, theirs: Tensor, within: float) -> None:
    if ours.shape != theirs.shape:
        raise Disagreement(f"{what}: {list(ours.shape)} numbers for {list(theirs.shape)}")
    difference, largest = float((ours.float() - theirs.float()).abs().max()), float(theirs.float().abs().max())
    if not difference <= within * largest:
        share = f", {difference / largest:.1e} of the largest" if largest else ""
        raise Disagreement(f"{what}, by {difference:.2g}{share}")


@contextmanager
def _hook(handle: Any) -> Iterator[None]:
    try:
        yield
    finally:
        handle.remove()
