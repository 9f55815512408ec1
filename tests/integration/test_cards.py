"""Cards of features and positions of prompts: every number by a second route, and every way of asking for them."""

import json
import re
import shutil
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.brute import Brute, rows
from support.commands import Result, contents, tsv
from support.tokenizers_of import pretend

from circuitcli.core.tokens import visible
from circuitcli.results import cards
from circuitcli.stages.stage import Job

Circuit = Callable[..., Result]
PROMPTS = ["the light of the earth was upon the waters", "and the spirit of the deep was void"]
SITES = ["mlp_out", "resid_post"]


@pytest.fixture(scope="module")
def job(measure: Any) -> Job:
    """A run on the tiny text."""
    return measure({"saes": {"sites": SITES}, "features": {"thinning": 0.1, "branching": 2, "seq_cap": 4}})


@pytest.fixture(scope="module", params=["top", "onward", "all"])
def prompted(request: Any, measure: Any) -> Job:
    """A run on two prompts."""
    texts = {"source": "prompt", "prompt": PROMPTS, "file": ""}
    return measure({"saes": {"sites": SITES}, "texts": texts, "ablate": {"positions": request.param}})


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A finished run of one site."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def name(row: dict[str, Any], end: str = "") -> str:
    return f"{row[f'{end}layer']}.{row[f'{end}site']}.{row[f'{end}feature']}"


def mean_effects(run: Path) -> dict[tuple[str, str], float]:
    """Mean of ablated − clean for each pair, from the raw ablations."""
    n = defaultdict(int)
    for row in rows(run, "ablations/contexts-*.parquet"):
        n[name(row)] += 1
    total: dict[tuple[str, str], float] = defaultdict(float)
    for row in rows(run, "ablations/effects-*.parquet"):
        total[name(row, "up_"), name(row, "down_")] += row["ablated"] - row["clean"]
    return {(up, down): value / n[up] for (up, down), value in total.items()}


def test_cards_by_a_second_route(job: Job, plain_model: Any, plain_saes: Any):
    """Effects, KL and tokens from the raw ablations; contexts, density and maxima from plain transformers."""
    truth = Brute(job.run.root, plain_model, plain_saes, SITES, 12)
    effects = mean_effects(job.run.root)
    chosen = set(job.run.require("ablate").facts["features"])
    dead = "0.resid_post.0" if "0.resid_post.0" not in chosen else "0.resid_post.1"
    targets = {down for _, down in effects} - chosen
    asked = [*sorted(chosen), sorted(targets)[0], dead]
    found = {card.feature.id: card for card in cards.cards(job.results(), job.results().named(asked))}
    assert set(found) == set(asked)
    kl, logits = defaultdict(list), defaultdict(list)
    for row in rows(job.run.root, "ablations/contexts-*.parquet"):
        kl[name(row)].append(row["kl"])
    for row in rows(job.run.root, "ablations/logits-*.parquet"):
        logits[name(row)].append((row["effect_mean"], row["token_id"]))
    checked = 0
    for feature, card in found.items():
        node = card.feature
        into = {up: value for (up, down), value in effects.items() if down == feature}
        assert_strongest(card.causes, "source", into)
        if feature not in chosen:
            assert (card.consequences, node.n, node.kl_mean, node.promoted) == (None, 0, None, ())
            assert f"--pin {feature}`" in card.note or "fires nowhere" in card.note
            continue
        checked += 1
        assert card.note is None
        assert_strongest(card.consequences, "target", {d: v for (u, d), v in effects.items() if u == feature})
        assert node.n == len(kl[feature])
        assert node.kl_mean == pytest.approx(sum(kl[feature]) / node.n, rel=1e-4, abs=1e-9)
        lowest = sorted(logits[feature])[:10]
        assert [(e.effect_mean, e.token_id) for e in node.promoted] == [e for e in lowest if e[0] < 0]
        assert [e.effect_mean for e in node.suppressed] == sorted((e for e, _ in logits[feature]), reverse=True)[:10]
        place = (node.layer, node.site)
        if not any(truth.doubtful(place, s)[1:, node.feature].any() for s in range(12)):
            a = truth.counted_latents(place)[:, node.feature]
            assert node.density == pytest.approx(float((a > 0).double().mean()), rel=1e-6)
            assert node.max_activation == pytest.approx(float(a.max()), rel=1e-4)
            for context in node.contexts:
                here = truth.latents[place][context.seq][:, node.feature]
                first = context.pos - context.firing
                expected = here[first : first + len(context.tokens)]
                assert list(context.activations) == pytest.approx(expected.tolist(), rel=1e-3, abs=1e-5)
    assert checked >= 5


