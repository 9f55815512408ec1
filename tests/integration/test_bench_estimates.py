"""`circuit bench --estimates`: its numbers are those of plain formulas on the effects, and these are the nodes' own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from scipy import stats
from support.attributed import ask
from support.commands import Result, tsv
from tokenizers import Tokenizer

from circuitcli import demo
from circuitcli.cli import layout
from circuitcli.core.attributed import Measure
from circuitcli.core.words import with_interval as cell
from circuitcli.settings import resolve, to_dict
from circuitcli.stages import beginnings as text
from circuitcli.stages import bench_estimates, subject, trial
from circuitcli.stages.tools import Tools

Circuit = Callable[..., Result]
SITES = ("attn_out", "mlp_out", "resid_post")
KINDS = {"attn_out": "attention", "mlp_out": "mlp", "resid_post": "resid"}
METHODS = ["atp", "ig 5", "ig 10", "relp", "auto 20%", "auto 50%", "auto 100%"]
PROMPTS, TOKENS = 6, 8


@pytest.fixture(scope="module")
def tools(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Tools:
    job = start(tmp_path_factory.mktemp("estimates") / "unused", {"saes": {"sites": list(SITES)}})
    return Tools(job.settings, job.report)


@pytest.fixture
def profile(tools: Tools, tmp_path: Path) -> Path:
    path = tmp_path / "profile.toml"
    path.write_text(tomli_w.dumps(to_dict(tools.settings)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def found(tools: Tools) -> Iterator[tuple[bench_estimates.Found, dict[str, Any]]]:
    """What is found of the tiny model, and the effects that it was found from."""
    compare, seen = bench_estimates.agreements, {}

    def agreements(effects: Any, exact: Any, kind: Any, prompt: Any, **more: Any) -> Any:
        seen.update({"site": kind} if "kinds" in more else {"effects": effects, "kind": kind})
        seen.update(exact=exact, prompt=prompt)
        return compare(effects, exact, kind, prompt, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_estimates, "agreements", agreements)
        patch.setattr(trial, "SHARES", (0.2, 0.5, 1.0))
        yield bench_estimates.run(tools, PROMPTS, TOKENS), seen


def recall(x: np.ndarray, y: np.ndarray, prompt: np.ndarray, top: int) -> float:
    each = []
    for one in np.unique(prompt):
        here = prompt == one
        k = min(top, np.count_nonzero(y[here]))
        largest = [set(np.argsort(-abs(v[here]), kind="stable")[:k]) for v in (x, y)]
        each.append(len(largest[0] & largest[1]) / k)
    return float(np.mean(each))


def test_measures_are_those_of_scipy(found: tuple[bench_estimates.Found, dict[str, Any]]) -> None:
    said, seen = found
    assert list(dict.fromkeys(one.method for one in said.agreements)) == METHODS == list(seen["effects"])
    assert said.prompts == PROMPTS == len(np.unique(seen["prompt"]))
    assert said.nodes == len(seen["exact"])
    assert [one.kind for one in said.by_site[:9]] == [f"{layer}.{site}" for layer in range(3) for site in SITES]
    assert {one.method for one in said.by_site} == {"atp", "ig 5", "ig 10", "relp"}
    of_relp = {one.kind: one for one in said.by_site if one.method == "relp"}
    assert sum(one.nodes for one in of_relp.values()) == said.nodes
    for one in (*said.agreements, *said.by_site):
        here = (seen["kind"] == one.kind) | (seen["site"] == one.kind) | (one.kind == "all")
        x, y, prompt = seen["effects"][one.method][here], seen["exact"][here], seen["prompt"][here]
        assert one.nodes == here.sum()
        some = (x != 0) | (y != 0)
        assert one.pearson.value == pytest.approx(stats.pearsonr(x, y).statistic, abs=1e-6)
        assert one.spearman.value == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-6)
        assert one.sign.value == pytest.approx((np.sign(x) == np.sign(y))[some].mean())
        assert one.slope.value == pytest.approx((x * y).sum() / (x * x).sum(), rel=1e-6)
        assert one.recall.value == pytest.approx(recall(x, y, prompt, said.top), abs=0.02), "but for ties"
        for measure in (one.pearson, one.spearman, one.sign, one.slope, one.recall):
            assert measure.low <= measure.value <= measure.high


def test_auto_with_all_of_the_budget_is_exact_and_with_less_between(
    found: tuple[bench_estimates.Found, dict[str, Any]],
) -> None:
    said, seen = found
    assert np.array_equal(seen["effects"]["auto 100%"], seen["exact"])
    assert said.measured_share["auto 100%"] == 1
    whole = {one.method: one for one in said.agreements if one.kind == "all"}
    assert (whole["auto 100%"].pearson.value, whole["auto 100%"].slope.value) == pytest.approx((1, 1))
    assert whole["auto 100%"].recall.value == 1
    for name in ("auto 20%", "auto 50%"):
        same = seen["effects"][name] == seen["exact"]
        assert said.measured_share[name] <= same.mean() < 1
        estimated = seen["effects"][name][~same]
        either = [seen["effects"][rule][~same] for rule in ("atp", "relp")]
        assert np.isin(estimated, np.concatenate(either)).all(), "what isn't measured is one of the estimates"
    best = max(whole["atp"].pearson.value, whole["relp"].pearson.value)
    assert best < whole["auto 20%"].pearson.value < whole["auto 50%"].pearson.value < 1


def test_effects_are_those_of_the_nodes(tools: Tools, found: tuple[bench_estimates.Found, dict[str, Any]]) -> None:
    """Beside the core's own on the first prompt: tokens left out, methods and kinds not mixed up."""
    _, seen = found
    chosen = subject.chosen(tools)
    [first, *_] = text.beginnings(chosen, PROMPTS, TOKENS)
    saes = {entry.at: chosen.sae(entry) for entry in chosen.entries}
    asked = ask(chosen.model, torch.tensor(first.ids), list(saes.values()))
    here = seen["prompt"] == 0
    kinds = [KINDS[part.site.name] for part in asked.parts for _ in range(len(part))]
    assert seen["kind"][here].tolist() == kinds
    assert seen["site"][here].tolist() == [str(part.site) for part in asked.parts for _ in range(len(part))]
    parts = slice(len(asked.parts))  # tokens come last here
    exact = torch.cat(asked.exact()[parts])
    assert seen["exact"][here] == pytest.approx(exact.numpy(), abs=asked.rounding)
    atp = torch.cat(asked.estimates()[parts]).numpy()
    assert seen["effects"]["atp"][here] == pytest.approx(atp, abs=1e-5 * float(abs(atp).max()))
    for steps in (5, 10):
        ig = torch.cat(asked.integrated(steps)[parts]).numpy()
        assert seen["effects"][f"ig {steps}"][here] == pytest.approx(ig, abs=1e-5 * float(abs(ig).max()))


