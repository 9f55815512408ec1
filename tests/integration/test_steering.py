"""`circuit effects --steer` from the shell: beside plain transformers, with a run and without, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from support.commands import Result, contents, tsv
from support.families import Hf
from support.plain import Place, PlainModel, PlainSae
from support.steered_plain import Factors, PlainSteering
from support.tiny import N_CTX
from support.transcoders import Kept, Made
from test_validate_plain import BACKEND

Circuit = Callable[..., Result]
PROMPT = "the light of the earth was void"
ENDED = "the light<|endoftext|> of the earth was void"
WITHIN = 1e-4
BROKEN = re.compile("<0x..>|\ufffd")  # bytes that are no character


def tokens_of(prompt: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Behind BOS, whose id is 0, as that of what ends a text; and which count."""
    ids = torch.tensor([0, *BACKEND.encode(prompt, add_special_tokens=False).ids])
    return ids, ids != 0


def strongest(hf: Hf, saes: Mapping[Place, PlainSae], places: list[Place], prompt: str, *factors: float) -> Factors:
    """Of each place the features that fire most, with these factors."""
    tokens, counts = tokens_of(prompt)
    seen = PlainSteering(hf, saes, {place: {0: 1.0} for place in places})
    seen.logits(tokens, counts)
    found = {}
    for place in places:
        order = saes[place].encode(seen.read[place])[counts].amax(0).argsort(descending=True)
        found[place] = {int(j): factor for j, factor in zip(order, factors, strict=False)}
    return found


def typed(factors: Factors) -> list[str]:
    named = [f"{layer}.{name}.{j}={f}" for (layer, name), of in factors.items() for j, f in of.items()]
    return [word for one in named for word in ("--steer", one)]


def compared(document: dict[str, Any], hf: Hf, saes: Mapping[Place, PlainSae], factors: Factors, prompt: str) -> None:
    """All numbers, and the continuations."""
    tokens, counts = tokens_of(prompt)
    truth, nothing = PlainSteering(hf, saes, factors), PlainSteering(hf, saes, {})
    after, before = (one.logits(tokens, counts)[-1].log_softmax(-1) for one in (truth, nothing))
    assert not truth.doubtful
    moved = float((after - before).abs().max())
    assert moved > 0.02
    kl = float((before.exp() * (before - after)).sum())
    assert document["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-6)
    top = dict.fromkeys([*before.topk(10).indices.tolist(), *after.topk(10).indices.tolist()])
    assert [row["token_id"] for row in document["tokens"]] == list(top)
    for row in document["tokens"]:
        token = row["token_id"]
        assert row["prob"] == pytest.approx(float(before[token].exp()), abs=1e-5)
        assert row["steered_prob"] == pytest.approx(float(after[token].exp()), abs=1e-5)
        assert row["effect"] == pytest.approx(float(after[token] - before[token]), abs=WITHIN * max(moved, 1))
    fires = {f"{layer}.{name}.{j}": n for ((layer, name), j), n in truth.fires.items()}
    assert {row["feature"]: row["fires"] for row in document["features"]} == fires
    for name, one in (("clean", nothing), ("steered", truth)):
        if document[name]:
            ids = document[name]["token_ids"]
            assert ids == one.continued(tokens, counts, len(ids), ends=0)
            text = BACKEND.decode(ids, skip_special_tokens=False)
            assert BROKEN.sub("", document[name]["text"]) == BROKEN.sub("", text)


@pytest.fixture
def by_hand(plain_model: PlainModel) -> Hf:
    return Hf(plain_model.lm, "gpt2")


@pytest.fixture
def without_run(tiny_model: Path, tiny_saes: Path) -> list[str | Path]:
    return ["effects", "--model", tiny_model, "--release", tiny_saes, "--site", "resid_post", "--device", "cpu"]


@pytest.mark.parametrize("prompt", [PROMPT, ENDED])
@pytest.mark.parametrize("name", ["resid_post", "attn_out", "z", "resid_mid", "mlp_out"])
def test_saes_without_a_run(
    name: str, prompt: str, circuit: Circuit, tiny_model: Path, tiny_saes: Path, plain_saes: Any, by_hand: Hf
) -> None:
    factors = strongest(by_hand, plain_saes, [(0, name), (1, name)], prompt, 3.0, -1.5)
    asked = ["effects", "--model", tiny_model, "--release", tiny_saes, "--site", name, "--device", "cpu"]
    result = circuit(*asked, "--prompt", prompt, "--generate", "5", "--json", *typed(factors))
    assert result.code == 0, result.err
    assert result.document["run"] is None
    compared(result.document, by_hand, plain_saes, factors, prompt)


@pytest.fixture(scope="module", params=[("gpt2", "saelens"), ("llama", "tracer"), ("llama", "across")], ids="-".join)
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Kept]:
    one = Made(*request.param)
    return one, one.save(tmp_path_factory.mktemp("made"))


