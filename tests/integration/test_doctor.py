"""`circuit doctor` tells each mistake that people make, passes what is right, and cache-acts refuses what is wrong."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from support import planted
from support.commands import contents

from circuitcli import demo
from circuitcli.cli.console import Terminal
from circuitcli.core.examination import Examiner
from circuitcli.core.reconstruction import Splicer, Text
from circuitcli.core.sampling import pad, sample_documents, to_sequences
from circuitcli.core.sites import Site
from circuitcli.runtime.checkpoint import find
from circuitcli.runtime.tokenizer import Tokenizer
from circuitcli.stages import doctor as stage

SMALL = ("--num-sequences", "6", "--max-tokens", "64")
B = "blocks.{}.hook_{}".format


def verdicts(circuit, code: int, *args) -> dict[str, tuple[str, str | None]]:
    result = circuit("doctor", "--json", *SMALL, *args)
    assert result.code == code, result.err
    assert len(result.out.splitlines()) == 1
    return {one["site"]: (one["verdict"], one["change"]) for one in result.document["saes"]}


def test_seven_mistakes_are_told_and_named(circuit, tmp_path):
    """No LayerNorm, ReLU for TopK, sign of b_dec, b_dec not subtracted, layer −1, layer +1, LayerNorm not there."""
    planted.plant(tmp_path, B(0, "attn_out"), config={"normalize_activations": "none"})
    planted.plant(tmp_path, B(1, "attn_out"), config={"architecture": "standard", "k": None})
    planted.plant(tmp_path, B(2, "attn_out"), weights=planted.negated)
    planted.plant(tmp_path, B(3, "attn_out"), config={"apply_b_dec_to_input": False})
    planted.plant(tmp_path, B(2, "mlp_out"), metadata=planted.at(B(1, "mlp_out")))
    planted.plant(tmp_path, B(2, "mlp_out"), metadata=planted.at(B(3, "mlp_out")))
    planted.plant(tmp_path, B(0, "resid_post"), config={"normalize_activations": "layer_norm"})
    found = verdicts(circuit, 6, "--release", tmp_path)
    assert found == {
        "0.attn_out": ("wrong", "LayerNorm"),
        "1.attn_out": ("wrong", "TopK 16"),
        "2.attn_out": ("wrong", "b_dec negated"),
        "3.attn_out": ("doubtful", "b_dec subtracted"),
        "1.mlp_out": ("wrong", "layer after"),
        "3.mlp_out": ("wrong", "layer before"),
        "0.resid_post": ("wrong", "no normalisation"),
    }


class TestRuns:
    @pytest.fixture(autouse=True)
    def here(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

    def test_a_run_that_is_not_there_is_refused(self, circuit, tmp_path, monkeypatch):
        missing = tmp_path / "typo"
        circuit("doctor", "--run", missing).refused(3, f"There is no run at {missing}", "leave --run out")
        circuit("doctor", "--run", missing, "--json").refused_in_json(3)
        (tmp_path / "empty").mkdir()
        monkeypatch.setenv("CIRCUIT_RUN", "empty")
        circuit("doctor").refused(3, "There is no run at empty")
        assert list(contents(tmp_path)) == ["empty"]

    def test_a_run_gives_settings_and_commits(self, circuit, tmp_path, monkeypatch):
        seen = []
        monkeypatch.setattr(stage, "run", lambda subject: seen.append(subject) or stage.Findings("places", []))
        planted.plant(tmp_path, B(1, "attn_out"))
        (tmp_path / "p.toml").write_text("seed = 5")
        args = ("--run", "run", "--release", tmp_path, "--profile", "p.toml")
        assert circuit("fetch-saes", *args).code == 0
        assert circuit("doctor", "--run", "run").code == 0
        [subject] = seen
        assert subject.tools.settings.seed == 5
        assert [str(entry.at) for entry in subject.entries] == ["1.attn_out"]

    @pytest.mark.parametrize("kind", ["other", "file", "run"])
    def test_without_a_run_no_folder_is_looked_at(self, kind, circuit, tmp_path):
        """Whatever lies where runs lie, and under this command's name."""
        place = tmp_path / "runs" / "doctor"
        place.parent.mkdir()
        if kind == "file":
            place.write_text("mine")
        else:
            place.mkdir()
            (place / "x").write_text("mine")
        if kind == "run":
            (place / "settings.toml").write_text("seed = [")
            (place / "saes").mkdir()
            (place / "saes" / "stage.json").write_text("{")
        before = contents(tmp_path)
        assert verdicts(circuit, 0, "--layers", "0", "--site", "attn_out") == {"0.attn_out": ("fits", None)}
        assert contents(tmp_path) == before


