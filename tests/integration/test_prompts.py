"""Runs on prompts: what the model says next, what ablations do to that, and where they start; all by a second route."""

import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.brute import Brute, rows
from support.commands import Result, contents, tables_of

from circuitcli.core.attribution import start as attribution
from circuitcli.core.sites import FeatureId, Site
from circuitcli.settings import to_dict
from circuitcli.stages import ablate, run_all
from circuitcli.stages.stage import Job

Circuit = Callable[..., Result]
PROMPTS = ["the light of the earth was upon the waters", "and the spirit of the deep was void"]
SITES = ["attn_out", "resid_mid", "resid_post"]
STARTS, BRANCHING = 4, 3


def settings(positions: str, **features: Any) -> dict[str, Any]:
    return {
        "saes": {"sites": SITES},
        "texts": {"source": "prompt", "prompt": PROMPTS, "file": ""},
        "ablate": {"positions": positions},
        "features": {"thinning": 0.04, "branching": BRANCHING, "max_features": 12, **features},
        "graph": {"formats": ["json", "dot"]},
    }


@pytest.fixture(scope="module", params=["top", "onward", "all"])
def job(request: Any, measure: Any) -> Job:
    """A run on two prompts."""
    return measure(settings(request.param))


@pytest.fixture(scope="module")
def truth(job: Job, plain_model: Any, plain_saes: Any) -> Brute:
    return Brute(job.run.root, plain_model, plain_saes, SITES, 2)


def test_the_likeliest_next_tokens_by_plain_transformers(job: Job, truth: Brute) -> None:
    stored = defaultdict(list)
    for row in rows(job.run.root, "acts/next.parquet"):
        stored[row["seq"], row["pos"]].append(row)
    assert set(stored) == {(seq, pos) for seq, tokens in enumerate(truth.sequences) for pos in range(len(tokens))}
    for (seq, pos), said in stored.items():
        logprob = truth.clean[seq][1][pos]
        assert [row["rank"] for row in said] == [1, 2, 3, 4, 5]
        assert [row["logprob"] for row in said] == pytest.approx(logprob.topk(5).values.tolist(), abs=1e-4)
        ids = [row["token_id"] for row in said]
        assert logprob[ids].tolist() == pytest.approx(logprob.topk(5).values.tolist(), abs=1e-4)
        assert [row["prob"] for row in said] == pytest.approx(logprob[ids].exp().tolist(), rel=1e-3)


def test_effects_on_them_of_every_ablation_by_plain_transformers(job: Job, truth: Brute) -> None:
    """Whatever their rank: of each ablation at every position where it is read."""
    horizon = None if job.settings.ablate.positions == "onward" else 0
    clean = {(r["seq"], r["pos"], r["rank"]): r["token_id"] for r in rows(job.run.root, "acts/next.parquet")}
    stored: dict[Any, dict[tuple[int, int], Any]] = defaultdict(dict)
    for row in rows(job.run.root, "ablations/next-*.parquet"):
        key = (row["layer"], row["site"]), row["feature"], row["seq"], row["pos"]
        stored[key][row["down_pos"], row["rank"]] = row
    ablations = rows(job.run.root, "ablations/contexts-*.parquet")
    assert {((r["layer"], r["site"]), r["feature"], r["seq"], r["pos"]) for r in ablations} == set(stored)
    compared, extreme, largest = 0, set(), 0.0
    for row in rows(job.run.root, "ablations/logits-*.parquet"):
        extreme.add((row["layer"], row["site"], row["feature"], row["token_id"]))
    beyond = 0
    for (place, feature, seq, pos), told in stored.items():
        if truth.doubtful(place, seq)[slice(1, None) if pos < 0 else pos, ..., feature].any():
            continue
        outcome = truth.ablate(place, feature, seq, pos, 0.0, horizon)
        assert set(told) == {(at, rank) for at in outcome.tokens for rank in range(1, 6)}
        for (at, rank), row in told.items():
            assert row["token_id"] == clean[seq, at, rank]
            logprob, prob = (effects[row["token_id"]] for effects in outcome.tokens[at])
            assert row["effect"] == pytest.approx(float(logprob), abs=2e-5)
            assert row["prob_effect"] == pytest.approx(float(prob), rel=1e-3, abs=1e-6)
            compared, largest = compared + 1, max(largest, abs(row["effect"]))
            beyond += (*place, feature, row["token_id"]) not in extreme
    assert compared >= 100
    assert largest > 0.05
    assert beyond > compared / 4  # which the most extreme effects alone would not have had