def assert_strongest(edges: Any, end: str, effects: dict[str, float]) -> None:
    """The edges are the ten largest |mean effects|, with their values."""
    ordered = sorted((abs(value) for value in effects.values() if value), reverse=True)[:10]
    assert [abs(edge.effect_mean) for edge in edges] == pytest.approx(ordered, rel=1e-4, abs=1e-7)
    for edge in edges:
        assert edge.effect_mean == pytest.approx(effects[getattr(edge, end)], rel=1e-4, abs=1e-7)


def test_positions_by_brute_force(prompted: Job, circuit: Circuit, plain_model: Any, plain_saes: Any, tiny_model: Path):
    """At each position the three strongest of each site, and of those that were ablated, by plain transformers."""
    root, whole = prompted.run.root, prompted.settings.ablate.positions == "all"
    horizon = None if prompted.settings.ablate.positions == "onward" else 0
    truth = Brute(root, plain_model, plain_saes, SITES, 2)
    before = contents(root)
    prompts = circuit("effects", "--run", root, "--by-position", "--json").document["prompts"]
    assert contents(root) == before
    chosen = set(prompted.run.require("ablate").facts["features"])
    ablations = {(name(row), row["seq"], row["pos"]) for row in rows(root, "ablations/contexts-*.parquet")}
    tokens = {name(row) for row in rows(root, "effects/logits.parquet")}
    assert [prompt["seq"] for prompt in prompts] == [0, 1]
    kls = compared = 0
    for prompt in prompts:
        seq = prompt["seq"]
        positions = prompt["positions"]
        assert "".join(p["token"] for p in positions[1:]) == PROMPTS[seq]
        assert [p["pos"] for p in positions] == list(range(len(truth.sequences[seq])))
        assert positions[0]["features"] == []
        for position in positions[1:]:
            for place, latents in truth.latents.items():
                here = latents[seq][position["pos"]]
                if truth.doubtful(place, seq)[position["pos"]].any():
                    continue
                order = [i for i in here.argsort(descending=True).tolist() if here[i] > 0]
                of_them = [i for i in order if f"{place[0]}.{place[1]}.{i}" in chosen][:3]
                expected = [i for i in order if i in {*order[:3], *of_them}]
                found = [f for f in position["features"] if f["feature"].startswith(f"{place[0]}.{place[1]}.")]
                assert [f["feature"] for f in found] == [f"{place[0]}.{place[1]}.{i}" for i in expected]
                assert [f["activation"] for f in found] == pytest.approx(here[expected].tolist(), rel=1e-3, abs=1e-5)
                for firing, index in zip(found, expected, strict=True):
                    compared += 1
                    edited = -1 if whole else position["pos"]
                    assert bool(firing["promoted"]) == (firing["feature"] in tokens)
                    if (firing["feature"], seq, edited) in ablations:
                        outcome = truth.ablate(place, index, seq, edited, 0.0, horizon)
                        assert firing["kl"] == pytest.approx(outcome.kl, rel=1e-3, abs=2e-6)
                        kls += 1
                    else:
                        assert firing["kl"] is None
    assert compared > 30
    assert kls >= 5


def test_positions_of_named_features(prompted: Job, circuit: Circuit):
    root = prompted.run.root
    everything = circuit("effects", "--run", root, "--by-position", "--json").document["prompts"]
    wanted = everything[0]["positions"][2]["features"][0]["feature"]
    found = circuit("effects", "--run", root, "--by-position", "--feature", wanted, "--json").document["prompts"]
    assert found[0]["positions"][2]["features"] == everything[0]["positions"][2]["features"][:1]
    assert {f["feature"] for prompt in found for p in prompt["positions"] for f in p["features"]} == {wanted}
    shown = circuit("effects", "--run", root, "--by-position")
    said, fires = shown.out.split("# What fires")
    assert said.count("%") == 5 * sum(len(prompt["positions"]) for prompt in everything)
    piped = tsv(f"# What fires{fires}")
    assert piped[0][:5] == ["prompt", "position", "token", "feature", "activation"]
    assert {len(row) for row in piped} == {len(piped[0])}
    assert len(piped) - 1 == sum(len(p["features"]) for prompt in everything for p in prompt["positions"])
    assert "0" not in {row[1] for row in piped}
    assert "At position 0 nothing is counted." in shown.err
    told = circuit("effects", "--run", root, "--by-position", "--feature", wanted).err
    [line] = [line for line in told.splitlines() if line.startswith("Prompt 0:")]
    silent = [str(p["pos"]) for p in found[0]["positions"][1:] if not p["features"]]
    assert line == f"Prompt 0: nothing that is shown fires at {', '.join(silent)}."
    assert next(row[2] for row in piped if row[1] == "2") == "␣light"