@pytest.mark.parametrize("because", ["", "it was told so"])
def test_the_engine_is_told(because, circuit, model, monkeypatch):
    """In the table and with --json; a slow one in words too."""
    monkeypatch.setattr(model, "whole_because", because)
    args = ("doctor", *SMALL, "--device", "cpu", "--layers", "0", "--site", "attn_out")
    found = circuit(*args, "--json")
    engine = "whole" if because else "places"
    assert found.document["engine"] == engine
    assert (because in found.err and "slower" in found.err) or not because
    [names, row] = [line.split("\t") for line in circuit(*args).out.splitlines() if "\t" in line]
    shown = dict(zip(names, row, strict=True))
    assert shown["engine"] == engine
    assert shown["dead"] == f"{found.document['saes'][0]['numbers']['dead']:.1%}"


def test_the_bar_counts_sequences_to_a_total(circuit, tmp_path, monkeypatch):
    """Of the clean pass, and of the stated SAE and all its changes."""
    told = []

    @contextmanager
    def track(self, what, total, unit):
        told.append((what, total, unit, []))
        yield told[-1][-1].append

    monkeypatch.setattr(Terminal, "track", track)
    planted.plant(tmp_path, B(1, "attn_out"))
    one = circuit("doctor", "--json", "--num-sequences", "30", "--max-tokens", "64", "--release", tmp_path)
    changes = one.document["saes"][0]["alternatives"]
    bars = [(what, total, sum(done)) for what, total, unit, done in told if unit == "sequences"]
    total = 30 * (1 + len(changes))
    assert bars == [("Reading the sample", 30, 30), ("Examining 1.attn_out", total, total)]
    assert {a["positions"] for a in changes if not a["better"]} != {one.document["saes"][0]["positions"]}


def test_a_flipped_bos_is_told(circuit, tmp_path):
    for name in ("attn_out", "resid_post"):
        planted.plant(tmp_path, B(1, name), metadata={"prepend_bos": False})
    found = verdicts(circuit, 0, "--release", tmp_path)
    assert found == {"1.attn_out": ("doubtful", "BOS"), "1.resid_post": ("doubtful", "BOS")}


def test_centring_is_told_and_passed(circuit, tmp_path):
    model = planted.model_with_mean(tmp_path / "model", 3.0)
    for name, centred in (("right", True), ("wrong", False)):
        (tmp_path / name).mkdir()
        options = {"model_from_pretrained_kwargs": {"center_writing_weights": centred}}
        planted.plant(tmp_path / name, B(2, "resid_post"), metadata=options)
    assert verdicts(circuit, 0, "--model", model, "--text", demo.TEXT, "--release", tmp_path / "right") == {
        "2.resid_post": ("fits", None)
    }
    found = verdicts(circuit, 6, "--model", model, "--text", demo.TEXT, "--release", tmp_path / "wrong")
    assert found == {"2.resid_post": ("wrong", "centring")}


@pytest.fixture(scope="module")
def model(load_once):
    from circuitcli.runtime.device import make

    return load_once(find("demo"), make("cpu", "float32", None, 0))


def sample(seed: int, count: int) -> Text:
    """Sequences of the demo's text, BOS first."""
    tokenizer = Tokenizer(find("demo"))
    documents = [json.loads(line)["text"] for line in demo.TEXT.read_text(encoding="utf-8").splitlines()]
    chosen, _ = sample_documents(documents, count, 0, seed)
    drawn = pad(to_sequences([tokenizer.encode(t) for t in chosen], bos=tokenizer.bos, max_tokens=100, count=count))
    return Text(torch.as_tensor(drawn.tokens).long(), torch.as_tensor(drawn.lengths).long(), bos=True)


