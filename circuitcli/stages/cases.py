"""What bench times: a model with SAEs and sequences, those that the settings choose, or random ones of a shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from circuitcli.core.activations.standard import Relu
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.model import Model
from circuitcli.core.selection import downstream
from circuitcli.core.sites import Site, check_sites, parse_layers
from circuitcli.core.words import amount
from circuitcli.errors import UsageError
from circuitcli.runtime.device import Runtime
from circuitcli.stages.sequences import read_sample
from circuitcli.stages.subject import Subject
from circuitcli.stages.tools import Tools

# Sequences that are timed at most, on a GPU such as make a full batch; active features at a position of random SAEs.
_SEQUENCES, L0 = {"cpu": 8, "mps": 8, "cuda": 32}, 40
_SAMPLE = 200  # positions by which their biases are set


@dataclass(frozen=True, eq=False)
class Case:
    """What is timed.

    Attributes:
        name: What it is called.
        saes: Of the edited site and of those behind it.
        site: The edited one.
        tokens: [s, t], padded right, on the model's device.
        lengths: Of each sequence; on the CPU.
        raw_forward: transformers' own pass, from tokens [1, t] to logits.
        again: The model with the same weights, in another precision or on another device.
    """

    name: str
    model: Model
    saes: dict[Site, Dictionary]
    site: Site
    tokens: Tensor
    lengths: Tensor
    raw_forward: Callable[[Tensor], Tensor]
    again: Callable[[Runtime], Model]

    def first(self, count: int) -> Case:
        """The same with its first sequences alone."""
        lengths = self.lengths[:count]
        return replace(self, tokens=self.tokens[:count, : int(lengths.max())], lengths=lengths)


def of(subject: Subject, timed: torch.device) -> Case:
    """The first of the chosen sites and those behind it, on the first sequences of the chosen text.

    Args:
        subject: What was chosen.
        timed: The device that is timed, on which or beside which the case is.
    """
    from circuitcli.runtime import model as models
    from circuitcli.runtime import weights

    tools = subject.tools
    sample, model = read_sample(subject, tools.report.say), subject.model
    sites = [entry.at for entry in subject.entries]
    used = [sites[0], *downstream(sites[0], sites, model.shape, subject.entries[0].written[0])]
    count = _SEQUENCES[timed.type]
    lengths = torch.as_tensor(sample.lengths[:count]).long()
    tokens = torch.as_tensor(sample.tokens[:count, : int(lengths.max())]).long()
    return Case(
        f"{tools.settings.model}, {tools.settings.saes.release}",
        model,
        {entry.at: subject.sae(entry) for entry in subject.entries if entry.at in used},
        sites[0],
        tokens.to(model.device),
        lengths,
        weights.bare(subject.checkpoint, tools.runtime),
        partial(models.load, subject.checkpoint),
    )


def synthetic(tools: Tools, shape: str, d_sae: int, tokens: int, timed: torch.device) -> Case:
    """Random weights of a shape; the SAEs' biases let about `L0` features fire at a position.

    Args:
        tools: Where the case is, and of what the weights are drawn.
        shape: Its name.
        d_sae: Features of each SAE.
        tokens: Of each sequence.
        timed: As of `of`.

    Raises:
        UsageError: There is no such shape, or it hasn't these layers or sites, or reads fewer tokens.
    """
    from circuitcli.runtime import shapes, weights

    config, model = _random_model(tools, shape, tokens)
    n = model.shape.n_layers
    sites = _sites_of(tools, shape, model, [n // 3, n // 3 + 1], ("resid_pre",))
    used = [sites[0], *downstream(sites[0], sites, model.shape)]
    drawn = torch.randint(0, model.shape.d_vocab, (_SEQUENCES[timed.type], tokens), device=model.device)
    return Case(
        f"{shape}, random weights, d_sae {d_sae}",
        model,
        _random_saes(model, used, drawn[: _SEQUENCES["cpu"]], d_sae),
        used[0],
        drawn,
        torch.full((len(drawn),), tokens),
        weights.forward(weights.random(config, tools.runtime)),
        partial(shapes.random_model, shape, config, seed=tools.settings.seed),
    )


@dataclass(frozen=True, eq=False)
class PromptCase:
    """A prompt that is attributed: a model with an SAE at each site, and tokens [t] on its device."""

    name: str
    model: Model
    saes: dict[Site, Dictionary]
    tokens: Tensor


def synthetic_prompt(tools: Tools, shape: str, d_sae: int, tokens: int) -> PromptCase:
    """Random weights of a shape, and SAEs at three sites of every layer, which share one pair of matrices.

    Their biases are their own, and let about `L0` features fire at a position.

    Raises:
        UsageError: As `synthetic`.
    """
    _, model = _random_model(tools, shape, tokens)
    sites = _sites_of(tools, shape, model, list(range(model.shape.n_layers)), ("attn_out", "mlp_out", "resid_post"))
    drawn = torch.randint(0, model.shape.d_vocab, (_SEQUENCES["cpu"], tokens), device=model.device)
    saes = _random_saes(model, sites, drawn, d_sae, shared=True)
    return PromptCase(f"{shape}, random weights, d_sae {d_sae}", model, saes, drawn[0])


def _random_model(tools: Tools, shape: str, tokens: int) -> tuple[Any, Model]:
    from circuitcli.runtime import shapes

    config = shapes.config_of(shape)
    limit = shapes.shape_of_config(shape, config).n_ctx
    if tokens > limit:
        raise UsageError(
            f"{shape} reads {amount(limit, 'token')}, not {tokens}.", hint=f"Give --tokens {limit} or less."
        )
    return config, shapes.random_model(shape, config, tools.runtime, tools.settings.seed)


def _sites_of(tools: Tools, shape: str, model: Model, layers: list[int], names: Sequence[str]) -> list[Site]:
    """The sites of the settings, or else these, in the model's order."""
    saes = tools.settings.saes
    layers = parse_layers(saes.layers, model.shape.n_layers) if saes.layers != ":" else layers
    sites = [Site(layer, name) for layer in layers for name in (names if saes.sites == "auto" else saes.sites)]
    check_sites(sites)
    if model.shape.parallel and any(site.name == "resid_mid" for site in sites):
        raise UsageError(f"{shape} has parallel blocks, without resid_mid.", hint="Choose other sites with --site.")
    return sorted(sites, key=lambda s: s.order)