def test_the_stage_runs_first_and_cards_take_the_place_of_its_tables(circuit: Circuit, run: Path):
    shutil.rmtree(run / "effects")
    drawn = json.loads((run / "graph/circuit.json").read_text())
    node = next(node for node in drawn["nodes"] if node["n"])
    done = circuit("effects", "--run", run, "--feature", node["id"], "--json")
    assert done.document["stages"] == {"effects": "done"}
    [card] = done.document["cards"]
    shared = {key: value for key, value in card["feature"].items() if key not in ("promoted", "suppressed")}
    assert shared == {key: node[key] for key in shared}  # the same as the graph's
    assert card["feature"]["promoted"][: len(node["promoted"])] == node["promoted"]
    shown = circuit("effects", "--run", run, "--feature", node["id"])
    assert shown.err == "effects: already done.\n"
    lines = tsv(shown.out)
    assert {line[0] for line in lines} == {"feature", node["id"]}
    assert [line[1] for line in lines if line[0] == "feature"] == [
        "density", "activation", "promoted", *(["cause"] if card["causes"] else []), "consequence"
    ]  # fmt: skip
    assert "Largest effects" not in shown.out


def test_a_feature_that_was_not_ablated_says_what_to_do_and_that_helps(circuit: Circuit, run: Path):
    table = {name(row): row for row in rows(run, "acts/features.parquet")}
    done = {name(row) for row in rows(run, "effects/features.parquet")}
    feature = next(f for f, row in table.items() if row["n_active"] and f not in done)
    shown = circuit("effects", "--run", run, "--feature", feature)
    assert f"Note: {feature} wasn't ablated" in shown.err
    advice = re.search(r"`circuit (ablate [^`]*)`", shown.err)
    assert advice
    assert circuit(*advice[1].split()).code == 0
    again = circuit("effects", "--run", run, "--feature", feature, "--json")
    [card] = again.document["cards"]
    assert card["note"] is None
    assert card["feature"]["n"] > 0
    assert card["feature"]["pinned"]
    dead = next((f for f, row in table.items() if not row["n_active"]), None)
    if dead:
        assert "fires nowhere" in circuit("effects", "--run", run, "--feature", dead).err


def test_a_pin_keeps_what_is_there_and_shows_it(circuit: Circuit, run: Path):
    """What was ablated before a pin has its card, effects and tables as before; the graph and the first table don't."""
    before = {name(row): row for row in rows(run, "effects/features.parquet")}
    first = circuit("effects", "--run", run, *(x for f in before for x in ("--feature", f)), "--json").document["cards"]
    firing = [name(row) for row in rows(run, "acts/features.parquet") if row["n_active"]]
    pin = next(f for f in firing if f.startswith("0.") and f not in before)
    shown = circuit("run-all", "--run", run, "--pin", pin)
    planned = set(json.loads((run / "ablations/stage.json").read_text())["facts"]["features"])
    kept = sorted(set(before) - planned)
    assert pin in planned
    assert len(kept) >= 2
    cards = circuit("effects", "--run", run, *(x for f in before for x in ("--feature", f)), "--json").document["cards"]
    assert {card["feature"]["id"]: card["planned"] for card in cards} == {f: f in planned for f in before}
    for then, now in zip(first, cards, strict=True):
        assert then["consequences"] == now["consequences"]
        assert then["feature"]["kl_mean"] == now["feature"]["kl_mean"] is not None
        assert now["note"] is None
    text = tsv(circuit("effects", "--run", run, "--feature", kept[0]).out)
    facts = dict(zip(*text[:2], strict=True))
    assert facts["in the plan"] == "no"
    effects = mean_effects(run)
    stored = {
        (name(row, "up_"), name(row, "down_")): row["effect_mean"] for row in rows(run, "effects/effects.parquet")
    }
    assert {up for up, _ in stored} >= {up for up, _ in effects}  # law 8, of all that is there
    assert all(stored[pair] == pytest.approx(mean, rel=1e-4, abs=1e-6) for pair, mean in effects.items())
    drawn = json.loads((run / "graph/circuit.json").read_text())
    assert {edge["source"] for edge in drawn["edges"]} <= planned
    assert drawn["metadata"]["edges_measured"] == sum(up in planned for up, _ in stored)
    tables = shown.out.split("from\tto\t")
    assert {line.split("\t")[0] for line in tables[1].splitlines()[1:4]} <= planned
    assert {line.split("\t")[0] for line in tables[2].splitlines()[1:4]} <= set(kept)


def test_without_logits(circuit: Circuit, profile: Path, tmp_path: Path):
    run = tmp_path / "mute"
    assert circuit("run-all", "--profile", profile, "--run", run, "--no-logits").code == 0
    feature = name(rows(run, "effects/features.parquet")[0])
    shown = circuit("effects", "--run", run, "--feature", feature)
    assert f"Note: {feature} was ablated with --no-logits" in shown.err
    assert "consequence" in shown.out