def test_the_document_and_the_tables(circuit: Circuit, profile: Path, tmp_path: Path) -> None:
    flags = ("bench", "--estimates", "--profile", profile, "--num-prompts", "5", "--tokens", "6", "--baseline", "mean")
    before = sorted(tmp_path.iterdir())
    found = circuit(*flags, "--json")
    assert "bench: 5 prompts of 6 tokens" in found.err
    document = found.document
    assert (document["baseline"], document["prompts"], document["tokens"], document["top"]) == ("mean", 5, 6, 20)
    assert set(document["seconds_each"]) == {"open", "atp", "relp", "ig 5", "ig 10", "exact"}
    values = {(one["method"], one["kind"]): one for one in document["agreements"]}
    assert {kind for _, kind in values} == {"resid", "attention", "mlp", "all"}
    rows = tsv(circuit(*flags).out)
    names = [row for row in rows if row[0] == "method"]
    assert names == [["method", "resid", "attention", "mlp", "all"]] * 5
    shown = [row for row in rows if row[0] == "relp" and len(row) == 5]
    for row, measure in zip(shown, ("pearson", "spearman", "sign", "slope", "recall"), strict=True):
        for kind, said in zip(names[0][1:], row[1:], strict=True):
            assert said == cell(Measure(**values["relp", kind][measure]))
    assert sorted(tmp_path.iterdir()) == before, "it writes nothing"


