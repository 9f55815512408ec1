"""What bench times: a model with SAEs and sequences, those that the settings choose, or random ones of a shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from circuitcli.core.activations.standard import Relu
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.model import Model
from circuitcli.core.selection import downstream
from circuitcli.core.sites import Site, check_sites, parse_layers
from circuitcli.core.words import amount
from circuitcli.errors import UsageError
from circuitcli.stages.sequences import read_sample
from circuitcli.stages.subject import Subject
from circuitcli.stages.tools import Tools

# Sequences that are timed at most, and active features at a position of random SAEs.
SEQUENCES, L0 = 8, 40
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
    """

    name: str
    model: Model
    saes: dict[Site, Dictionary]
    site: Site
    tokens: Tensor
    lengths: Tensor
    raw_forward: Callable[[Tensor], Tensor]

    def first(self, count: int) -> Case:
        """The same with its first sequences alone."""
        lengths = self.lengths[:count]
        return replace(self, tokens=self.tokens[:count, : int(lengths.max())], lengths=lengths)


def of(subject: Subject) -> Case:
    """The first of the chosen sites and those behind it, on the first sequences of the chosen text."""
    from circuitcli.runtime import weights

    tools = subject.tools
    sample, model = read_sample(subject, tools.report.say), subject.model
    sites = [entry.at for entry in subject.entries]
    used = [sites[0], *downstream(sites[0], sites, model.shape)]
    lengths = torch.as_tensor(sample.lengths[:SEQUENCES]).long()
    tokens = torch.as_tensor(sample.tokens[:SEQUENCES, : int(lengths.max())]).long()
    return Case(
        f"{tools.settings.model}, {tools.settings.saes.release}",
        model,
        {entry.at: subject.sae(entry) for entry in subject.entries if entry.at in used},
        sites[0],
        tokens.to(model.device),
        lengths,
        weights.bare(subject.checkpoint, tools.runtime),
    )


def synthetic(tools: Tools, shape: str, d_sae: int, tokens: int) -> Case:
    """Random weights of a shape; the SAEs' biases let about `L0` features fire at a position.

    Raises:
        UsageError: There is no such shape, or it hasn't these layers or sites, or reads fewer tokens.
    """
    from circuitcli.runtime import shapes, weights

    config = shapes.config_of(shape)
    saes, limit = tools.settings.saes, shapes.shape_of_config(shape, config).n_ctx
    if tokens > limit:
        raise UsageError(
            f"{shape} reads {amount(limit, 'token')}, not {tokens}.", hint=f"Give --tokens {limit} or less."
        )
    model = shapes.random_model(shape, config, tools.runtime)
    n = model.shape.n_layers
    layers = parse_layers(saes.layers, n) if saes.layers != ":" else [n // 3, n // 3 + 1]
    sites = [Site(layer, name) for layer in layers for name in (["resid_pre"] if saes.sites == "auto" else saes.sites)]
    check_sites(sites)
    if model.shape.parallel and any(site.name == "resid_mid" for site in sites):
        raise UsageError(f"{shape} has parallel blocks, without resid_mid.", hint="Choose other sites with --site.")
    sites.sort(key=lambda s: s.order)
    used = [sites[0], *downstream(sites[0], sites, model.shape)]
    drawn = torch.randint(0, model.shape.d_vocab, (SEQUENCES, tokens), device=model.device)
    return Case(
        f"{shape}, random weights, d_sae {d_sae}",
        model,
        _random_saes(model, used, drawn, d_sae),
        used[0],
        drawn,
        torch.full((SEQUENCES,), tokens),
        weights.forward(weights.random(config, tools.runtime)),
    )


def _random_saes(model: Model, sites: Sequence[Site], tokens: Tensor, d_sae: int) -> dict[Site, Dictionary]:
    """Random directions, decoded along themselves, each with the one bias at which `L0` of them fire."""
    read = model.run(tokens, sites).sites
    found = {}
    for site in sites:
        x = read[site][:, 1:].flatten(0, 1).float()
        w_dec = torch.randn(d_sae, x.shape[1], device=x.device)
        w_dec /= w_dec.norm(dim=-1, keepdim=True)
        w_enc, b_dec = w_dec.T.contiguous(), x.mean(0)
        pre = (x[:_SAMPLE] - b_dec) @ w_enc
        bias = pre.topk(L0 + 1, dim=-1).values[:, -1].median()
        found[site] = Dictionary(site, site, Relu(), w_enc, (-bias).expand(d_sae).contiguous(), w_dec, b_dec)
    return found
