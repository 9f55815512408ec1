"""What attribution can't be computed of is said in two lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from support.attributed import Asked, ask
from support.fakes import VOCAB, LinearModel, linear_sae
from torch import Tensor

from circuitcli.core.attribution.metric import Metric
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.model import Pass
from circuitcli.core.sites import Site
from circuitcli.errors import InputError

PROMPT = torch.randint(0, VOCAB, (6,), generator=torch.Generator().manual_seed(0))
SITES = [Site(0, "attn_out"), Site(1, "resid_post")]


def asked(model: LinearModel, saes: list[Dictionary] | None = None) -> Asked:
    return ask(model, PROMPT, saes or [linear_sae(site) for site in SITES], metric=Metric(3, 5))


def half(**times: float) -> LinearModel:
    """In float16, some of its matrices larger."""
    one = LinearModel.random()
    return LinearModel(*(
        (getattr(one, f.name) * times.get(f.name, 1.0)).half() for f in fields(one) if f.name != "resumes_at_places"
    ))  # fmt: skip


def refused(work: Callable[[], Any], message: str, hint: str) -> None:
    with pytest.raises(InputError) as error:
        work()
    assert error.value.exit_code == 3
    assert message in error.value.message
    assert hint in error.value.hint
    assert "\n" not in error.value.message + error.value.hint


def test_gradients_beyond_float16() -> None:
    """Where the logits still are numbers: of small embeddings, and what reads them large."""
    of = asked(half(embedding=1e-5, m=300.0, u=3e3))
    assert of.prompt.logits.isfinite().all()
    for work in (of.estimates, lambda: of.integrated(3)):
        refused(work, "A gradient of the metric isn't finite.", "--dtype float32")


def test_products_beyond_float16() -> None:
    """Gradients of sites are numbers, but a row of an encoder beside them isn't."""
    model = half()
    assert all(one.isfinite().all() for one in asked(model).estimates())
    saes = [linear_sae(site) for site in SITES]
    large = replace(saes[1], w_enc=1e6 * saes[1].w_enc, w_dec=saes[1].w_dec)
    refused(asked(model, [saes[0], large]).edges, "A gradient of the metric isn't finite.", "--dtype float32")


def test_weights_that_are_no_numbers() -> None:
    one = LinearModel.random()
    refused(lambda: asked(replace(one, m=one.m * torch.inf)), "no numbers", "--dtype float32")


def test_an_effect_that_is_no_number() -> None:
    """Clean logits are numbers, but a node's replacement leads beyond float16."""
    model = half(u=300.0)
    saes = [linear_sae(site) for site in SITES]
    far = ask(model, PROMPT, saes, metric=Metric(3, 5), replace=lambda pos, feature, a: a + 1e4)
    refused(far.exact, "no numbers", "--dtype float32")


@dataclass(frozen=True, eq=False)
class Detached(LinearModel):
    """Through which no gradient passes."""

    def run(self, *args: Any, **options: Any) -> Pass:
        with torch.no_grad():
            return super().run(*args, **options)

    def logits(self, final: Tensor) -> Tensor:
        return super().logits(final).detach()


def test_a_model_without_gradients() -> None:
    of = asked(Detached.random())
    for work in (of.estimates, lambda: of.integrated(3)):
        refused(work, "No gradient can be had of this model", "circuit ablate")
    assert torch.cat(of.exact()).abs().max() > 0, "effects can be measured all the same"