def test_cards_tables_and_positions_show_them(job: Job, circuit: Circuit) -> None:
    root = job.run.root
    said = defaultdict(list)
    for row in rows(root, "acts/next.parquet"):
        said[row["seq"], row["pos"]].append(row)
    ends = [said[seq, max(pos for s, pos in said if s == seq)] for seq in (0, 1)]
    before = contents(root)
    shown = circuit("cache-acts", "--run", root).out.split("# What the model itself says next\n")[1].splitlines()
    for line, end in zip(shown[1:], ends, strict=True):
        assert line.count("%") == 5
        assert f"{end[0]['prob']:.1%}" in line
    facts = circuit("cache-acts", "--run", root, "--json").document["next_tokens"]
    assert [[t["token_id"] for t in tokens] for tokens in facts] == [[row["token_id"] for row in end] for end in ends]
    text = circuit("effects", "--run", root).out
    table = text.split("likeliest next tokens (ablated − clean)\n")[1].splitlines()
    assert table[0].split("\t") == ["feature", "prompt", "edited", "read", "next token", "p", "nats", "Δp"]
    assert len(table) > 10
    assert "nats (Δp)" in text
    feature = table[1].split("\t")[0]
    [card] = circuit("effects", "--run", root, "--feature", feature, "--json").document["cards"]
    stored = {
        (row["seq"], row["pos"], row["down_pos"], row["token_id"]): (row["effect"], row["prob_effect"])
        for row in rows(root, "ablations/next-*.parquet")
        if f"{row['layer']}.{row['site']}.{row['feature']}" == feature
    }
    furthest = defaultdict(int)
    for seq, pos, read, _ in stored:
        furthest[seq, pos] = max(furthest[seq, pos], read)
    sizes = defaultdict(float)
    for (seq, pos, read, _), (_, dp) in stored.items():
        sizes[seq, pos] += abs(dp) * (read == furthest[seq, pos])
    strongest = sorted(sizes.values(), reverse=True)[:3]
    found = [sum(abs(token["prob_effect"]) for token in each["tokens"]) for each in card["next_tokens"]]
    assert found == pytest.approx(strongest)
    for each in card["next_tokens"]:
        assert each["read"] == furthest[each["seq"], each["pos"]]
        for token in each["tokens"]:
            key = each["seq"], each["pos"], each["read"], token["token_id"]
            assert (token["effect"], token["prob_effect"]) == pytest.approx(stored[key])
    logits = {r["token_id"]: r for r in rows(root, "effects/logits.parquet") if _name(r) == feature}
    for token in (*card["feature"]["promoted"], *card["feature"]["suppressed"]):
        assert token["prob_effect_mean"] == pytest.approx(logits[token["token_id"]]["prob_effect_mean"])
    card_text = circuit("effects", "--run", root, "--feature", feature).out
    assert "promoted\tnats\tΔp\tsuppressed\tnats\tΔp" in card_text
    prompts = circuit("effects", "--run", root, "--by-position", "--json").document["prompts"]
    for prompt in prompts:
        for position in prompt["positions"]:
            ids = [token["token_id"] for token in position["next_tokens"]]
            assert ids == [row["token_id"] for row in said[prompt["seq"], position["pos"]]]
            for firing in position["features"]:
                assert (firing["kl"] is None) == (not firing["next_tokens"])
    assert contents(root) == before


def _name(row: dict[str, Any]) -> str:
    return f"{row['layer']}.{row['site']}.{row['feature']}"


def estimates(truth: Brute, positions: str, prompts: bool = True) -> tuple[dict[str, float], dict[str, float]]:
    """The largest |e|, and Σ |e|, of each feature of the first layer that fires, by autograd of plain transformers."""
    largest: dict[str, float] = defaultdict(float)
    total: dict[str, float] = defaultdict(float)
    for (layer, site), sae in truth.saes.items():
        for seq, tokens in enumerate(truth.sequences[: truth.counted]):
            if layer != 0:
                continue
            x, latents = truth.clean[seq][0][layer, site], truth.latents[layer, site][seq]
            read = [len(tokens) - 1] if prompts else list(range(1, len(tokens)))
            gradient = truth.model.gradient(tokens, (layer, site), x.shape[1], read)
            for index in (latents > 0).any(0).nonzero()[:, 0].tolist():
                fires = latents[:, index] > 0
                e = ((sae.edit(x, index, 0.0) * gradient).sum(-1) * fires)[fires]
                sizes = e.sum().abs()[None] if positions == "all" else e.abs()
                name = f"{layer}.{site}.{index}"
                largest[name] = max(largest[name], float(sizes.max()))
                total[name] += float(sizes.sum())
    return largest, total


def assert_largest(chosen: list[str], score: dict[str, float], count: int) -> None:
    """The features with the largest scores, but for ties within rounding."""
    assert len(chosen) == count
    ordered = sorted(score.values(), reverse=True)
    assert sorted((score[name] for name in chosen), reverse=True) == pytest.approx(ordered[:count], rel=1e-3)


def first_layer(job: Job) -> list[str]:
    return [name for name in job.run.require("ablate").facts["features"] if name.startswith("0.")]


def test_prompts_start_with_the_strongest_by_gradient(job: Job, truth: Brute) -> None:
    largest, _ = estimates(truth, job.settings.ablate.positions)
    count = max(BRANCHING, round(0.04 * len(largest)))
    assert_largest(first_layer(job), largest, count)
    said = job.run.require("ablate").facts["start"]
    assert said.startswith(f"{count} of the {len(largest)} features of layer 0 that fire, with the largest |activation")