def test_transcoders_without_a_run(made: tuple[Made, Kept], circuit: Circuit) -> None:
    which, kept = made
    names = [which.reads, *(["mlp_out"] if which.layout == "saelens" else [])]  # an SAE where a transcoder writes
    places = [place for place in sorted(kept.dictionaries) if place[1] in names][:4]
    factors = strongest(kept.plain.hf, kept.dictionaries, places, PROMPT, 2.0, 0.0)
    asked = ["effects", "--model", kept.model, "--release", kept.folder, "--prepend-bos", "true", "--device", "cpu"]
    sites = [word for name in names for word in ("--site", name)]
    result = circuit(*asked, *sites, "--prompt", PROMPT, "--generate", "4", "--json", *typed(factors))
    assert result.code == 0, result.err
    compared(result.document, kept.plain.hf, kept.dictionaries, factors, PROMPT)


def test_a_run_whose_dictionaries_are_taken_stays_as_it_is(
    circuit: Circuit, run: Path, plain_saes: Any, by_hand: Hf
) -> None:
    factors = strongest(by_hand, plain_saes, [(1, "resid_post")], PROMPT, 4.0)
    [feature] = factors[1, "resid_post"]
    before = contents(run)
    result = circuit("effects", "--run", run, "--steer", f"1:{feature}=4", "--prompt", PROMPT, "--json")
    assert contents(run) == before
    assert result.document["run"] == str(run)
    assert result.document["clean"] is result.document["tokens_per_second"] is None
    compared(result.document, by_hand, plain_saes, factors, PROMPT)


def test_scaling_by_0_is_what_ablate_measures_at_all_positions(
    circuit: Circuit, profile: Path, tmp_path: Path, plain_saes: Any, by_hand: Hf
) -> None:
    factors = strongest(by_hand, plain_saes, [(1, "resid_post")], PROMPT, 0.0)
    [feature] = factors[1, "resid_post"]
    run, name = tmp_path / "run", f"1.resid_post.{feature}"
    studied = ["--prompt", PROMPT, "--pin", name, "--positions", "all"]
    assert circuit("run-all", "--profile", profile, "--run", run, *studied).code == 0
    found = circuit("effects", "--run", run, "--steer", f"{name}=0", "--prompt", PROMPT, "--json").document
    at = [("layer", "=", 1), ("site", "=", "resid_post"), ("feature", "=", feature)]
    [totals] = pq.read_table(run / "effects/features.parquet", filters=at).to_pylist()
    assert found["kl"] == pytest.approx(totals["kl_mean"], abs=1e-6)
    followed = pq.read_table(run / "effects/next.parquet", filters=at).to_pylist()
    effects = {row["token_id"]: row for row in found["tokens"]}
    assert len(followed) == 5
    for row in followed:
        assert effects[row["token_id"]]["effect"] == pytest.approx(row["effect"], abs=1e-5)
        assert effects[row["token_id"]]["prob"] == pytest.approx(row["prob"], abs=1e-6)


