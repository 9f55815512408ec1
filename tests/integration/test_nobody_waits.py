"""A batch of ablations on a device of its own: the host asks it once, at the end, and the numbers are the CPU's.

The device is pretended (`support.elsewhere`), the models are those of transformers behind the bridge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from support import elsewhere, engine
from support.elsewhere import DEVICE, Elsewhere
from support.families import FAMILIES, VOCAB, save_checkpoint
from support.random_saes import KINDS, random_clt, random_sae, random_transcoder
from support.tiny import load_model

from circuitcli.core import ablation, compared, dictionary, transfer
from circuitcli.core.active import Active, where
from circuitcli.core.contexts import Firings
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.directions import Directions
from circuitcli.core.frame import Frame
from circuitcli.core.next_token import TokenSums
from circuitcli.core.sites import Site
from circuitcli.runtime.model import BridgeModel
from circuitcli.stages.assembly import Ablations, Baseline, effect_columns

pytestmark = pytest.mark.seams

ONCE = ["aten::_to_copy"]  # how much changed, at all sites together
D_SAE = 20
LENGTHS = torch.tensor([6, 4, 8])
TOKENS = torch.randint(1, VOCAB, (3, 8), generator=torch.Generator().manual_seed(5))
SPECIAL = torch.zeros(3, 8, dtype=torch.bool)
SPECIAL[0, 3] = SPECIAL[2, 7] = True
SEQ = torch.tensor([0, 2, 1, 0, 2, 2])
POS = torch.tensor([2, 4, 1, 5, 4, 7])
FEATURE = torch.tensor([3, 0, 19, 3, 7, 7])
POSITIONS: dict[str, tuple[bool, int | None]] = {  # whether whole sequences are edited, and the horizon
    "top": (False, 0),
    "onward": (False, None),
    "one onward": (False, 1),
    "all": (True, 0),
}
INTERVENTIONS = {
    "zero": torch.zeros(6),
    "mean": torch.tensor([0.4, 0.1, 0.2, 0.4, 0.3, 0.3]),
    "resample": torch.tensor([0.0, 1.5, 0.2, 0.7, 0.0, 2.3]),
}
_UP, _BEHIND = Site(1, "resid_mid"), [Site(1, "mlp_out"), Site(2, "attn_out"), Site(3, "resid_post")]


@pytest.fixture(autouse=True)
def pretending() -> Iterator[None]:
    with elsewhere.pretending(), torch.no_grad():
        yield


@cache
def model_of(family: str) -> BridgeModel:
    return load_model(save_checkpoint(family, Path(mkdtemp())))


def saes_of(model: BridgeModel, coder: str, kind: str) -> tuple[Site, dict[Site, Dictionary]]:
    """The edited site, and dictionaries there and behind it."""
    frame = Frame({"relu": "none", "topk": "layer_norm"}.get(kind, "constant_norm"))  # type: ignore[arg-type]
    up = _UP if coder == "transcoder" or not model.shape.parallel else Site(1, "resid_pre")
    if coder == "across layers":
        clt = random_clt(model, kind, skip=True, d_sae=D_SAE)
        return Site(1, "mlp_in"), {
            site: clt[site] for site in (Site(1, "mlp_in"), Site(2, "mlp_in"), Site(3, "mlp_in"))
        }
    behind = [Site(2, "mlp_in"), Site(3, "resid_post")] if coder == "transcoder" else _BEHIND
    found = {site: random_sae(model, site, kind, frame, D_SAE, i) for i, site in enumerate([up, *behind])}
    if coder == "transcoder":
        up = Site(1, "mlp_in")
        found = {up: random_transcoder(model, up, kind, skip=True, d_sae=D_SAE)} | {s: found[s] for s in behind}
    return up, found


@dataclass(frozen=True)
class Case:
    """Six ablations, and what they start from."""

    model: BridgeModel
    saes: dict[Site, Dictionary]
    up: Site
    ablations: Ablations
    acts: dict[Site, Active]
    logits: bool

    @classmethod
    def of(
        cls, family: str, coder: str, kind: str, positions: str, c: str = "zero", *, logits: bool, at_once: int = 4
    ) -> Case:
        model = model_of(family)
        up, saes = saes_of(model, coder, kind)
        whole, horizon = POSITIONS[positions]
        pos = torch.full_like(POS, -1) if whole else POS
        contexts = Firings(*(part.numpy().astype(np.int32) for part in (SEQ, pos, FEATURE)), np.ones(6, np.float32))
        ablations = Ablations(up, contexts, INTERVENTIONS[c].numpy(), np.arange(6) % 2, horizon, at_once, 2)
        acts = engine.encoded(model, saes, (TOKENS, LENGTHS), SPECIAL)
        return cls(model, saes, up, ablations, acts, logits)

    def made(self, *, away: bool, decoder: bool = False) -> tuple[list[Any], TokenSums | None, list[list[str]]]:
        """Batch by batch what came of them, and what each waited for."""
        saes, acts, tokens, waited = self.saes, self.acts, TOKENS, []
        if away:
            saes = {site: elsewhere.dictionary(one, decoder=decoder) for site, one in saes.items()}
            acts, tokens = {site: active.to(DEVICE) for site, active in self.acts.items()}, Elsewhere(TOKENS)
        edited = sorted({self.up, saes[self.up].writes}, key=lambda site: site.order)
        follow = tokens.unsqueeze(2).expand(-1, -1, 2) if self.logits else None
        clean = ablation.read_clean(
            self.model, edited, tokens, LENGTHS, acts, logits=self.logits, special=SPECIAL, follow=follow
        )
        baseline = Baseline(
            self.model.runtime,
            self.model,
            {site: one.writes for site, one in saes.items()},
            lambda _: saes,
            np.zeros_like,
            lambda *_: clean,
        )
        sums = TokenSums(2, VOCAB, self.model.device) if self.logits else None
        results, batches = [], self.ablations.made(baseline, sums)
        while True:
            with elsewhere.waits() as seen:
                one = next(batches, None)
            if one is None:
                return results, sums, waited
            results.append(one)
            waited.append(seen)


def check(case: Case, *, decoder: bool = False) -> list[list[str]]:
    """The same numbers here and there; what each batch waited for."""
    here, sums, none = case.made(away=False)
    assert none == [[]] * len(here)
    with elsewhere.bridged(case.model):
        there, far, waited = case.made(away=True, decoder=decoder)
    changed = 0
    for (at, one), (also, two) in zip(here, there, strict=True):
        assert torch.equal(one.row, two.row)
        assert torch.equal(one.pos, two.pos)
        ours, theirs = list(effect_columns(case.up, at, one)), list(effect_columns(case.up, also, two))
        for a, b in zip(ours, theirs, strict=True):
            changed += len(a["clean"])
            for name, column in a.items():
                assert np.array_equal(column, b[name]), name
        if one.kl is not None:
            assert torch.equal(one.kl, two.kl.cpu())
            for a, b in zip(one.followed, two.followed, strict=True):
                assert torch.equal(a, b.cpu())
    assert changed > 5
    if sums is not None:
        assert far is not None
        assert far.logprob.device == DEVICE
        assert torch.equal(sums.logprob, far.logprob.cpu())
        assert torch.equal(sums.prob, far.prob.cpu())
    return waited


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_families(family: str, positions: str) -> None:
    assert check(Case.of(family, "sae", "relu", positions, logits=True)) == [ONCE, ONCE]


@pytest.mark.parametrize("coder", ["sae", "transcoder", "across layers"])
@pytest.mark.parametrize("kind", KINDS)
def test_dictionaries(kind: str, coder: str) -> None:
    assert check(Case.of("gemma2", coder, kind, "top", "mean", logits=True), decoder=True) == [ONCE, ONCE]
    assert check(Case.of("gpt2", coder, kind, "onward", "resample", logits=False)) == [ONCE, ONCE]


@pytest.mark.parametrize("c", INTERVENTIONS)
@pytest.mark.parametrize("positions", POSITIONS)
def test_interventions(positions: str, c: str) -> None:
    assert check(Case.of("llama", "sae", "jumprelu", positions, c, logits=False)) == [ONCE, ONCE]


def test_whole_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case.of("gpt2", "sae", "gated", "top", "mean", logits=True)
    monkeypatch.setattr(case.model, "whole_because", "it is a test")
    assert check(case) == [ONCE, ONCE]


def test_dictionaries_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictionary, "_DENSE_BYTES", 4 * D_SAE)  # a reading at a time
    assert check(Case.of("gpt2", "sae", "topk", "onward", logits=False)) == [ONCE, ONCE]


def test_where_more_fires_than_there_was_room_for_it_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compared, "_MORE", 0)
    monkeypatch.setattr(compared, "_TIMES", 0)
    assert check(Case.of("gpt2", "sae", "relu", "top", logits=True)) == [2 * ONCE, 2 * ONCE]


CALLS: dict[str, tuple[Callable[[torch.Tensor], object], str]] = {  # what asks the device, and what it waits for
    "item": (lambda x: x.flatten()[0].item(), "aten::_local_scalar_dense"),
    "bool": (lambda x: bool((x > 0).any()), "aten::_local_scalar_dense"),
    "tolist": (lambda x: x.tolist(), "aten::_to_copy"),
    "cpu": (lambda x: x.cpu(), "aten::_to_copy"),
    "nonzero": (lambda x: x.nonzero(), "aten::nonzero"),
    "a mask": (lambda x: x[x > 0], "aten::index"),
    "an index of the host": (lambda x: x[torch.tensor([0])], "aten::index"),
}
WHERE: dict[str, tuple[Any, str]] = {
    "in a decoder": (Directions, "edit"),
    "in a block": (BridgeModel, "_block"),
    "in an encoder": (Dictionary, "pre_activations"),
    "in a list of what fires": (compared, "_first"),
    "in the next token": (TokenSums, "_add"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("where", WHERE)
def test_a_call_that_asks_the_device_is_seen(monkeypatch: pytest.MonkeyPatch, where: str, call: str) -> None:
    (place, name), (ask, operation) = WHERE[where], CALLS[call]
    before = getattr(place, name)

    def asking(*args: Any) -> object:
        for x in args:
            if isinstance(x, Elsewhere):
                ask(x)
        return before(*args)

    case = Case.of("gpt2", "sae", "relu", "top", logits=True)
    monkeypatch.setattr(place, name, asking)
    for waited in check(case):
        assert set(waited[:-1]) == {operation}


CHANGED: dict[str, tuple[object, str, Any, str]] = {  # where, what, by what else, and what it waits for
    "features that fire are listed": (
        compared, "_first", lambda mask, size: (i := where(mask), torch.zeros_like(i).sum() + len(i)), "aten::nonzero",
    ),
    "copies from memory that may move": (transfer, "_COPY_ALONE", set(), "aten::_to_copy"),
    "rows of a decoder on the host are asked for batch by batch": (
        Directions, "_of", lambda self, one, feature: one.rows(feature), "aten::_to_copy",
    ),
    "counts without their sum": (
        torch.Tensor, "repeat_interleave", lambda x, counts, output_size: torch.repeat_interleave(x, counts),
        "aten::repeat_interleave",
    ),
}  # fmt: skip


@pytest.mark.parametrize("changed", CHANGED)
def test_a_batch_that_is_made_otherwise_waits(monkeypatch: pytest.MonkeyPatch, changed: str) -> None:
    place, name, other, operation = CHANGED[changed]
    case = Case.of("gpt2", "sae", "relu", "top", logits=True)
    monkeypatch.setattr(place, name, other)
    for waited in check(case):
        assert operation in waited[:-1]
