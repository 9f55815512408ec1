"""Effects of nodes and edges, measured and estimated, beside plain transformers with hooks, float64."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from support.attributed import Asked, Bottom, Part, ask, close, dictionaries
from support.attributed_plain import PlainPrompt
from support.families import VOCAB, Hf, plain, save_checkpoint
from support.tiny import load_model
from torch import Tensor

from circuitcli.core.attribution.direct import TARGET
from circuitcli.core.attribution.metric import Metric
from circuitcli.core.sites import Site
from circuitcli.runtime.model import BridgeModel

pytestmark = pytest.mark.seams
WITHIN = 1e-4
T, SPECIAL = 7, 3
FAMILIES = ("gpt2", "llama", "neox", "gemma2")
BASELINES = ("zero", "mean", "patch")
PROMPT, OTHER = torch.randint(2, VOCAB, (2, T), generator=torch.Generator().manual_seed(11))


@cache
def models(family: str) -> tuple[BridgeModel, Hf]:
    folder = save_checkpoint(family, Path(mkdtemp()))
    return load_model(folder), plain(folder, family)


def mean_of(pos: Tensor, feature: Tensor) -> Tensor:
    return (0.3 + 0.1 * ((feature + 2 * pos) % 5)).float()


@cache
def both(family: str, baseline: str, against: int | None = None) -> tuple[Asked, PlainPrompt, dict[Site, Tensor]]:
    """Ours, plain transformers, and what errors (and, at 0.resid_pre, tokens) become of the mean baseline."""
    model, hf = models(family)
    saes = dictionaries(model, seed=BASELINES.index(baseline))
    draw = torch.Generator().manual_seed(5)
    tables = {one.writes: torch.randn(T, one.w_dec.shape[1], generator=draw) for one in saes}
    stream = torch.randn(T, model.shape.d_model, generator=draw)
    given: dict[str, Any] = {
        "zero": {},
        "mean": {"replace": lambda pos, feature, a: mean_of(pos, feature), "error": tables, "token": stream},
        "patch": {"other": OTHER},
    }[baseline]
    of = ask(model, PROMPT, saes, metric=Metric(7, against), special=[SPECIAL], **given)

    def metric(logits: Tensor) -> Tensor:
        return logits.log_softmax(-1)[:, 7] if against is None else logits[:, 7] - logits[:, against]

    tables[Site(-1, "tokens")] = stream
    return of, PlainPrompt(hf, PROMPT, of.counts, of.dictionaries, metric), tables


def deltas(of: Asked, other: PlainPrompt, source: Bottom, baseline: str, tables: dict[Site, Tensor]) -> Tensor:
    """What replacing each node of a source adds, and with it which nodes there are."""
    x, there = other.clean[source.site], other.read(OTHER)[source.site]
    place = of.counts.nonzero().squeeze(1)
    if not isinstance(source, Part):
        assert source.pos.tolist() == place.tolist()
        new = {"zero": 0 * x, "mean": tables[Site(-1, "tokens")].double(), "patch": there}[baseline]
        return (new - x)[place]
    sae = other.saes[source.site]
    a, e = sae.encode(x), sae.error(x)
    c = {"zero": 0 * a, "mean": mean_of(*torch.meshgrid(*map(torch.arange, a.shape), indexing="ij")).double()}
    c, new = {
        "zero": (c["zero"], 0 * e),
        "mean": (c["mean"], tables[source.site].double()),
        "patch": (sae.encode(there), sae.error(there)),
    }[baseline]
    fires = ((a > 0) | (c > 0) if baseline == "patch" else a > 0) & of.counts[:, None]
    assert torch.stack([source.pos[: source.features], source.feature]).T.tolist() == fires.nonzero().tolist()
    assert source.pos[source.features :].tolist() == place.tolist()
    return torch.cat([((c - a).unsqueeze(-1) * sae.direction(x))[fires], (new - e)[place]])


@pytest.mark.parametrize("engine", ["places", "whole"])
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_nodes_measured(monkeypatch: pytest.MonkeyPatch, family: str, baseline: str, engine: str) -> None:
    of, other, tables = both(family, baseline)
    assert of.model.resumes_at_places
    if engine == "whole":
        monkeypatch.setattr(of.model, "whole_because", "a test wants it so")
    found = of.exact()
    expected = [other.effects(s.site, s.pos, deltas(of, other, s, baseline, tables)) for s in of.sources]
    largest = float(torch.cat(expected).abs().max())
    for source, ours, theirs in zip(of.sources, found, expected, strict=True):
        close(ours, theirs, WITHIN, source.site, floor=max(WITHIN * largest, of.rounding))
    assert largest > 100 * of.rounding


@pytest.mark.parametrize("against", [None, 9])
@pytest.mark.parametrize("family", FAMILIES)
def test_nodes_estimated(family: str, against: int | None) -> None:
    """∂m/∂β at 0 where β·δ is added for each node, by autograd."""
    of, other, tables = both(family, "patch", against)
    other.hf.model.requires_grad_(False)
    for source, ours in zip(of.sources, of.estimates(), strict=True):
        delta = deltas(of, other, source, "patch", tables)
        beta = torch.zeros(len(source), dtype=torch.float64, requires_grad=True)

        def change(x: Tensor, source: Bottom = source, beta: Tensor = beta, delta: Tensor = delta) -> Tensor:
            return x.index_add(1, source.pos, (beta[:, None] * delta)[None])

        (theirs,) = torch.autograd.grad(other.after({source.site: change}).sum(), beta)
        close(ours, theirs, WITHIN, source.site)


def test_nodes_estimated_by_finite_differences() -> None:
    """Of GPT-2, all of which transformers computes in float64."""
    of, other, tables = both("gpt2", "zero")
    for source, ours in zip(of.sources, of.estimates(), strict=True):
        delta = 1e-6 * deltas(of, other, source, "zero", tables)
        moved = other.effects(source.site, source.pos, delta) - other.effects(source.site, source.pos, -delta)
        close(ours, moved / 2e-6, WITHIN, source.site)


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_edges_measured(family: str, baseline: str) -> None:
    of, other, tables = both(family, baseline)
    pairs = of.pairs_of_all_sizes(85)
    delta = [deltas(of, other, source, baseline, tables) for source in of.sources]
    expected = []
    for up, u, down, d in zip(pairs.up, pairs.up_node, pairs.down, pairs.down_node, strict=True):
        source, target = of.sources[up], None if down == TARGET else of.parts[down]
        feature = None if target is None or d >= target.features else int(target.feature[d])
        expected.append(other.edge(
            source.site, int(source.pos[u]), delta[up][u], token=not isinstance(source, Part),
            down=target and target.site, at=-1 if target is None else int(target.pos[d]), feature=feature,
        ))  # fmt: skip
    expected = torch.tensor(expected)
    close(of.measured_edges(pairs), expected, WITHIN, floor=of.rounding)
    assert (expected.abs() > 10 * of.rounding).sum() > 30
