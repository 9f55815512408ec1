"""`circuit bench --precisions`: each row by other means, and that a precision lasts as long as it is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support import engine
from support.commands import Result, tsv

from circuitcli.core import ablation
from circuitcli.core.reference import ablate_one
from circuitcli.runtime import precision, shapes
from circuitcli.runtime.precision import BFLOAT16, FLOAT32, TF32, precisions
from circuitcli.settings import resolve
from circuitcli.stages import bench_precisions, cases
from circuitcli.stages.bench_precisions import Timings
from circuitcli.stages.cases import Case
from circuitcli.stages.report import Silent
from circuitcli.stages.timed import Workload
from circuitcli.stages.tools import Tools

Circuit = Callable[..., Result]
ARGS = ("bench", "--precisions", "--shape", "small", "--d-sae", "256", "--tokens", "10", "--budget", "2")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shape that is timed in a second."""
    sizes = {"n_layer": 4, "n_embd": 64, "n_head": 4, "vocab_size": 500, "n_positions": 64}
    monkeypatch.setitem(shapes.SHAPES, "small", ("GPT2Config", sizes))


@pytest.fixture
def tools() -> Tools:
    return Tools(resolve({}, {"runtime": {"device": "cpu"}}), Silent())


@pytest.fixture
def case(tools: Tools) -> Case:
    return cases.synthetic(tools, "small", 256, 10, tools.runtime.device)


@pytest.fixture
def timed(case: Case, tools: Tools) -> Callable[[], Timings]:
    return partial(bench_precisions.run, case, tools.runtime, Silent(), 2.0)


def weights(model: Any) -> list[torch.Tensor]:
    return list(torch.nn.Module.parameters(model._bridge))


def brute(case: Case, model: Any, held_against: int) -> float:
    """The worst difference of the engine on a model from plain passes of the case's, one number after another."""
    work = Workload(case.first(1), model.runtime)
    tokens, at = case.tokens[:1], work.ablations.contexts
    clean = engine.clean_of(model, case.saes, (tokens, case.lengths[:1]))
    worst = 0.0
    for row in work.sampled[:held_against]:
        j, pos = int(at.feature[row]), int(at.pos[row])
        plain = ablate_one(case.model, case.saes, case.site, j, tokens[0], pos, 0.0, work.downstream)
        made = engine.ablated(model, case.saes, case.site, engine.rows([j], [0], [pos]), clean, work.downstream)
        assert made.logprob_effect is not None
        before, after = plain.logprob.tolist()
        largest = max(map(abs, before + after))
        for token, effect in enumerate(made.logprob_effect[0].tolist()):
            worst = max(worst, abs(effect - (after[token] - before[token])) / largest)
        for site in work.downstream:
            (before, after), changes = plain.activations[site].tolist(), made.changes[site]
            found = dict(zip(changes.feature.tolist(), (changes.ablated - changes.clean).tolist(), strict=True))
            pre = case.saes[site].pre_activations(plain.read[site])
            for k in range(256):
                if float(pre[:, k].abs().min()) >= 1e-4:
                    difference = abs(found.get(k, 0.0) - (after[k] - before[k]))
                    worst = max(worst, difference / max(*before, *after, 0.1))
    return worst


def test_rows_are_what_other_means_find(timed: Callable[[], Timings], case: Case, tools: Tools) -> None:
    found = timed()
    model = case.again(replace(tools.runtime, dtype=torch.bfloat16))
    for drawn, rounded in zip(weights(case.model), weights(model), strict=True):
        assert rounded.dtype == torch.bfloat16
        assert torch.equal(drawn.bfloat16(), rounded), "the same weights, rounded"
    exact, rough = found.precisions
    assert (exact.precision, rough.precision) == ("float32", "bfloat16")
    assert exact.worst_relative_difference == pytest.approx(brute(case, case.model, found.held_against), abs=2e-6)
    assert rough.worst_relative_difference == pytest.approx(brute(case, model, found.held_against), rel=0.05)
    assert 0 < exact.worst_relative_difference <= 1e-4 < rough.worst_relative_difference < 0.2
    assert exact.latents_compared == rough.latents_compared == 256 * found.held_against
    assert exact.times_faster is None
    assert rough.times_faster is not None
    assert rough.times_faster.rounds >= 1
    for one in found.precisions:
        assert one.ablations_per_second == pytest.approx(1e3 / one.ablation_ms)


def test_tf32_lasts_as_long_as_it_is_timed(timed: Callable[[], Timings], monkeypatch: pytest.MonkeyPatch) -> None:
    """And has float32's model; where products of the CPU are concerned it changes nothing."""
    monkeypatch.setattr(bench_precisions, "precisions", lambda device: (FLOAT32, TF32))
    seen, made = set(), ablation.ablate

    def ablate(model: Any, *args: Any, **more: Any) -> Any:
        seen.add((model.runtime.dtype, torch.backends.cuda.matmul.allow_tf32))
        return made(model, *args, **more)

    monkeypatch.setattr(ablation, "ablate", ablate)
    exact, same = timed().precisions
    assert seen == {(torch.float32, False), (torch.float32, True)}
    assert not torch.backends.cuda.matmul.allow_tf32
    assert same.precision == "TF32"
    assert same.worst_relative_difference == exact.worst_relative_difference
    with pytest.raises(KeyError), TF32.kept():
        raise KeyError
    assert not torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("device", "capability", "expected"),
    [
        ("cpu", None, (FLOAT32, BFLOAT16)),
        ("mps", None, (FLOAT32, BFLOAT16)),
        ("cuda", (7, 5), (FLOAT32, BFLOAT16)),
        ("cuda", (8, 0), (FLOAT32, TF32, BFLOAT16)),
        ("cuda", (9, 0), (FLOAT32, TF32, BFLOAT16)),
    ],
)
def test_the_precisions_of_a_device(
    device: str, capability: tuple[int, int] | None, expected: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision.torch.cuda, "get_device_capability", lambda device: capability)
    assert precisions(torch.device(device)) == expected


def test_what_is_shown_and_said(circuit: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = {row[0]: row for row in tsv(circuit(*ARGS).out)}
    assert rows["subject"][1] == "small, random weights, d_sae 256"
    assert rows["device"][1] == "cpu"
    assert {"float32", "bfloat16"} <= set(rows)
    document = circuit(*ARGS, "--json").document
    assert [one["precision"] for one in document["precisions"]] == ["float32", "bfloat16"]
    assert document["ablations"] > document["contexts"] > 0
    assert document["held_against"] >= 1
    assert not list(tmp_path.iterdir()), "it writes nothing"


def test_the_chosen_model(circuit: Circuit, profile: Path) -> None:
    document = circuit("bench", "--precisions", "--profile", profile, "--budget", "2", "--json").document
    exact, rough = document["precisions"]
    assert document["site"] == "0.resid_post"
    assert exact["worst_relative_difference"] <= 1e-4 < rough["worst_relative_difference"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--dtype", "bfloat16"], ("each dtype", "--dtype")),
        (["--truth"], ("--precisions and --truth", "two benches")),
        (["--attribution", "--estimates", "--truth"], ("four benches",)),
        (["--num-prompts", "3"], ("--estimates",)),
        (["--model", "gpt2"], ("no --model",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_wrong_input(args: list[str], words: tuple[str, ...], circuit: Circuit) -> None:
    circuit(*ARGS, *args).refused(2, *words)
