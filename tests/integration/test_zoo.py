"""Many families: each is read as plain transformers reads it, or refused, as docs/models-and-text.md says."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import CONFIGS, save_checkpoint
from support.tiny import load_model, save_model
from support.zoo import NEWEST, VOCAB, ZOO, Kept, save
from transformers import AutoModelForCausalLM

from circuitcli.core.sites import SITES, Site
from circuitcli.errors import InputError
from circuitcli.runtime import agreement, attention, head, model, weights
from circuitcli.runtime.agreement import Disagreement
from circuitcli.runtime.checkpoint import find, shape_of
from circuitcli.runtime.device import make

PAGE = Path(__file__).parents[2] / "docs" / "models-and-text.md"
pytestmark = pytest.mark.seams


@pytest.mark.parametrize("kept", ZOO, ids=lambda kept: kept.name)
def test_each_kind_is_exact_or_refused(kept: Kept, tmp_path: Path) -> None:
    folder = save(kept, tmp_path)
    if folder is None:
        pytest.skip("this version of transformers doesn't know it")
    if kept.verdict == "refused" and NEWEST:
        with pytest.raises(InputError) as refusal:
            load_model(folder)
        assert len(refusal.value.message) < 600
        assert "\n" not in refusal.value.message
        return
    try:
        found = load_model(folder)
    except InputError:  # never wrong, but older libraries may know fewer kinds
        if NEWEST:
            raise
        return
    if NEWEST:
        assert kept.verdict == ("exact, fast" if found.resumes_at_places else "exact, slow"), found.whole_because
    tokens = torch.randint(0, VOCAB, (3, 14), generator=torch.Generator().manual_seed(1))
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        theirs = plain(tokens, use_cache=False).logits.float().log_softmax(-1)
        final = found.run(tokens, [], final=True).final
        assert final is not None
        ours = found.logits(final.flatten(0, 1)).log_softmax(-1).view_as(theirs)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


@pytest.fixture
def anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No verdict is known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_the_page_has_the_table() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    assert rows == [f"| `{kept.name}` | {kept.verdict} | {kept.words or '–'} |" for kept in ZOO]


@pytest.mark.usefixtures("anew")
def test_a_head_that_is_read_wrongly_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Granite divides its logits: a head that only multiplies by the unembedding must not pass."""
    granite = next(kept for kept in ZOO if kept.kind == "granite")
    folder = save(granite, tmp_path)
    assert folder is not None

    def unscaled(self: Any, final: torch.Tensor) -> torch.Tensor:
        return self._unembed(self._norm(final.unsqueeze(0)))[0]

    monkeypatch.setattr(head.Head, "__call__", unscaled)
    with pytest.raises(InputError, match=r"differs from plain transformers in its logits, by \S+, 7\.0e\+00"):
        load_model(folder)


@pytest.mark.usefixtures("anew")
def test_attention_that_is_computed_in_another_way_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TransformerLens's own attention doesn't know of GPT-2 without scaled scores."""
    config = copy.deepcopy(CONFIGS["gpt2"])
    config.scale_attn_weights = False
    folder = save_checkpoint("gpt2", tmp_path, config=config)
    monkeypatch.setattr(model, "native", lambda bridged: None)
    with pytest.raises(InputError, match="differs from plain transformers in the stream into block 1"):
        load_model(folder)


@pytest.mark.usefixtures("anew")
@pytest.mark.parametrize("name", ["attn_out", "mlp_out", "z"])
def test_a_site_that_is_read_wrongly_is_refused(tiny_model: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = model.BridgeModel.run

    def wrong(self: Any, *args: Any, **more: Any) -> Any:
        found = run(self, *args, **more)
        if (site := Site(1, name)) in found.sites:
            found.sites[site] = found.sites[site] * 1.01
        return found

    monkeypatch.setattr(model.BridgeModel, "run", wrong)
    with pytest.raises(InputError, match=r"block 1|from 1\."):
        load_model(tiny_model)
    assert name in SITES


@pytest.mark.usefixtures("anew")
def test_whatever_is_raised_on_the_way_is_told(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("in some block\nand more")

    monkeypatch.setattr(agreement, "reference", broken)
    with pytest.raises(InputError) as refusal:
        load_model(tiny_model)
    assert "ZeroDivisionError: in some block)" in refusal.value.message


def test_a_position_encoding_that_switches_at_a_length(tmp_path: Path) -> None:
    """Law 4: beyond the original context a token's numbers depend on how far its batch goes. It is read up to there."""
    kept = next(kept for kept in ZOO if kept.kind == "phi3" and kept.options)
    folder = save(kept, tmp_path)
    assert folder is not None
    shape = shape_of("it", folder)
    assert shape.n_ctx == 16
    plain = weights.load(find(str(folder)), make("cpu", "float32", None, 0))
    agreement.reference(plain, shape)
    with pytest.raises(Disagreement, match=r"beyond its original context \(32 tokens\)"):
        agreement.reference(plain, replace(shape, n_ctx=32))


def test_a_model_is_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    reference = agreement.reference
    monkeypatch.setattr(agreement, "reference", lambda *args: tried.append("") or reference(*args))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for seed, times in ((3, 1), (3, 1), (4, 2)):
        load_model(save_model(tmp_path / str(seed), seed=seed))
        assert len(tried) == times
    load_model(tmp_path / "3", "bfloat16")
    assert len(tried) == 3
    for kept in (tmp_path / "cache").rglob("*.json"):
        kept.write_text("{")
    load_model(tmp_path / "3")
    assert len(tried) == 4
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert load_model(tmp_path / "3").resumes_at_places


def test_keys_and_values_are_kept_whatever_the_cache_is_called(tiny_model: Path) -> None:
    """No cache of transformers is made, so that no name of one matters."""
    found = load_model(tiny_model)
    done = found.run(torch.arange(2, 10).unsqueeze(0), [], final=True, keep=1)
    assert sorted(done.calls.kept.layers) == [1, 2]
    for args, kwargs in done.calls.blocks.values():
        assert not [value for value in (*args, *kwargs.values()) if type(value).__name__.endswith("Cache")]
    assert attention._using.get() is None
