"""Every number of a run by a second route: plain transformers with torch hooks, and SAEs by hand, in float64.

Values agree within 1e-4 of their row's largest (law 3). Latents that rounding may decide, within 1e-4 of a threshold
or of the k-th value, are left out and counted.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.brute import Brute, Outcome, rows
from support.plain import NUMBERS
from support.transcoders import Made
from tokenizers import Tokenizer

from circuitcli.results.dictionaries import entries_of

WITHIN = 1e-4  # of the row's largest value
STORED = 1e-5  # a change is stored where it is larger than this times max(1, |clean|)
DOUBTFUL = 0.01  # the share of latents that may be left out
FIVE, THREE = ["z", "attn_out", "resid_mid", "mlp_out", "resid_post"], ["resid_pre", "attn_out", "mlp_out"]
MLP = ["mlp_in", "mlp_out", "resid_post"]
STRENGTH = {"onward": 1.5, "top": -2.0, "all": 0.5}


@dataclass(frozen=True)
class Asked:
    """A run to make: which sites of which dictionaries, and what is done to their features."""

    sites: list[str]
    positions: str
    intervention: str
    horizon: int = 0  # of onward; 0: all later positions
    made: Made | None = None  # none: the tiny model's SAEs
    layers: str = ":"

    def __str__(self) -> str:
        of = f"{self.made.family}-{self.made.layout}" if self.made else f"{len(self.sites)}"
        return f"{of}-{self.positions}-{self.intervention}" + ("" if self.layers == ":" else f"-{self.layers}")


CASES = [
    Asked(FIVE, "top", "zero"),
    Asked(FIVE, "all", "mean"),
    Asked(THREE, "top", "mean"),
    Asked(THREE, "all", "zero"),
    Asked(FIVE, "onward", "zero"),
    Asked(THREE, "onward", "mean", 2),
    Asked(THREE, "top", "resample"),
    Asked(THREE, "all", "resample"),
    Asked(THREE, "onward", "steer", 2),
    Asked(THREE, "top", "steer"),
    Asked(MLP, "top", "zero"),
    Asked(MLP, "onward", "resample", 1),
    # Transcoders, beside SAEs or alone; cross-layer ones of which some write behind the last layer that is chosen.
    Asked(["mlp_in", "resid_post"], "top", "zero", made=Made("gpt2", "saelens")),
    Asked(["mlp_in"], "onward", "mean", made=Made("gpt2", "across")),
    Asked(["mlp_in"], "top", "steer", made=Made("neox", "tracer")),
    Asked(["mlp_in"], "all", "zero", made=Made("neox", "across")),
    Asked(["resid_mid", *MLP], "onward", "resample", 2, made=Made("llama", "saelens")),
    Asked(["mlp_in"], "all", "mean", made=Made("gemma2", "normalized")),
    Asked(["resid_mid"], "top", "mean", made=Made("llama", "across"), layers=":2"),
    Asked(["resid_mid"], "all", "steer", made=Made("gemma2", "tracer")),
    Asked(["resid_mid"], "onward", "zero", 1, made=Made("gemma2", "across")),
]


@dataclass(frozen=True, eq=False)
class Case:
    """A finished run, and its truth."""

    run: Path
    truth: Brute
    positions: str
    horizon: int | None
    intervention: str
    cap: int
    chosen: list[tuple[Any, int]]

    def replacement(self, place: Any, feature: int, seq: int, pos: int) -> float | None:
        """None where rounding may decide it."""
        if self.intervention == "resample":
            return self.donor(place, feature, seq, pos)
        found = self.truth.counted_latents(place)[:, feature]
        steered = STRENGTH.get(self.positions, 0) * float(found.max())
        return {"zero": 0.0, "mean": float(found.mean()), "steer": steered}[self.intervention]

    def donor(self, place: Any, feature: int, seq: int, pos: int) -> float | None:
        """The feature at a position outside the context, by lot: of all that count, those with zeros too."""
        lengths = [len(a) for a in self.truth.latents[place][: self.truth.counted]]
        outside = [
            (s, p) for s, length in enumerate(lengths) for p in range(1, length) if s != seq or pos not in (-1, p)
        ]
        lot = np.random.default_rng([0, place[0], NUMBERS[place[1]], feature, 3, seq, pos + 1])
        s, p = outside[lot.integers(len(outside))]
        doubtful = bool(self.truth.doubtful(place, s)[p, feature])
        return None if doubtful else float(self.truth.latents[place][s][p, feature])

    def contexts(self) -> list[dict[str, Any]]:
        return rows(self.run, "ablations/contexts-*.parquet")


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(
    request: Any, measure: Any, plain_model: Any, plain_saes: Any, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    asked: Asked = request.param
    changes: dict[str, Any] = {
        "saes": {"sites": asked.sites, "layers": asked.layers},
        "ablate": {
            "positions": asked.positions,
            "intervention": asked.intervention,
            "horizon": asked.horizon,
            **({"strength": STRENGTH[asked.positions]} if asked.intervention == "steer" else {}),
        },
        "contexts": {"num_sequences": 15, "top_k": 4},
    }
    model, dictionaries = plain_model, plain_saes
    if asked.made is not None:
        of = asked.made.save(tmp_path_factory.mktemp("made"))
        model, dictionaries = of.plain, of.dictionaries
        changes |= of.run(*asked.sites, layers=asked.layers)
    job = measure(changes)
    counted = job.settings.texts.num_sequences
    places = [(entry.at.layer, entry.at.name) for entry in entries_of(job.run)]
    truth = Brute(job.run.root, model, {place: dictionaries[place] for place in places}, asked.sites, counted)
    names = [name.split(".") for name in job.run.require("ablate").facts["features"]]
    chosen = [((int(layer), site), int(index)) for layer, site, index in names]
    horizon = (asked.horizon or None) if asked.positions == "onward" else 0
    return Case(
        job.run.root, truth, asked.positions, horizon, asked.intervention, job.settings.features.seq_cap, chosen
    )


@pytest.fixture(scope="module")
def outcomes(case: Case) -> dict[tuple[Any, ...], Outcome]:
    """Every stored ablation, done again; ablations of a feature that rounding may decide are left out."""
    found = {}
    for row in case.contexts():
        place, feature, seq, pos = (row["layer"], row["site"]), row["feature"], row["seq"], row["pos"]
        edited = slice(1, None) if pos < 0 else pos
        if not case.truth.doubtful(place, seq)[edited, ..., feature].any():
            c = case.replacement(place, feature, seq, pos)
            if c is not None:
                found[place, feature, seq, pos] = case.truth.ablate(place, feature, seq, pos, c, case.horizon)
    assert len(found) >= 0.9 * len(case.contexts())
    return found


def test_every_stored_activation_and_every_silence(case: Case) -> None:
    doubtful, total = 0, 0
    for place, latents in case.truth.latents.items():
        stored = [torch.zeros_like(a) for a in latents]
        for path in (case.run / f"acts/{place[0]}.{place[1]}").glob("shard-*.safetensors"):
            shard = {name: column.tolist() for name, column in load_file(path).items()}
            for seq, pos, feature, value in zip(*(shard[n] for n in ("seq", "pos", "feature", "value")), strict=True):
                assert pos >= 1
                stored[seq][pos, feature] = value
        for seq, truth in enumerate(latents):
            left_out = case.truth.doubtful(place, seq)
            bound = WITHIN * truth.max(-1, keepdim=True).values.clamp(min=0.1)
            assert (((stored[seq] - truth).abs() <= bound) | left_out).all(), (place, seq)
            doubtful, total = doubtful + int(left_out.sum()), total + truth.numel()
    assert doubtful <= DOUBTFUL * total


def test_statistics_count_the_zeros_and_leave_position_0_and_extra_sequences_out(case: Case) -> None:
    for row in rows(case.run, "acts/features.parquet"):
        place, feature = (row["layer"], row["site"]), row["feature"]
        a = case.truth.counted_latents(place)[:, feature].numpy()
        left_out = sum(int(case.truth.doubtful(place, s)[1:, feature].sum()) for s in range(case.truth.counted))
        assert abs(row["n_active"] - (a > 0).sum()) <= left_out
        assert row["density"] == pytest.approx(row["n_active"] / len(a), rel=1e-6)
        if not left_out:
            assert row["max_activation"] == pytest.approx(a.max(), rel=WITHIN, abs=1e-6)
            assert row["mean_activation"] == pytest.approx(a.mean(), rel=WITHIN, abs=1e-6)


def test_top_contexts_are_the_strongest_of_the_larger_sample(case: Case) -> None:
    found = defaultdict(dict)
    for row in rows(case.run, "acts/contexts.parquet"):
        place, a = (row["layer"], row["site"]), case.truth.latents[row["layer"], row["site"]]
        here = float(a[row["seq"]][row["pos"], row["feature"]])
        if not case.truth.doubtful(place, row["seq"])[row["pos"], row["feature"]]:
            assert row["activation"] == pytest.approx(here, rel=WITHIN, abs=1e-5)
        found[place, row["feature"]][row["rank"]] = row["activation"]
    assert max(row["seq"] for row in rows(case.run, "acts/contexts.parquet")) >= case.truth.counted
    for place, latents in case.truth.latents.items():
        strongest = torch.cat(latents).sort(0, descending=True).values[:4]
        for feature in range(strongest.shape[1]):
            ranks = found[place, feature]
            values = [v for v in strongest[:, feature].tolist() if v > 0]
            assert sorted(ranks) == list(range(len(ranks)))
            assert [ranks[i] for i in range(len(ranks))] == pytest.approx(values, rel=1e-3, abs=1e-4)


def test_contexts_lie_between_half_the_maximum_and_the_maximum(case: Case) -> None:
    chosen = defaultdict(list)
    for row in case.contexts():
        chosen[(row["layer"], row["site"]), row["feature"]].append(row)
    assert set(case.chosen) == set(chosen)
    capped = 0
    for (place, feature), found in chosen.items():
        a = [latents[:, feature] for latents in case.truth.latents[place][: case.truth.counted]]
        places = {(row["seq"], row["pos"]) for row in found}
        assert len(places) == len(found) <= case.cap
        if case.positions == "all":
            candidates = [float(x.max()) for x in a if x.max() > 0]
            assert all(pos == -1 for _, pos in places)
        else:
            top = max(float(x.max()) for x in a)
            candidates = [float(v) for x in a for v in x if v >= top / 2 * (1 - WITHIN)]
            assert all(row["activation"] >= top / 2 * (1 - WITHIN) for row in found)
        assert len(found) == min(case.cap, len(candidates))
        capped += len(found) < len(candidates)
        for row in found:
            truth = a[row["seq"]].max() if row["pos"] < 0 else a[row["seq"]][row["pos"]]
            assert row["activation"] == pytest.approx(float(truth), rel=1e-3)
    assert capped


def test_every_stored_effect_and_every_change_that_is_not_stored(case: Case, outcomes: Any) -> None:
    stored = defaultdict(dict)
    for row in rows(case.run, "ablations/effects-*.parquet"):
        up = (row["up_layer"], row["up_site"]), row["up_feature"], row["seq"], row["pos"]
        down = (row["down_layer"], row["down_site"])
        assert down in case.truth.downstream(up[0])
        assert up not in outcomes or (down, row["down_pos"]) in outcomes[up].reads
        stored[up, down, row["down_pos"]][row["down_feature"]] = (row["clean"], row["ablated"])
    doubtful = total = later = 0
    for up, outcome in outcomes.items():
        for (down, at), read in outcome.reads.items():
            ours = stored[up, down, at]
            later += len(ours) if at > up[3] >= 0 else 0
            change, bar = (read.ablated - read.clean).abs(), STORED * read.clean.clamp(min=1)
            slack = 2e-6 * read.largest
            for feature in np.flatnonzero(~read.doubtful.numpy()).tolist():
                if feature in ours:
                    expected = (float(read.clean[feature]), float(read.ablated[feature]))
                    within = WITHIN * read.largest
                    assert ours[feature] == pytest.approx(expected, rel=0, abs=within), (up, down, feature)
                    assert change[feature] >= bar[feature] - slack, (up, down, feature)
                else:
                    assert change[feature] <= bar[feature] + slack, (up, down, feature)
            doubtful, total = doubtful + int(read.doubtful.sum()), total + len(read.doubtful)
    assert total >= 200
    assert (later > 50) == (case.positions == "onward"), "attention carries effects to later positions"
    assert doubtful <= DOUBTFUL * total


def test_kl_is_that_of_the_next_token(case: Case, outcomes: Any) -> None:
    for row in case.contexts():
        key = (row["layer"], row["site"]), row["feature"], row["seq"], row["pos"]
        if key in outcomes:
            assert row["kl"] == pytest.approx(outcomes[key].kl, rel=1e-3, abs=2e-6)
    assert max(outcome.kl for outcome in outcomes.values()) > 1e-3


def test_logit_effects_are_means_and_the_stored_ones_the_most_extreme(case: Case, outcomes: Any) -> None:
    asked, done = defaultdict(int), defaultdict(list)
    for row in case.contexts():
        asked[(row["layer"], row["site"]), row["feature"]] += 1
    for (place, feature, _, _), outcome in outcomes.items():
        done[place, feature].append(outcome)
    stored = defaultdict(dict)
    for row in rows(case.run, "ablations/logits-*.parquet"):
        values = (row["effect_mean"], row["prob_effect_mean"])
        stored[(row["layer"], row["site"]), row["feature"]][row["token_id"]] = values
    whole = [key for key in asked if asked[key] == len(done[key])]
    assert len(whole) >= len(asked) / 2
    for key in whole:
        logprob = torch.stack([o.logprob_effect for o in done[key]]).mean(0).numpy()
        prob = torch.stack([o.prob_effect for o in done[key]]).mean(0).numpy()
        kept = sorted(stored[key])
        ours = np.asarray([stored[key][token] for token in kept])
        assert ours[:, 0] == pytest.approx(logprob[kept], rel=0, abs=WITHIN * np.abs(logprob).max() + 2e-6)
        assert ours[:, 1] == pytest.approx(prob[kept], rel=0, abs=WITHIN * np.abs(prob).max() + 1e-7)
        assert len(kept) == 512
        between = np.sort(ours[:, 0])[[255, 256]]
        rest = np.delete(logprob, kept)
        assert ((rest >= between[0] - 1e-5) & (rest <= between[1] + 1e-5)).all()


def test_sequences_are_bos_and_the_beginnings_of_documents(case: Case, tiny_text: Path, tiny_model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    lines = [json.loads(line)["text"] for line in tiny_text.read_text().splitlines()]
    documents = [(0, *tokenizer.encode(line, add_special_tokens=False).ids)[:12] for line in lines]
    sequences = [tuple(sequence.tolist()) for sequence in case.truth.sequences]
    assert len(set(sequences)) == len(sequences) == 15
    assert set(sequences) <= set(documents)