def test_scaling_by_1_changes_nothing(
    circuit: Circuit, without_run: list[str | Path], plain_saes: Any, by_hand: Hf
) -> None:
    factors = strongest(by_hand, plain_saes, [(0, "resid_post"), (2, "resid_post")], PROMPT, 1.0, 1.0)
    found = circuit(*without_run, "--prompt", PROMPT, "--generate", "6", "--json", *typed(factors)).document
    assert all(row["fires"] for row in found["features"])
    assert abs(found["kl"]) <= 1e-6
    assert max(abs(row["effect"]) for row in found["tokens"]) <= 1e-6
    assert found["clean"] == found["steered"]


def test_a_feature_that_does_not_fire_is_said_in_one_line(
    circuit: Circuit, without_run: list[str | Path], plain_saes: Any, by_hand: Hf
) -> None:
    tokens, counts = tokens_of(PROMPT)
    seen = PlainSteering(by_hand, plain_saes, {(1, "resid_post"): {0: 1.0}})
    seen.logits(tokens, counts)
    silent = int(plain_saes[1, "resid_post"].pre(seen.read[1, "resid_post"])[counts].amax(0).argmin())
    result = circuit(*without_run, "--prompt", PROMPT, "--steer", f"1:{silent}=50", "--json")
    assert result.code == 0
    assert result.err.splitlines() == [
        f"1.resid_post.{silent} doesn't fire in this prompt: scaling it changes nothing there."
    ]
    assert abs(result.document["kl"]) <= 1e-6


def test_tables(circuit: Circuit, without_run: list[str | Path], plain_saes: Any, by_hand: Hf) -> None:
    factors = strongest(by_hand, plain_saes, [(1, "resid_post")], PROMPT, 3.0)
    asked = [*without_run, "--prompt", PROMPT, "--generate", "5", *typed(factors)]
    piped, document = circuit(*asked), circuit(*asked, "--json").document
    rows = tsv(piped.out)
    [feature] = document["features"]
    assert rows[:2] == [
        ["feature", "factor", "positions", "max activation"],
        [feature["feature"], "3", str(feature["fires"]), f"{feature['max_activation']:.2f}"],
    ]
    said = rows[3 : 3 + len(document["tokens"])]
    assert rows[2] == ["token", "p clean", "p steered", "Δ log p"]
    assert [row[1:] for row in said] == [
        [f"{row['prob']:.2%}", f"{row['steered_prob']:.2%}", f"{row['effect']:+.3f}"] for row in document["tokens"]
    ]
    assert [row[0] for row in rows[-3:]] == ["", "clean", "steered"]
    assert re.fullmatch(r"Generated \d+\.\d tokens a second\.", piped.err.splitlines()[-1])
    assert circuit(*asked).out == piped.out
    assert circuit(*asked, "--quiet").out == ""


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_a_terminal(
    columns: int, circuit: Circuit, without_run: list[str | Path], screen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = screen(circuit, [*without_run, "--prompt", PROMPT, "--generate", "22", "--steer", "1:3=3", "--quiet"])
    assert "clean:" not in shown
    shown = screen(circuit, [*without_run, "--prompt", PROMPT, "--generate", "22", "--steer", "1:3=3"])
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line) for line in shown.split("\n")]
    assert any(line.startswith("clean: ") for line in plain)
    assert max(len(line) for line in plain if "\r" not in line) <= columns


