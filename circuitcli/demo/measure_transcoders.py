"""What the shipped transcoders achieve on held-out text, in the words of `measure`.

Per layer, of what the MLP gives: FVU, L0, dead, and what is recovered where ŷ stands for this one MLP. Of a set: what
is recovered where they stand for every MLP at once, each reading the stream as it is by then, as in a replacement
model, and how often the model's first guess stays the same. Position 0 keeps what it has: nothing is trained for it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GPT2LMHeadModel

from circuitcli.core.activations.jumprelu import JumpRelu
from circuitcli.core.activations.standard import Relu
from circuitcli.core.dictionary import Decoder, Dictionary, reconstructed
from circuitcli.core.sites import Site
from circuitcli.demo.activations import harvest, hooked
from circuitcli.demo.rows import Rows, cross_entropy, first_guesses

FOLDERS = ("transcoders", "clt")


@dataclass(frozen=True)
class LayerQuality:
    """What stands for one MLP."""

    layer: int
    fvu: float
    l0: float
    dead: float
    recovered: float


@dataclass(frozen=True)
class SetQuality:
    """What stands for all MLPs."""

    name: str
    layers: list[LayerQuality]
    recovered: float
    agreement: float


def load(folder: Path) -> dict[Site, Dictionary]:
    """A shipped folder, per layer or across layers, its float16 numbers held in float32, by what each reads."""
    found = {}
    cross = (folder / "W_enc_0.safetensors").exists()
    layers = len(list(folder.glob("W_enc_*.safetensors" if cross else "layer_*.safetensors")))
    for layer in range(layers):
        files = (f"W_enc_{layer}", f"W_dec_{layer}") if cross else (f"layer_{layer}",)
        stored = {k: t.float() for name in files for k, t in load_file(folder / f"{name}.safetensors").items()}
        weights = {k.removesuffix(f"_{layer}"): t for k, t in stored.items()}
        written = weights["W_dec"].unbind(1) if cross else [weights["W_dec"]]
        reads, first = Site(layer, "mlp_in"), Site(layer, "mlp_out")
        found[reads] = Dictionary(
            reads=reads,
            writes=first,
            activation=JumpRelu(weights["threshold"]) if cross else Relu(),
            w_enc=weights["W_enc"].T,
            b_enc=weights["b_enc"],
            w_dec=written[0],
            b_dec=weights["b_dec"],
            apply_b_dec_to_input=False,
            w_skip=weights.get("W_skip"),
            further=tuple(Decoder(Site(layer + i, "mlp_out"), w_dec) for i, w_dec in enumerate(written) if i),
        )
    return found


@contextmanager
def replaced(model: GPT2LMHeadModel, dictionaries: Mapping[Site, Dictionary], layers: Sequence[int]) -> Iterator[None]:
    """Within the block, what dictionaries say stands for the MLPs of these layers at all positions ≥ 1."""
    read: dict[Site, Tensor] = {}

    def note(site: Site) -> Callable[[Tensor], None]:
        return lambda x: read.__setitem__(site, x[:, 1:].flatten(0, 1))

    def say(site: Site) -> Callable[[Tensor], Tensor]:
        def edit(y: Tensor) -> Tensor:
            said = _said(site, dictionaries, read, y[:, 1:].flatten(0, 1))
            return torch.cat([y[:, :1], said.view_as(y[:, 1:])], dim=1)

        return edit

    with ExitStack() as stack:
        for site in dictionaries:
            stack.enter_context(hooked(model, site, note(site)))
        for layer in layers:
            stack.enter_context(hooked(model, Site(layer, "mlp_out"), say(Site(layer, "mlp_out"))))
        yield


@torch.no_grad()
def quality(
    name: str, model: GPT2LMHeadModel, dictionaries: Mapping[Site, Dictionary], rows: Rows, clean_nats: float
) -> SetQuality:
    """Measure a set on all rows."""
    layers = sorted(site.layer for site in dictionaries)
    outs = [Site(layer, "mlp_out") for layer in layers]
    batches = [(harvest(model, b.tokens, [*dictionaries, *outs]), b.counted()) for b in rows.batches()]
    x = {site: torch.cat([batch[site][counted] for batch, counted in batches]) for site in [*dictionaries, *outs]}
    found = []
    for layer, (reads, one) in zip(layers, dictionaries.items(), strict=True):
        y, fires = x[Site(layer, "mlp_out")], one.active(x[reads])
        left = (y - _said(Site(layer, "mlp_out"), dictionaries, x, y)).pow(2).sum() / (y - y.mean(0)).pow(2).sum()
        fired = torch.bincount(fires.feature, minlength=one.d_sae)
        kept = _recovered(model, dictionaries, [layer], rows, clean_nats)
        dead = (fired == 0).float().mean().item()
        found.append(LayerQuality(layer, left.item(), len(fires.feature) / len(y), dead, kept))
    with replaced(model, dictionaries, layers):
        guesses = first_guesses(model, rows)
    same = (guesses == first_guesses(model, rows)).float().mean().item()
    return SetQuality(name, found, _recovered(model, dictionaries, layers, rows, clean_nats), same)


def _said(site: Site, dictionaries: Mapping[Site, Dictionary], x: Mapping[Site, Tensor], y: Tensor) -> Tensor:
    here = {reads: one for reads, one in dictionaries.items() if site in one.written}
    return reconstructed(site, here, {reads: one.active(x[reads]) for reads, one in here.items()}, x, y)


def _recovered(
    model: GPT2LMHeadModel, dictionaries: Mapping[Site, Dictionary], layers: Sequence[int], rows: Rows, clean: float
) -> float:
    with replaced(model, dictionaries, layers):
        spliced = cross_entropy(model, rows)
    with ExitStack() as stack:
        for layer in layers:
            stack.enter_context(hooked(model, Site(layer, "mlp_out"), _without))
        zero = cross_entropy(model, rows)
    return (zero - spliced) / (zero - clean)


def _without(y: Tensor) -> Tensor:
    return torch.cat([y[:, :1], torch.zeros_like(y[:, 1:])], dim=1)
