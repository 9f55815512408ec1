"""Nodes, edges and circuits of transcoders, per layer and across layers, beside plain transformers, float64.

And what holds of any model: the edges of a node to features, errors and the target add up to its estimated effect.
"""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from support.attributed import Asked, Part, ask, close
from support.families import Hf
from support.random_saes import random_clt, random_sae, random_transcoder
from support.transcoded import BOTTOM, Node, Transcoded, by_hand
from test_attribution_plain import BASELINES, FAMILIES, OTHER, PROMPT, SPECIAL, WITHIN, T, mean_of, models
from torch import Tensor

from circuitcli.core.attribution.direct import TARGET
from circuitcli.core.attribution.metric import Metric
from circuitcli.core.attribution.start import estimates
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.evidence.keeping import Instead, Keeping, keeping
from circuitcli.core.frame import Frame
from circuitcli.core.model import Model
from circuitcli.core.sites import Site

pytestmark = pytest.mark.seams
SETS = ("per layer", "across layers", "beside SAEs")
METRIC = Metric(7, 9)


def dictionaries(model: Model, which: str) -> dict[Site, Dictionary]:
    """All architectures, with skip connections and without, before the norm and behind it."""
    layers, d_sae = range(model.shape.n_layers), 12
    before = "mlp_in" if model.shape.parallel else "resid_mid"
    if which == "across layers":
        return random_clt(model, "jumprelu", reads=before, skip=True, d_sae=d_sae)
    found: dict[Site, Dictionary] = {}
    for layer in layers:
        site = Site(layer, before if layer % 2 else "mlp_in")
        kind = ("relu", "topk", "jumprelu")[layer % 3]
        found[site] = random_transcoder(model, site, kind, skip=layer != 1, d_sae=d_sae, seed=layer)
    if which == "beside SAEs":
        for site in (Site(1, "resid_post"), Site(2, "attn_out")):
            found[site] = random_sae(model, site, "relu", Frame(), d_sae, 7)
    return dict(sorted(found.items(), key=lambda pair: pair[0].order))


@cache
def both(family: str, which: str, baseline: str) -> tuple[Asked, Transcoded, dict[Site, Tensor]]:
    """Ours, plain transformers, and what errors and tokens become of the mean baseline."""
    model, hf = models(family)
    some, draw = dictionaries(model, which), torch.Generator().manual_seed(5)
    tables = {w: torch.randn(T, model.shape.d_model, generator=draw) for one in some.values() for w in one.written}
    tables[BOTTOM] = torch.randn(T, model.shape.d_model, generator=draw)
    given: dict[str, Any] = {
        "zero": {},
        "mean": {"replace": lambda pos, feature, a: mean_of(pos, feature), "error": tables, "token": tables[BOTTOM]},
        "patch": {"other": OTHER},
    }[baseline]
    of = ask(model, PROMPT, list(some.values()), metric=METRIC, special=[SPECIAL], **given)

    def metric(logits: Tensor) -> Tensor:
        return logits[:, METRIC.target] - logits[:, METRIC.against]

    double = Hf(copy.deepcopy(hf.model).double(), hf.family)
    by = {site: by_hand(one) for site, one in some.items()}
    return of, Transcoded(double, PROMPT, of.counts, by, metric), tables


def nodes(of: Asked) -> list[list[Node]]:
    """Of each source."""
    found = []
    for source in of.sources:
        if not isinstance(source, Part):
            found.append([Node(int(pos)) for pos in source.pos])
            continue
        own = [Node(int(pos), source.reads, int(j)) for pos, j in zip(source.pos, source.feature, strict=False)]
        found.append([*own, *(Node(int(pos), source.site) for pos in source.pos[source.features :])])
    return found


def added(other: Transcoded, node: Node, baseline: str, tables: dict[Site, Tensor]) -> dict[Site, Tensor]:
    """What replacing a node adds."""
    zero = torch.zeros((), dtype=torch.float64)
    there, _ = other.passed(OTHER, {})
    if node.feature is not None:
        one = other.all[node.site]
        become = {
            "zero": zero,
            "mean": mean_of(torch.tensor(node.pos), torch.tensor(node.feature)).double(),
            "patch": one.encode(there[node.site])[node.pos, node.feature],
        }[baseline]
    elif baseline == "patch":
        become = (there[BOTTOM] if node.site is None else other.error(node.site, there))[node.pos]
    else:
        site = BOTTOM if node.site is None else node.site
        become = zero if baseline == "zero" else tables[site][node.pos].double()
    return other.added(node, become)


def test_the_nodes_are_what_fires_and_what_is_left() -> None:
    for which in SETS:
        of, other, _ = both("gpt2", which, "zero")
        fires = [
            Node(pos, site, j)
            for site, a in other.acts(other.clean).items()
            for pos, j in ((a > 0) & of.counts[:, None]).nonzero().tolist()
        ]
        places = of.counts.nonzero().flatten().tolist()
        left = [Node(pos, site) for site in [*other.written, None] for pos in places]
        assert {*fires, *left} == {node for some in nodes(of) for node in some}
        assert len(fires) > 60


@pytest.mark.parametrize(
    ("family", "which", "baseline"),
    [("gpt2", "across layers", "zero"), ("gpt2", "per layer", "patch"), ("gemma2", "across layers", "mean"),
     ("llama", "beside SAEs", "patch"), ("neox", "per layer", "zero")],
)  # fmt: skip
def test_nodes_measured(family: str, which: str, baseline: str) -> None:
    of, other, tables = both(family, which, baseline)
    found, expected = of.exact(), []
    for some in nodes(of):
        expected.append(torch.tensor([other.effect(n.pos, added(other, n, baseline, tables)) for n in some]))
    largest = float(torch.cat(expected).abs().max())
    for source, ours, theirs in zip(of.sources, found, expected, strict=True):
        close(ours, theirs, WITHIN, source.site, floor=max(WITHIN * largest, of.rounding))
    assert largest > 100 * of.rounding


