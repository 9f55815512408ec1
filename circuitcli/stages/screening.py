"""What single components do to m of an example: estimated for all of them by one pass back, measured for some.

Component j is replaced at all positions that count together, as it would be outside a circuit:

    estimate (atp)    Σ_p ∂m/∂a_jp · (c_jp − a_jp)
    measured          m(j replaced) − m(clean)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuitcli.core.attribution.gradients import require_finite
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.edits import watching
from circuitcli.core.evidence.examples import Example, combined
from circuitcli.core.evidence.keeping import Instead
from circuitcli.core.model import Addition
from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.stages.judging import Components, Judge, Opened

Batches = Callable[[int, int, Callable[[slice], Tensor]], Iterator[Tensor]]


@dataclass(frozen=True, eq=False)
class Screened:
    """Of one example, by kind of component and site.

    Attributes:
        atp: The estimates.
        activation: Σ_p a_jp of features.
    """

    atp: dict[Components, dict[Site, Float[Tensor, " n"]]]
    activation: dict[Site, Float[Tensor, " n"]]


def screen(judge: Judge, example: Example, number: int) -> Screened:
    """Estimate all components of an example.

    Raises:
        InputError: No gradient can be had of this model, or one isn't finite.
    """
    dictionaries, neurons = judge.dictionaries, list(judge.neurons)
    reads = sorted({one.reads for one in dictionaries}, key=lambda site: site.order)
    writes = sorted({site for one in dictionaries for site in one.written}, key=lambda site: site.order)
    opened = judge.open(example, number, read=[*reads, *writes, *neurons])
    found = Screened({"features": {}, "neurons": {}, "dimensions": {}}, {})
    with torch.no_grad():
        signs = _signs(judge, opened)
    for one, sign in zip(opened, signs, strict=True):
        if sign:
            gradient = _gradient(judge, one, [*writes, *neurons])
            _add(found, judge, one, {site: sign * each for site, each in gradient.items()})
    return found


def measure(
    judge: Judge, opened: Sequence[Opened], site: Site, features: Int[Tensor, " n"], batches: Batches
) -> Float[Tensor, " n"]:
    """The measured effects of some features of a site on an example whose sites were read when it was opened."""
    dictionary = next(one for one in judge.dictionaries if one.reads == site)
    clean = judge.clean(opened)
    found = torch.zeros(len(features), dtype=torch.float64)
    moved = [_moved(dictionary, one, features) for one in opened]
    does = torch.stack([one.abs().amax(0) > 0 for one in moved]).any(0).nonzero().squeeze(1)
    if not len(does):
        return found

    def work(part: slice) -> Tensor:
        rows = does[part]
        finals = [
            _resumed(judge, dictionary, one, features[rows], by[:, rows]) for one, by in zip(opened, moved, strict=True)
        ]
        read = [one.reading.of(judge.model, final, one.clean) for one, final in zip(opened, finals, strict=True)]
        return combined(read)

    longest = max(len(one.tokens) for one in opened)
    found[does.cpu()] = torch.cat(list(batches(len(does), longest, work))).double().cpu() - clean
    return found


def _signs(judge: Judge, opened: Sequence[Opened]) -> list[float]:
    """∂m of an example by the reading of each of its sequences: of several the first one's and the best other's."""
    read = [float(one.reading.of(judge.model, one.clean.unsqueeze(0), one.clean)[0]) for one in opened]
    if len(read) == 1:
        return [1.0]
    best = max(range(1, len(read)), key=lambda i: read[i])
    return [1.0, *(-1.0 if i == best else 0.0 for i in range(1, len(read)))]


def _gradient(judge: Judge, one: Opened, sites: Sequence[Site]) -> dict[Site, Float[Tensor, "p d"]]:
    """∂(reading)/∂x at each site, at the positions that count."""
    seen: dict[Site, Tensor] = {}
    with torch.enable_grad():
        run = judge.model.run(one.tokens.unsqueeze(0), [], final=True, edits=watching(sites, seen))
        assert run.final is not None
        value = one.reading.of(judge.model, run.final, one.clean)
        if not value.requires_grad:
            raise InputError(
                "No gradient can be had of this model, by which features are chosen.",
                hint="Choose a model that docs/models-and-text.md lists.",
            )
        found = torch.autograd.grad(value.sum(), [seen[site] for site in sites])
    require_finite(found)
    return {site: grad[0][one.counts].float() for site, grad in zip(sites, found, strict=True)}


def _add(found: Screened, judge: Judge, one: Opened, gradient: dict[Site, Float[Tensor, "p d"]]) -> None:
    """Add what one sequence says."""
    for dictionary in judge.dictionaries:
        site, x = dictionary.writes, one.run.sites[dictionary.reads][0][one.counts].float()
        a, lands = dictionary.encode(x), dictionary.lands
        # ∂m/∂a_j = Σ g·σW_dec[j], of a frame that centres without the mean of the decoder's row.
        weights = (lands.step(gradient[by.site], x) @ by.whole().T for by in dictionary.decoders)
        weight, moved = sum(weights), _replacement(one.instead[dictionary.reads], a) - a
        _sum(found.atp["features"], dictionary.reads, (weight * moved).sum(0))
        _sum(found.activation, dictionary.reads, a.sum(0))
        y = one.run.sites[site][0][one.counts].float()
        _sum(found.atp["dimensions"], site, (gradient[site] * (one.values[site] - y)).sum(0))
    for site in judge.neurons:
        y = one.run.sites[site][0][one.counts].float()
        _sum(found.atp["neurons"], site, (gradient[site] * (one.values[site] - y)).sum(0))


def _sum(into: dict[Site, Tensor], site: Site, value: Float[Tensor, " n"]) -> None:
    into[site] = into[site] + value if site in into else value


def _replacement(instead: Instead, a: Float[Tensor, "p n"]) -> Float[Tensor, "#p n"]:
    """What replaces every feature, c."""
    if instead.active is not None:
        c = torch.zeros_like(a)
        c[instead.active.place, instead.active.feature] = instead.active.value
        return c
    return torch.zeros_like(a[:1]) if instead.features is None else instead.features.unsqueeze(0)


def _moved(dictionary: Dictionary, one: Opened, features: Int[Tensor, " n"]) -> Float[Tensor, "p n"]:
    """By how much some features change, c − a, at the positions that count."""
    a = dictionary.encode(one.run.sites[dictionary.reads][0][one.counts].float())
    return (_replacement(one.instead[dictionary.reads], a) - a)[:, features]


def _resumed(
    judge: Judge, dictionary: Dictionary, one: Opened, features: Int[Tensor, " b"], moved: Float[Tensor, "p b"]
) -> Float[Tensor, "b t d"]:
    """The last stream of a pass in which each row replaces a feature."""
    model, x = judge.model, one.run.sites[dictionary.reads][0][one.counts].float()
    deltas = {}
    for decoder in dictionary.decoders:
        by = moved.T.unsqueeze(-1) * decoder.rows(features).unsqueeze(1)
        deltas[decoder.site] = torch.zeros(len(features), len(one.tokens), by.shape[-1], device=x.device)
        deltas[decoder.site][:, one.counts] = dictionary.lands.step(by, x.expand(len(features), -1, -1))
    edit = Addition.of(deltas)
    base = {name: one.run.sites[name].expand(len(features), -1, -1) for name in model.bases(edit.site)}
    run = model.resume(one.run, base, edit, [], final=True)
    assert run.final is not None
    return run.final