@pytest.mark.parametrize("positions", ["top", "all"])
def test_other_starts(positions: str, start: Any, plain_model: Any, plain_saes: Any, circuit: Circuit, tmp_path: Path):
    """Each by its own rule; what was ablated for another stays as it was, and the picture says how it was chosen."""
    job = start(tmp_path / "run", settings(positions, start="random"))
    run_all.run(job, lambda outcome: None)
    root, random = tmp_path / "run", first_layer(job)
    truth = Brute(root, plain_model, plain_saes, SITES, 2)
    largest, total = estimates(truth, positions)
    assert "at random (seed 0)" in job.run.require("ablate").facts["start"]
    assert to_dict(job.settings)["features"]["start"] == "random"
    kept = {name: digest for name, digest in tables_of(root).items() if name.startswith("ablations/")}
    for how, score in (("top-effect", total), ("strongest", largest)):
        done = circuit("run-all", "--run", root, "--start", how)
        assert done.code == 0, done.err
        count = max(BRANCHING, round(0.04 * len(score)))
        assert_largest(first_layer(job), score, count)
        words = job.run.require("ablate").facts["start"]
        assert f"starts from {words}." in done.err
        metadata = json.loads((root / "graph/circuit.json").read_text())["metadata"]
        assert [answer.count("%") for answer in metadata["answers"]] == [5, 5]
        assert "%" in (root / "graph/circuit.dot").read_text().split("prompt “the light")[1].split("start: ")[0]
        assert metadata["start"] == metadata["runs"][0]["start"] == words
        assert kept.items() <= tables_of(root).items()
    assert circuit("ablate", "--run", root, "--start", "random").code == 0
    assert first_layer(job) == random


def test_without_gradients_the_largest_activation_starts(start: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(attribution, "estimates", lambda *args: None)
    job = start(tmp_path / "run", settings("top"))
    run_all.run(job, lambda outcome: None)
    by_site: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for row in rows(tmp_path / "run", "acts/features.parquet"):
        if row["layer"] == 0 and row["n_active"]:
            by_site[row["site"]].append((-row["max_activation"], _name(row)))
    firing = sum(map(len, by_site.values()))
    count = max(BRANCHING, round(0.04 * firing))
    strongest = [[name for _, name in sorted(found)] for found in by_site.values()]
    expected = [found[turn] for turn in range(count) for found in strongest if turn < len(found)][:count]
    assert set(first_layer(job)) == set(expected)
    assert "for want of gradients" in job.run.require("ablate").facts["start"]


def test_text_starts_at_random_or_by_the_gradient_everywhere(
    start: Any, plain_model: Any, plain_saes: Any, tmp_path: Path
):

    base = {"saes": {"sites": SITES}, "graph": {"formats": ["json"]}, "contexts": {"num_sequences": 15}}
    job = start(tmp_path / "run", base | {"features": {"start": "top-effect", "branching": 3}})
    run_all.run(job, lambda outcome: None)
    truth = Brute(tmp_path / "run", plain_model, plain_saes, SITES, 12)
    _, total = estimates(truth, "top", prompts=False)
    assert_largest(first_layer(job), total, max(3, round(job.settings.features.thinning * len(total))))
    other = start(tmp_path / "other", base)
    run_all.run(other, lambda outcome: None)
    assert "at random" in other.run.require("ablate").facts["start"]
    assert not (tmp_path / "other/acts/next.parquet").exists()


def test_a_pin_is_where_it_starts(start: Any, tmp_path: Path):
    first = start(tmp_path / "run", settings("top"))
    run_all.run(first, lambda outcome: None)
    chosen = [name for name in first.run.require("ablate").facts["features"] if name[0] in "02"]
    job = start(tmp_path / "run", settings("top", pinned=[chosen[0], chosen[-1]]))
    ablate.run(job)
    assert first_layer(job) == chosen[:1]
    assert job.run.require("ablate").facts["start"] == "the pinned features of layer 0; of layer 2: the pinned"


def test_a_model_without_gradients_is_none(bridge: Any, saes: Any, monkeypatch: pytest.MonkeyPatch):
    """What the engine is asked says so itself; the estimate is asked for one site, with and without."""
    site, tokens = Site(0, "resid_post"), torch.tensor([[1, 2, 3, 4]])
    firing = (torch.tensor([0]), torch.tensor([2]), torch.tensor([5]), torch.tensor([1.0]))
    read = torch.tensor([[False, False, False, True]])
    assert FeatureId(site, 5).site in saes
    assert attribution.estimates(bridge, saes[site], tokens, read, firing).abs().item() > 0
    logits = bridge.logits
    monkeypatch.setattr(type(bridge), "logits", lambda self, final: logits(final.detach()))
    assert attribution.estimates(bridge, saes[site], tokens, read, firing) is None