@pytest.mark.parametrize("which", ["across layers", "beside SAEs"])
def test_nodes_estimated_are_differences(which: str) -> None:
    """Of GPT-2, all of which transformers computes in float64: (m(x + εδ) − m(x − εδ)) / 2ε."""
    of, other, tables = both("gpt2", which, "patch")
    expected = []
    for some in nodes(of):
        for node in some:
            moved = {site: 1e-6 * delta for site, delta in added(other, node, "patch", tables).items()}
            back = {site: -delta for site, delta in moved.items()}
            expected.append((other.effect(node.pos, moved) - other.effect(node.pos, back)) / 2e-6)
    close(of.estimates(), torch.tensor(expected), WITHIN)


def test_where_a_run_starts_by_the_gradient() -> None:
    """e of a feature that writes several sites: the slope of what taking it away does to the likeliest next tokens."""
    model, hf = models("gpt2")
    (site, one), *_ = dictionaries(model, "across layers").items()
    plain, read = Hf(copy.deepcopy(hf.model).double(), "gpt2"), torch.tensor([0, 1, 0, 1, 1, 1, 1]).bool()
    x = plain.run(PROMPT[None], [site])[0][site][0]
    pos, feature = (by_hand(one).encode(x)[2:] > 0).nonzero()[:12].T
    pos = pos + 2
    a = by_hand(one).encode(x)[pos, feature]
    ours = estimates(model, one, PROMPT[None], read[None], (torch.zeros_like(pos), pos, feature, a.float()))

    def said(i: int, by: float) -> float:
        def adding(w_dec: Tensor) -> Any:
            return lambda y: y.index_add(1, pos[i : i + 1], by * a[i] * w_dec[feature[i]].double()[None, None])

        edits = {decoder.site: adding(decoder.w_dec) for decoder in one.decoders}
        return float(plain.run(PROMPT[None], [], edits)[1].detach()[0].log_softmax(-1).amax(-1)[read].sum())

    expected = [(said(i, -1e-6) - said(i, 1e-6)) / 2e-6 for i in range(len(pos))]
    close(ours, torch.tensor(expected), WITHIN)


@pytest.mark.parametrize(
    ("family", "which", "baseline"),
    [("gpt2", "across layers", "patch"), ("gemma2", "per layer", "zero"), ("neox", "beside SAEs", "mean")],
)
def test_edges_measured(family: str, which: str, baseline: str) -> None:
    of, other, tables = both(family, which, baseline)
    pairs, named = of.pairs_of_all_sizes(85), nodes(of)
    expected = []
    for up, u, down, d in zip(pairs.up, pairs.up_node, pairs.down, pairs.down_node, strict=True):
        node = named[up][u]
        target = None if down == TARGET else named[down][d]  # dictionaries come before the tokens
        expected.append(other.edge(node, added(other, node, baseline, tables), target))
    expected = torch.tensor(expected)
    close(of.measured_edges(pairs), expected, WITHIN, floor=of.rounding)
    assert (expected.abs() > 10 * of.rounding).sum() > 30


@pytest.mark.parametrize("which", SETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_edges_add_up_to_the_effect(family: str, which: str) -> None:
    of, _, _ = both(family, which, BASELINES[(FAMILIES.index(family) + SETS.index(which)) % 3])
    into, target = of.edges()
    close(torch.stack([target, *(one.sum(0) for one in into)]).sum(0), of.estimates(), 1e-5)
    assert min(one.features for one in of.parts) > 0


@pytest.mark.parametrize("errors", ["kept", "removed"])
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(
    ("family", "which", "baseline"),
    [("gpt2", "per layer", "mean"), ("gpt2", "across layers", "patch"), ("gemma2", "across layers", "mean"),
     ("llama", "beside SAEs", "zero"), ("neox", "across layers", "zero")],
)  # fmt: skip
def test_a_circuit_alone(family: str, which: str, baseline: str, share: float, errors: str) -> None:
    of, other, _ = both(family, which, "zero")
    model, draw, place = of.model, torch.Generator().manual_seed(3), of.counts.nonzero().squeeze(1)
    there, _ = other.passed(OTHER, {})
    keep, become, lost, ours = {}, {}, {}, []
    for site, one in dictionaries(model, which).items():
        keep[site] = torch.rand(one.d_sae, generator=draw) < share
        clean, means = other.all[site].encode(there[site]), torch.linspace(0, 0.5, one.d_sae)
        become[site] = {"zero": 0 * means, "mean": means, "patch": clean}[baseline]
        error = other.error(one.writes, there)
        lost[one.writes] = {"zero": 0 * error, "mean": error[place[:1]].expand_as(error), "patch": error}[baseline]
        instead = {
            "zero": Instead(),
            "mean": Instead(features=means, error=lost[one.writes][place][:1].float()),
            "patch": Instead(active=one.active(there[site][place].float()), error=lost[one.writes][place].float()),
        }[baseline]
        ours.append(Keeping(one, keep[site][None], torch.tensor([errors == "kept"]), instead))
    expected = other.kept(keep, become, {} if errors == "kept" else lost)
    run = model.run(PROMPT.unsqueeze(0), [], final=True, edits=keeping(ours, of.counts))
    assert run.final is not None
    assert float(METRIC.of(model.logits(run.final[:, -1]))) == pytest.approx(expected, abs=1e-4)
    if share == 1 and errors == "kept":
        assert expected == pytest.approx(other.m, abs=1e-6)
    else:
        assert abs(expected - other.m) > 1e-3
