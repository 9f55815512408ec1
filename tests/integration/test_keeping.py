"""m of a circuit, beside plain transformers with hooks and dictionaries written out, float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from test_attribution_plain import FAMILIES, OTHER, PROMPT, both
from torch import Tensor

from circuitcli.core.active import Active
from circuitcli.core.evidence.keeping import Instead, Keeping, keeping, keeping_values
from circuitcli.core.sites import NEURONS, Site

BASELINES = ("zero", "mean", "patch")
ERRORS = (True, False)


def kept_of(d_sae: int, site: Site, share: float) -> Tensor:
    draw = torch.Generator().manual_seed(sum(site.order) + 17 * site.layer)
    return torch.rand(d_sae, generator=draw) < share


@pytest.mark.parametrize("errors", ERRORS)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_circuit_is_what_plain_transformers_say(family: str, baseline: str, share: float, errors: bool):
    of, other, _ = both(family, "zero")
    place = of.counts.nonzero().squeeze(1)
    there = other.read(OTHER)
    means = {site: torch.linspace(0, 0.5, one.d_sae) for site, one in of.dictionaries.items()}
    ours = []
    for site, one in of.dictionaries.items():
        keep = kept_of(one.d_sae, site, share)
        x = there[site].float()[place]
        active, error = one.active(x), other.saes[site].error(there[site])[place].float()
        instead = {
            "zero": Instead(),
            "mean": Instead(features=means[site], error=error[:1]),
            "patch": Instead(active=Active(active.place, active.feature, active.value, one.d_sae), error=error),
        }[baseline]
        ours.append(Keeping(one, keep.unsqueeze(0), torch.tensor([errors]), instead))

    def change(site: Site) -> Callable[[Tensor], Tensor]:
        sae, keep = other.saes[site], kept_of(of.dictionaries[site].d_sae, site, share)

        def changed(y: Tensor) -> Tensor:
            x = y[0][place]
            a, b = sae.encode(x), sae.encode(there[site][place])
            c = {"zero": 0 * a, "mean": means[site].double().expand_as(a), "patch": b}[baseline]
            e = other.saes[site].error(there[site])[place]
            lost = {"zero": 0 * e, "mean": e[:1].expand_as(e), "patch": e}[baseline]
            shift, _, sigma = sae.scale(x)
            said = sigma * (torch.where(keep, a, c) @ sae.one.w_dec.double() + sae.one.b_dec.double()) + shift
            if sae.one.frame.centre:  # what features add has no mean there, whatever their decoders have
                moved = sigma * ((torch.where(keep, 0 * a, c - a)) @ sae.one.w_dec.double())
                said = said - moved.mean(-1, keepdim=True)
            out = y.clone()
            out[0, place] = said + (sae.error(x) if errors else lost)
            return out

        return changed

    with torch.no_grad():
        expected = float(other.after({site: change(site) for site in of.dictionaries}))
    run = of.model.run(PROMPT.unsqueeze(0), [], final=True, edits=keeping(ours, of.counts))
    assert run.final is not None
    found = float(of.prompt.metric.of(of.model.logits(run.final[:, -1])))
    assert found == pytest.approx(expected, abs=1e-4)
    if share == 1 and errors:
        assert found == pytest.approx(other.m, abs=1e-5)


def test_rows_have_circuits_of_their_own():
    of, _, _ = both("gpt2", "zero")

    def m(keeps: list[float], errors: list[bool]) -> Tensor:
        kept = [
            Keeping(one, torch.stack([kept_of(one.d_sae, site, s) for s in keeps]), torch.tensor(errors))
            for site, one in of.dictionaries.items()
        ]
        edits = keeping(kept, of.counts)
        run = of.model.run(PROMPT.expand(len(keeps), -1), [], final=True, edits=edits)
        assert run.final is not None
        return of.prompt.metric.of(of.model.logits(run.final[:, -1]))

    together = m([0.0, 0.4, 0.4, 1.0], [False, True, False, True])
    alone = [m([s], [e]) for s, e in ((0.0, False), (0.4, True), (0.4, False), (1.0, True))]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)
    assert len(set(together.tolist())) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_neurons_are_what_the_second_matrix_reads(family: str):
    of, _, _ = both(family, "zero")
    model, at = of.model, Site(1, NEURONS)
    counts = torch.ones(len(PROMPT), dtype=torch.bool)
    read = model.run(PROMPT.unsqueeze(0), [at, Site(1, "mlp_out")], final=True).sites
    width = read[at].shape[-1]
    assert width > model.shape.d_model
    some = torch.arange(width) < width // 2
    gone = model.run(
        PROMPT.unsqueeze(0),
        [at],
        final=True,
        edits=keeping_values(counts, some.unsqueeze(0), torch.full((1, 1), 0.25), at),
    ).sites[at]
    torch.testing.assert_close(gone, torch.where(some, read[at], 0.25))
    every = model.run(
        PROMPT.unsqueeze(0), [Site(1, "mlp_out")], final=True,
        edits=keeping_values(counts, torch.ones(1, width, dtype=torch.bool), torch.zeros(1, 1), at),
    ).sites[Site(1, "mlp_out")]  # fmt: skip
    torch.testing.assert_close(every, read[Site(1, "mlp_out")])
    halved = model.run(
        PROMPT.unsqueeze(0), [Site(1, "mlp_out")], final=True,
        edits=keeping_values(counts, some.unsqueeze(0), torch.zeros(1, 1), at),
    ).sites[Site(1, "mlp_out")]  # fmt: skip
    assert not torch.allclose(halved, read[Site(1, "mlp_out")])