def _random_saes(
    model: Model, sites: Sequence[Site], tokens: Tensor, d_sae: int, *, shared: bool = False
) -> dict[Site, Dictionary]:
    """Random directions, decoded along themselves, each with the one bias at which `L0` of them fire.

    Those of one width have the same directions where they are `shared`.
    """
    read = model.run(tokens, sites).sites
    found: dict[Site, Dictionary] = {}
    drawn: dict[int, tuple[Tensor, Tensor]] = {}
    for site in sites:
        x = read[site][:, 1:].flatten(0, 1).float()
        width = x.shape[1]
        if not shared or width not in drawn:
            w_dec = torch.randn(d_sae, width, device=x.device)
            w_dec /= w_dec.norm(dim=-1, keepdim=True)
            drawn[width] = w_dec.T.contiguous(), w_dec
        (w_enc, w_dec), b_dec = drawn[width], x.mean(0)
        pre = (x[:_SAMPLE] - b_dec) @ w_enc
        if shared:  # so many on average: nodes are counted, and a site with too many makes other sites' seem few
            bias = pre.flatten().topk(L0 * len(pre) + 1).values[-1]
        else:
            bias = pre.topk(L0 + 1, dim=-1).values[:, -1].median()
        found[site] = Dictionary(site, site, Relu(), w_enc, (-bias).expand(d_sae).contiguous(), w_dec, b_dec)
    return found
