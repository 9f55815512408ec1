"""What doctor does not compute again, and that it comes out as if it had."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import torch
from support import smol, tiny
from torch.utils.flop_counter import FlopCounterMode

from circuitcli.core import examination, reconstruction
from circuitcli.core.edits import adding
from circuitcli.core.examination import Examiner
from circuitcli.core.fit import Fit
from circuitcli.core.reading import Variant
from circuitcli.core.reconstruction import Splicer, Text
from circuitcli.core.sites import Site
from circuitcli.runtime.model import BridgeModel


@dataclass
class Counting:
    """A model, and how many positions went through it, padding left out."""

    model: BridgeModel
    positions: Counter[str] = field(default_factory=Counter)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def run(self, tokens, *args, **kwargs):
        self.positions["run"] += tokens.numel()
        return self.model.run(tokens, *args, **kwargs)

    def resume(self, clean, base, edit, *args, **kwargs):
        self.positions["resumed"] += edit.delta[..., 0].numel()
        return self.model.resume(clean, base, edit, *args, **kwargs)

    def logits(self, final):
        self.positions["logits"] += len(final)
        return self.model.logits(final)


@pytest.fixture
def text() -> Text:
    """Eleven sequences of unlike length."""
    lengths = torch.tensor([9, 12, 5, 12, 7, 3, 12, 8, 2, 11, 6])
    tokens = torch.randint(1, tiny.VOCAB, (len(lengths), 12), generator=torch.Generator().manual_seed(0))
    return Text(tokens * (torch.arange(12) < lengths.unsqueeze(1)), lengths, bos=False)


@pytest.mark.parametrize("name", ["resid_post", "z", "resid_mid"])
def test_a_reading_in_two_steps_is_one_by_whole_passes(bridge, saes, text, name):
    """Few sequences first, with another variant beside it; against passes from the tokens, a sequence at a time."""
    site = Site(1, name)
    variant, other = Variant("", "", saes[site]), Variant("other", "", saes[Site(1, "mlp_out")])
    splicer = Splicer(bridge, text, [site, other.sae.reads], first=4)
    [few, _] = splicer.score([variant, other], few=True)
    [found] = splicer.score([variant])
    assert set(few.seq) == {0, 1, 2, 3}
    assert set(found.seq) == set(range(11))
    order = np.lexsort((found.token, found.seq))
    kl, nats, zero = [], [], []
    for row, length in zip(text.tokens, text.lengths.tolist(), strict=True):
        tokens = row[None, :length]
        x = bridge.run(tokens, [site]).sites[site].float()
        delta = saes[site].decode(saes[site].encode(x), x) - x
        delta[:, 0] = 0
        before, after, without = (
            bridge.logits(bridge.run(tokens, [], final=True, edits=edits).final[0]).double().log_softmax(-1)
            for edits in (None, adding(site, delta), adding(site, -x * (torch.arange(length) >= 1)[None, :, None]))
        )
        kl += (before.exp() * (before - after)).sum(-1)[1:].tolist()
        zero += (before.exp() * (before - without)).sum(-1)[1:].tolist()
        nats += [*(-after[p, tokens[0, p + 1]].item() for p in range(1, length - 1)), float("nan")]
    assert found.spliced.kl[order] == pytest.approx(kl, rel=1e-3, abs=1e-4)
    assert found.zero.kl[order] == pytest.approx(zero, rel=1e-3, abs=1e-4)
    assert found.spliced.nats[order] == pytest.approx(nats, rel=1e-4, abs=1e-4, nan_ok=True)


def test_clean_passes_and_clean_logits_are_made_once(bridge, saes, text, monkeypatch):
    """And sequences of like length are together: little is padded."""
    monkeypatch.setattr(reconstruction, "_PASS", 30)
    model = Counting(bridge)
    variants = [Variant(str(i), "", saes[Site(1, "resid_post")]) for i in range(5)]
    splicer = Splicer(model, text, [Site(1, "resid_post")], first=11)
    splicer.score(variants, splice=False)
    splicer.score(variants)
    splicer.score(variants)
    counted = int((text.lengths - 1).sum())
    assert model.positions["logits"] == (1 + 5 + 1) * counted, "clean, five spliced, zero"
    assert int(text.lengths.sum()) <= model.positions["run"] <= 1.3 * int(text.lengths.sum())
    assert model.positions["resumed"] == 6 * model.positions["run"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[BridgeModel, Any]:
    """A Llama of the large one's proportions, a third as deep, and an SAE in its middle."""
    folder = tmp_path_factory.mktemp("smol")
    sizes = {"num_hidden_layers": 10, "hidden_size": 144, "intermediate_size": 384, "vocab_size": 4096}
    model = smol.save_model(folder / "model", smol.config(**sizes))
    smol.save_sae(folder / "saes" / "one", model, 5, 1152)
    [sae] = tiny.load_saes(folder / "saes").values()
    return tiny.load_model(model), sae


