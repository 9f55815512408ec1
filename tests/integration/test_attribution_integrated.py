"""ig of all nodes of a site adds up to what replacing them all does, and comes nearer with more steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support.attributed import MIXED, Asked, Part, ask, dictionaries
from support.attributed_plain import PlainPrompt
from support.families import VOCAB, Hf, plain, save_checkpoint
from support.tiny import load_model, load_saes
from torch import Tensor
from transformers import AutoTokenizer

from circuitcli import demo
from circuitcli.core.attribution.metric import Metric
from circuitcli.core.dictionary import Dictionary
from circuitcli.runtime.model import BridgeModel

pytestmark = pytest.mark.seams
PROMPT, OTHER = torch.randint(2, VOCAB, (2, 7), generator=torch.Generator().manual_seed(11))
STEPS = (5, 50, 200)
FINE = 3e-4  # a share that float32 may hide, of effects that are small beside the logits


def centred_on_its_site(model: BridgeModel, one: Dictionary) -> Dictionary:
    """With the mean of what it sees as b_dec, as trained ones have about: where nothing fires is no odd place then."""
    texts = torch.randint(2, VOCAB, (16, 7), generator=torch.Generator().manual_seed(8))
    x = model.run(texts, [one.reads]).sites[one.reads][:, 1:].flatten(0, 1)
    return replace(one, b_dec=one.frame.seen(x).mean(0))


def shares(of: Asked, hf: Hf, *, with_tokens: bool) -> dict[str, list[float]]:
    """By site |Σ ig − Δ| / |Δ| at each number of steps; Δ = m(baseline) − m(clean), by hooks, float64."""
    metric = of.prompt.metric
    other = PlainPrompt(hf, of.prompt.tokens, of.counts, of.dictionaries, metric.of)
    found = {}
    ig = [of.integrated(steps, 50) for steps in STEPS]
    for i, source in enumerate(of.sources):
        total = source.total(len(of.prompt)).double()

        def change(x: Tensor, total: Tensor = total) -> Tensor:
            return x + total

        if isinstance(source, Part) or with_tokens:
            with torch.no_grad():
                whole = float(other.after({source.site: change})) - other.m
            found[str(source.site)] = [abs(float(each[i].sum()) - whole) / abs(whole) for each in ig]
    return found


def check(found: dict[str, list[float]]) -> None:
    for site, (few, some, many) in found.items():
        assert some <= 0.05, (site, few, some, many)
        assert some <= max(few, FINE), (site, few, some, many)
        assert many <= max(some / 4, FINE), (site, few, some, many)  # a sixteenth by the midpoint rule, where smooth
    assert max(few for few, _, _ in found.values()) > 0.005, "or there is nothing that steps could improve"


@pytest.mark.parametrize("baseline", ["zero", "patch"])
@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
def test_random_models(tmp_path: Path, family: str, baseline: str) -> None:
    folder = save_checkpoint(family, tmp_path)
    model = load_model(folder)
    saes = [centred_on_its_site(model, one) for one in dictionaries(model, MIXED[1:])]
    of = ask(model, PROMPT, saes, metric=Metric(7), special=[3], other=OTHER if baseline == "patch" else None)
    check(shares(of, plain(folder, family), with_tokens=baseline == "patch"))


@pytest.mark.parametrize("baseline", ["zero", "patch"])
def test_the_demo(baseline: str) -> None:
    """A trained model and trained dictionaries, at all their sites."""
    words = AutoTokenizer.from_pretrained(demo.MODEL)
    prompt, other = (
        torch.tensor([words.bos_token_id, *words(text)["input_ids"]])
        for text in ("In the beginning, God created the", "In the morning, Jacob called the")
    )
    saes = list(load_saes(demo.SAES).values())
    of = ask(load_model(demo.MODEL), prompt, saes, other=other if baseline == "patch" else None)
    found = shares(of, plain(demo.MODEL, "gpt2"), with_tokens=baseline == "patch")
    assert len(found) == len(saes) + (baseline == "patch")
    check(found)