WRONG = {
    "no SAE": (["--feature", "9:1"], ["`9:1` is at no SAE of this run", "0.resid_post"]),
    "outside": (["--feature", "0:40"], ["The feature `0:40` lies outside its SAE of 40 features"]),
    "no name": (["--feature", "light"], ["`light` doesn't name a feature"]),
    "one of two": (["--feature", "0:1", "--feature", "0:99"], ["`0:99`"]),
    "no prompts": (["--by-position"], ["isn't a run on prompts", "--prompt"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_makes_no_sense_changes_nothing(case: str, circuit: Circuit, run: Path):
    shutil.rmtree(run / "effects")
    args, words = WRONG[case]
    before = contents(run)
    circuit("effects", "--run", run, *args).refused(2, *words)
    circuit("effects", "--run", run, *args, "--json").refused_in_json(2)
    assert contents(run) == before


def test_without_a_run(circuit: Circuit, tmp_path: Path):
    circuit("effects", "--feature", "0:1").refused(2, "needs a run")
    circuit("effects", "--run", tmp_path / "none", "--feature", "0:1").refused(3, "fetch-saes")
    assert not (tmp_path / "none").exists()


HOSTILE = [
    *("[/b]", "</script>", "\"'`", "😀\u200d🔥", "שלום", "\u202eevil", "\u0000", "\x1b]0;owned\x07", "x" * 10_000),
    *("", "\t", "\n", "=1+1", "[red]", "\\u0000", "<img src=x onerror=alert(1)>", "&lt;", "]]>"),
]
BROKEN = [*HOSTILE, "\ud800", "a\udfffb"]


@pytest.fixture
def hostile(run: Path, circuit: Circuit, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose every token is hostile; in contexts there are halves of surrogates too, which no table can hold."""
    pretend(monkeypatch, HOSTILE)
    assert circuit("effects", "--run", run, "--force").code == 0
    pretend(monkeypatch, BROKEN)
    labels = run.parent / "labels.csv"
    features = [name(row) for row in rows(run, "effects/features.parquet")]
    label = "[/b] </script> \u202e\x1b]0;owned\x07 " + "y" * 10_000
    labels.write_text("feature,label\n" + "".join(f'{feature},"{label}"\n' for feature in features), encoding="utf-8")
    assert circuit("graph", "--run", run, "--labels", labels).code == 0
    return run


def test_hostile_tokens_in_cards(hostile: Path, circuit: Circuit, screen: Any):
    features = [name(row) for row in rows(hostile, "effects/features.parquet")]
    args: list[Any] = ["effects", "--run", hostile, *(x for feature in features for x in ("--feature", feature))]
    shown = screen(circuit, args)
    piped = circuit(*args).out
    for text in (shown, piped):
        bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
        assert not [c for c in bare if not c.isprintable() and c not in "\n\t"]
        assert "[/b]" in bare
        assert "]0;owned" in bare
        assert max(map(len, re.split(r"[\n\t]", bare))) < 500
    tables = tsv(piped)
    assert {len(row) for row in tables} <= {3, 6, 7, 8}
    found = circuit(*args, "--json").document["cards"]
    tokens = {token for card in found for context in card["feature"]["contexts"] for token in context["tokens"]}
    assert tokens <= set(BROKEN)
    assert len(tokens) > 8
    assert all(len(card["feature"]["label"]) > 10_000 for card in found)
    assert {visible(token, 16) for token in tokens if token} & {visible(token, 16) for token in BROKEN}


def test_hostile_tokens_by_position(circuit: Circuit, prompted: Job, monkeypatch: pytest.MonkeyPatch, screen: Any):
    pretend(monkeypatch, BROKEN)
    args: list[Any] = ["effects", "--run", prompted.run.root, "--by-position"]
    for text in (screen(circuit, args), circuit(*args).out):
        bare = re.sub(r"\x1b\[[0-9;]*m", "", text)
        assert not [c for c in bare if not c.isprintable() and c not in "\n\t"]
    found = circuit(*args, "--json").document["prompts"]
    assert {p["token"] for prompt in found for p in prompt["positions"]} <= set(BROKEN)


def test_a_card_on_a_terminal_is_shaded(circuit: Circuit, run: Path, screen: Any, monkeypatch: pytest.MonkeyPatch):
    feature = name(rows(run, "effects/features.parquet")[0])
    args = ["effects", "--run", run, "--feature", feature]
    shown = screen(circuit, args)
    assert re.search(r"\x1b\[1;4;38;5;16;48;5;\d+m", shown)  # the firing token: bold, underlined, black on a colour
    assert len(set(re.findall(r"48;5;\d+", shown))) > 1
    assert "«" not in shown
    monkeypatch.setenv("NO_COLOR", "1")
    assert "«" in screen(circuit, args)


def test_help_names_both(circuit: Circuit):
    text = " ".join(circuit("effects", "--help").out.split())
    assert "--feature FEATURE" in text
    assert "--by-position" in text