def examined(small: tuple[BridgeModel, Any]) -> tuple[Fit, float, Counter[str], int]:
    """How it fits on doctor's 2,000 positions, and what that took: in passes with logits, and in positions."""
    inner, sae = small
    model = Counting(inner)
    tokens = torch.randint(1, 4000, (22, 94), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = smol.BOS
    text = Text(tokens, torch.full((22,), 94), bos=True)
    with FlopCounterMode(display=False) as one:
        inner.logits(inner.run(tokens, [], final=True).final.flatten(0, 1))
    with FlopCounterMode(display=False) as all_:
        fit = Examiner(model, text, smol.BOS, [sae]).examine(sae, full=True)
    return fit, all_.get_total_flops() / one.get_total_flops(), model.positions, tokens.numel()


def test_an_examination_costs_few_passes(small, monkeypatch):
    """Without trying few sequences first it is the other number that is printed."""
    fit, passes, positions, count = examined(small)
    assert len(fit.alternatives) >= 8
    assert {a.positions for a in fit.alternatives} <= {3 * 93, 3 * 92}, "none of them is near"
    assert positions["run"] == count + 3 * 93, "as it is, and of few sequences without BOS"
    elsewhere = {a.site for a in fit.alternatives} - {fit.site}
    few = 3 * 94 * (len(fit.alternatives) - 1 + len(elsewhere)) + 3 * 93 * 2
    assert positions["resumed"] == 2 * count + few, "the SAE and zero in all, what is changed in three of 22"
    monkeypatch.setattr(examination, "undecided", lambda stated, tried: True)
    whole, before, _, _ = examined(small)
    print(f"{passes:.2f} passes instead of {before:.2f}: {before / passes:.1f} times fewer")
    assert {a.positions for a in whole.alternatives} == {22 * 93, 22 * 92}
    assert passes <= 5
    assert before / passes >= 2.2
    assert (whole.verdict, whole.numbers) == (fit.verdict, fit.numbers)


def test_a_change_that_could_be_better_is_tried_on_all(small):
    """The sign of b_dec is wrong: the change that mends it is found in few sequences, and shown on all."""
    model, sae = small
    tokens = torch.randint(1, 4000, (22, 94), generator=torch.Generator().manual_seed(0))
    text = Text(tokens, torch.full((22,), 94), bos=False)
    wrong = replace(sae, b_dec=-sae.b_dec)
    examiner = Examiner(model, text, None, [wrong])
    by_name = {a.name: a for a in examiner.examine(wrong, full=True).alternatives}
    assert by_name["b_dec negated"].better
    assert by_name["b_dec negated"].positions == 22 * 93
    assert {a.positions for a in by_name.values() if not a.better} >= {3 * 93}


@pytest.mark.parametrize("full", [True, False])
def test_what_is_done_adds_up_to_what_was_told(small, full):
    model, sae = small
    tokens = torch.randint(1, 4000, (9, 94), generator=torch.Generator().manual_seed(0))
    read, done = [], []
    examiner = Examiner(model, Text(tokens, torch.full((9,), 94), bos=True), smol.BOS, [sae], read.append)
    assert sum(read) == 9
    [trial] = examiner.trials([sae])
    trial.examine(full=full, done=done.append)
    assert sum(done) == trial.total == 9 * (1 + len(trial.changes))
    steps = list(itertools.accumulate(done))
    assert steps == sorted(steps)
    assert len([step for step in steps if 0 < step < trial.total]) >= 3, "it moves"


def test_the_large_one_is_as_it_is_said():
    from transformers import LlamaForCausalLM

    with torch.device("meta"):
        assert LlamaForCausalLM(smol.config()).num_parameters() == 134_515_008