def test_raw_z_is_told_and_processed_z_is_passed(circuit, model, tmp_path):
    """An SAE of z without value biases, on a model that has large ones."""
    biased = planted.model_with_biases(tmp_path / "model", 1, 1.0)
    z = Splicer(model, sample(7, 200), [Site(1, "z")]).activations(Site(1, "z")) - model.z_offset(1)
    weights = planted.train(z)
    planted.save_z(tmp_path / "right", 1, weights, fold_ln=True, fold_value_biases=True)
    planted.save_z(tmp_path / "wrong", 1, weights)
    args = ("--model", biased, "--text", demo.TEXT)
    assert verdicts(circuit, 0, *args, "--release", tmp_path / "right") == {"1.z": ("fits", None)}
    found = verdicts(circuit, 6, *args, "--release", tmp_path / "wrong")
    assert found["1.z"][1] == "processed z"


@pytest.mark.parametrize(("seed", "full"), [(0, False), (1, False), (2, False), (3, True)])
def test_the_demos_twelve_fit(model, seed, full):
    from support import tiny

    saes = list(tiny.load_saes(demo.SAES).values())
    examiner = Examiner(model, sample(seed, 4), 0, saes)
    fits = [examiner.examine(sae, full=full) for sae in saes]
    assert len(fits) == 12
    assert not [fit for fit in fits if fit.verdict != "fits"]


class TestCacheActs:
    def fetch(self, circuit, tmp_path, **mistake) -> Path:
        planted.plant(tmp_path / "saes", B(1, "attn_out"), **mistake)
        run = tmp_path / "run"
        assert circuit("fetch-saes", "--run", run, "--release", tmp_path / "saes").code == 0
        return run

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        (tmp_path / "saes").mkdir()

    def test_it_refuses_what_is_wrong_and_writes_nothing(self, circuit, tmp_path):
        run = self.fetch(circuit, tmp_path, config={"architecture": "standard", "k": None})
        before = contents(run)
        refused = circuit("cache-acts", "--run", run, *SMALL)
        refused.refused(3, "1.attn_out", "TopK", "circuit doctor", "--allow-misfit")
        assert contents(run) == before
        allowed = circuit("cache-acts", "--run", run, *SMALL, "--allow-misfit", "--json")
        assert allowed.code == 0
        assert "doesn't fit" in allowed.err
        assert allowed.document["fit"] == {"1.attn_out": "wrong"}
        assert 0 <= allowed.document["dead_share"]["1.attn_out"] <= 1

    def test_a_text_that_is_too_short_is_one_line(self, circuit, tmp_path):
        """In place of one for each of the demo's four SAEs; and doctor has no table of changes that it can't judge."""
        short = ["--prompt", "In the"]
        assert circuit("fetch-saes", "--run", tmp_path / "run").code == 0
        for args in (["cache-acts", "--run", tmp_path / "run", *short], ["doctor", *short]):
            result = circuit(*args)
            assert [line for line in result.err.splitlines() if "Warning" in line] == [
                "Warning: whether the SAEs at 0.resid_post, 1.resid_post, 2.resid_post, 3.resid_post fit "
                "wasn't checked: the text has 2 positions, too few to tell."
            ]
            assert "read\tat" not in result.out

    def test_it_warns_of_what_is_doubtful_once_and_records_it(self, circuit, tmp_path, monkeypatch):
        run = self.fetch(circuit, tmp_path, metadata={"prepend_bos": False})
        warned = circuit("cache-acts", "--run", run, *SMALL)
        assert warned.code == 0
        assert "may not fit: it fits better on text with BOS" in warned.err
        recorded = json.loads((run / "acts" / "fit.json").read_text())["saes"]
        assert [(one["verdict"], one["change"]) for one in recorded] == [("doubtful", "BOS")]
        (run / "acts" / "stage.json").unlink()
        again = circuit("cache-acts", "--run", run, *SMALL)
        assert again.code == 0
        assert "going on" in again.err
        assert "may not fit" not in again.err