def test_the_demo_has_a_table_of_every_kind(circuit: Circuit) -> None:
    flags = ("--num-prompts", "1", "--tokens", "3", "--num-sequences", "2", "--max-tokens", "30")
    found = circuit("bench", "--estimates", *flags, "--json").document
    assert found["subject"] == "demo, demo"
    assert {one["kind"] for one in found["agreements"]} == {"resid", "attention", "mlp", "all"}
    assert {one["pearson"]["low"] for one in found["agreements"]} == {None}, "of one prompt there is no interval"


def test_cells_fit_eighty_columns() -> None:
    worst = cell(Measure(-0.994, -1.0, -0.994))
    assert worst == "-.99 (-1.00–-.99)"
    assert cell(Measure(0.934, 0.9, 0.951)) == ".93 (.90–.95)"
    assert (cell(Measure(None)), cell(Measure(0.5)), cell(Measure(-0.001))) == ("–", ".50", ".00")
    rows = [layout_row(("auto 25%", worst, cell(Measure(0.9, 0.8, 1.0)), worst, cell(Measure(1.2, 1.1, 1.3))))] * 2
    lines = layout.lines(("method", "resid", "attention", "mlp", "all"), rows, 80)
    assert max(line.cell_len for line in lines) <= 80
    assert len(lines) == 3, "a line a method"


def layout_row(cells: tuple[str, ...]) -> list[Any]:
    from rich.text import Text

    return [Text(one) for one in cells]


def test_prompts_are_beginnings_that_are_long_enough(tools: Tools, tmp_path: Path) -> None:
    words = [f"{word} and the light of the earth was upon the waters" for word in ("one", "two", "three")]
    texts = [words[0], "too short", f"{words[1]}<|endoftext|>{words[2]}", "a<|endoftext|>b", words[2]]
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts), encoding="utf-8")
    settings = resolve(to_dict(tools.settings), {"texts": {"file": str(path)}})
    chosen = subject.chosen(Tools(settings, tools.report))
    found = text.beginnings(chosen, 9, TOKENS)
    backend = Tokenizer.from_file(str(demo.MODEL / "tokenizer.json"))
    bos = found[0].ids[:1] if found[0].ids[0] == chosen.tokenizer.bos else ()
    expected = [(*bos, *backend.encode(one).ids)[:TOKENS] for one in words]
    assert [one.ids for one in found] == expected
    assert {one.counts for one in found} == {(False, *[True] * (TOKENS - 1))}
    assert len(text.beginnings(chosen, 2, TOKENS)) == 2


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--estimates", "--baseline", "patch"), 2, ("counterfactual", "zero, mean or resample")),
        (("--estimates", "--shape", "gpt2"), 2, ("--estimates", "demo")),
        (("--estimates", "--d-sae", "512"), 2, ("--estimates", "--d-sae")),
        (("--estimates", "--budget", "9"), 2, ("--budget", "--num-prompts")),
        (("--estimates", "--attribution"), 2, ("--estimates", "--attribution")),
        (("--estimates", "--tokens", "33"), 2, ("32 tokens", "--tokens 32")),
        (("--estimates", "--tokens", "31"), 3, ("No text begins with 31 tokens", "--tokens")),
        (("--estimates", "--tokens", "1"), 2, ("--tokens",)),
        (("--num-prompts", "9"), 2, ("--num-prompts", "--estimates")),
        (("--baseline", "mean"), 2, ("--baseline", "--estimates")),
    ],
)
def test_what_does_not_go_together(
    circuit: Circuit, profile: Path, flags: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    circuit("bench", "--profile", profile, *flags).refused(code, *words)