REFUSED: dict[str, tuple[list[str], int, list[str]]] = {
    "no number": (["--steer", "1:3", "--prompt", PROMPT], 2, ["--steer `1:3`", "4:112=2.0"]),
    "a word": (["--steer", "1:3=much", "--prompt", PROMPT], 2, ["`1:3=much`"]),
    "not a number": (["--steer", "1:3=nan", "--prompt", PROMPT], 2, ["`1:3=nan`"]),
    "no end": (["--steer", "1:3=inf", "--prompt", PROMPT], 2, ["`1:3=inf`"]),
    "beyond float32": (["--steer", "1:3=1e39", "--prompt", PROMPT], 2, ["`1:3=1e39`"]),
    "a value": (["--steer", "1:3==5", "--prompt", PROMPT], 2, ["`1:3==5`"]),
    "no name": (["--steer", "=5", "--prompt", PROMPT], 2, ["doesn't name a feature"]),
    "no layer": (["--steer", "9:3=2", "--prompt", PROMPT], 2, ["at no SAE of those of", "1.resid_post"]),
    "no such feature": (["--steer", "1:40=2", "--prompt", PROMPT], 2, ["outside its SAE of 40 features"]),
    "twice": (["--steer", "1:3=2", "--steer", "1:3=3", "--prompt", PROMPT], 2, ["`1:3` twice"]),
    "twice by two names": (
        ["--steer", "1:3=2", "--steer", "1.resid_post.3=3", "--prompt", PROMPT], 2, ["`1.resid_post.3` twice"],
    ),
    "no prompt": (["--steer", "1:3=2"], 2, ["needs a prompt", "--prompt"]),
    "an empty prompt": (["--steer", "1:3=2", "--prompt", " "], 2, ["needs a prompt"]),
    "special tokens alone": (["--steer", "1:3=2", "--prompt", "<|endoftext|>"], 3, ["not long enough"]),
    "a long prompt": (["--steer", "1:3=2", "--prompt", "light " * 40], 2, ["reads 32"]),
    "too many more": (["--steer", "1:3=2", "--prompt", "the light", "--generate", "40"], 2, ["--generate 3"]),
    "a factor whose square is none": (["--steer", "1:STRONG=1e20", "--prompt", PROMPT], 3, ["too large", "smaller"]),
    "a factor without numbers": (["--steer", "1:STRONG=3e38", "--prompt", PROMPT], 3, ["too large", "smaller"]),
    "cards": (["--steer", "1:3=2", "--prompt", PROMPT, "--feature", "1:3"], 2, ["--feature"]),
    "done again": (["--steer", "1:3=2", "--prompt", PROMPT, "--force"], 2, ["--force does a stage again"]),
    "looked at again": (["--steer", "1:3=2", "--prompt", PROMPT, "--verify"], 2, ["--verify looks at"]),
    "a prompt alone": (["--prompt", PROMPT], 2, ["--prompt goes with --steer"]),
    "tokens alone": (["--generate", "3"], 2, ["--generate goes with --steer"]),
    "a model alone": ([], 2, ["--model goes with --steer"]),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused(what: str, circuit: Circuit, without_run: list[str | Path], plain_saes: Any, by_hand: Hf) -> None:
    args, code, words = REFUSED[what]
    [strong] = strongest(by_hand, plain_saes, [(1, "resid_post")], PROMPT, 1.0)[1, "resid_post"]
    asked = [*without_run, *(word.replace("STRONG", str(strong)) for word in args)]
    circuit(*asked).refused(code, *words)
    circuit(*asked, "--json").refused_in_json(code)


def test_a_run_has_its_own_model(circuit: Circuit, run: Path, tmp_path: Path) -> None:
    asked = ["effects", "--run", run, "--steer", "1:3=2", "--prompt", PROMPT]
    circuit(*asked, "--layers", "1").refused(2, "--layers", "own model and SAEs")
    circuit("effects", "--run", run, "--model", "gpt2").refused(2, "--model goes with --steer")
    circuit(*asked[:2], tmp_path / "none", *asked[3:]).refused(3, "no run at")


def test_a_prompt_may_fill_what_the_model_reads(circuit: Circuit, without_run: list[str | Path]) -> None:
    length = len(tokens_of(PROMPT)[0])
    asked = [*without_run, "--steer", "1:3=2", "--prompt", PROMPT, "--json", "--generate"]
    found = circuit(*asked, str(N_CTX - length + 1)).document
    assert any(len(found[name]["token_ids"]) == N_CTX - length + 1 for name in ("clean", "steered"))
    circuit(*asked, str(N_CTX - length + 2)).refused(2, f"--generate {N_CTX - length + 1} at most")
