"""`circuit doctor` tells each mistake that is made with transcoders, through their files, and passes what is right."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import planted_transcoders as planted

from circuitcli import demo
from circuitcli.core.reconstruction import Splicer, Text
from circuitcli.core.sampling import pad, sample_documents, to_sequences
from circuitcli.core.sites import Site
from circuitcli.runtime.checkpoint import find
from circuitcli.runtime.tokenizer import Tokenizer
from circuitcli.saes import SaeEntry
from circuitcli.saes._facts import Facts
from circuitcli.stages import fit

SMALL = ("--num-sequences", "6", "--max-tokens", "64", "--text", demo.TEXT)
Found = dict[str, tuple[str, str | None]]


def verdicts(circuit, code: int, *args) -> Found:
    result = circuit("doctor", "--json", *SMALL, *args)
    assert result.code == code, result.err
    return {one["site"]: (one["verdict"], one["change"]) for one in result.document["saes"]}


def told(circuit, words: str, *args) -> str | None:
    """The change that is named of the one layer, which is told to be wrong in these words."""
    result = circuit("doctor", "--json", *SMALL, *args)
    assert result.code == 6, result.err
    [one] = result.document["saes"]
    assert one["verdict"] == "wrong"
    assert f"it fits far better {words}: FVU " in one["why"]
    assert one["why"] in result.err
    return one["change"]


def transposed(layer: int, weights: planted.Weights) -> planted.Weights:
    return {**weights, "W_skip": weights["W_skip"].T}


def without(layer: int, weights: planted.Weights) -> planted.Weights:
    return {name: value for name, value in weights.items() if name != "W_skip"}


@pytest.mark.parametrize("release", ["demo-transcoders", "demo-clt"])
def test_the_demos_fit(circuit, release):
    found = verdicts(circuit, 0, "--release", release)
    assert found == {f"{layer}.mlp_in": ("fits", None) for layer in range(4)}


@pytest.mark.parametrize(
    ("layer", "change", "hook", "words", "name"),
    [
        (0, planted.b_dec(-1), "mlp.hook_in", "without subtracting b_dec from its input", "b_dec not subtracted"),
        (3, planted.b_dec(-1), "mlp.hook_in", "without subtracting b_dec from its input", "b_dec not subtracted"),
        (0, planted.b_dec(+1), "mlp.hook_in", "with b_dec subtracted from its input", "b_dec subtracted"),
        (2, planted.unchanged, "hook_resid_mid", "behind the norm with its gain and bias (mlp_in)", "gain"),
        (1, transposed, "mlp.hook_in", "with W_skip transposed", "skip transposed"),
    ],
)
def test_mistakes_in_a_transcoder(circuit, tmp_path, layer, change, hook, words, name):
    folder = planted.plant(tmp_path / "set", change, source=demo.TRANSCODERS, hook=hook)
    assert told(circuit, words, "--release", folder, "--layers", str(layer)) == name


def test_a_skip_connection_that_is_left_out(circuit, tmp_path):
    """It is fitted, so this takes some text. Where it does less it is named, and whether it is so is left open."""
    folder = planted.plant(tmp_path / "set", without, source=demo.TRANSCODERS)
    result = circuit("doctor", "--json", "--num-sequences", "24", "--release", folder)
    assert result.code == 6
    words = "with a skip connection, which seems to be left out"
    assert f"0.mlp_in: it fits far better {words}" in result.err
    found = [(one["verdict"], one["change"]) for one in result.document["saes"]]
    assert found == [("wrong", "skip left out"), *[("doubtful", "skip left out")] * 3]


@pytest.mark.parametrize(("by", "name", "layers"), [(1, "layer before", "1:4"), (-1, "layer after", "0:3")])
def test_layers_that_are_off_by_one(circuit, tmp_path, by, name, layers):
    folder = planted.layers_moved(tmp_path / "set", by)
    found = verdicts(circuit, 6, "--release", folder, "--layers", layers)
    start, stop = map(int, layers.split(":"))
    assert found == {f"{layer}.mlp_in": ("wrong", name) for layer in range(start, stop)}


class TestTheNormsGain:
    """On a model with gains far from 1; on the demo's, all of which are alike, it costs little and is named."""

    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory) -> Path:
        return planted.model_with_gains(tmp_path_factory.mktemp("gains") / "model")

    @pytest.fixture(scope="class")
    def right(self) -> planted.Weights:
        """Of what the MLP reads there."""
        ratio = planted.ratios(128)
        return planted.in_front_of(1 / ratio, torch.zeros(128))(2, planted.shipped(2))

    @pytest.fixture(scope="class")
    def normalized(self, right) -> planted.Weights:
        """The same of what the norm makes before its gain and bias."""
        gain, bias = planted.norm(2)
        ratio = planted.ratios(128)
        return planted.in_front_of(gain * ratio, bias * ratio)(2, right)

    def test_what_is_right_fits(self, circuit, model, right, normalized, tmp_path):
        for name, weights, hook, fold in (
            ("with", right, "mlp.hook_in", False),
            ("without", normalized, "ln2.hook_normalized", True),
        ):
            folder = planted.save_saelens(tmp_path / name, 2, weights, hook, fold_ln=fold)
            assert verdicts(circuit, 0, "--model", model, "--release", folder) == {"2.mlp_in": ("fits", None)}

    def test_it_is_missing(self, circuit, model, right, tmp_path):
        folder = planted.save_saelens(tmp_path / "wrong", 2, right, "ln2.hook_normalized", fold_ln=True)
        words = "behind the norm with its gain and bias (mlp_in)"
        assert told(circuit, words, "--model", model, "--release", folder) == "gain"

    def test_it_is_there_and_should_not_be(self, circuit, model, normalized, tmp_path):
        folder = planted.save_saelens(tmp_path / "wrong", 2, normalized, "mlp.hook_in", fold_ln=False)
        words = "behind the norm without its gain and bias"
        assert told(circuit, words, "--model", model, "--release", folder) == "no gain"

    def test_a_layer_off_by_one_has_the_gain_of_its_own(self, circuit, model, normalized, tmp_path):
        """Else what is moved to its layer would be read through another norm."""
        folder = planted.save_saelens(tmp_path / "wrong", 1, normalized, "ln2.hook_normalized", fold_ln=True)
        assert told(circuit, "at the layer after", "--model", model, "--release", folder) == "layer after"

    def test_on_the_demo_it_is_named(self, circuit, tmp_path):
        folder = planted.save_saelens(tmp_path / "wrong", 3, planted.shipped(3), "ln2.hook_normalized", fold_ln=True)
        found = verdicts(circuit, 0, "--release", folder)
        assert found == {"3.mlp_in": ("doubtful", "gain")}


def test_a_mean_that_it_does_not_write(circuit, tmp_path):
    """Trained on centred weights, on a model whose MLPs write a mean that no norm notices."""
    model = planted.model_with_means(tmp_path / "model")
    for name, centred in (("right", True), ("wrong", False)):
        options = {"fold_ln": False, "center_writing_weights": centred}
        planted.save_saelens(tmp_path / name, 2, planted.shipped(2), "mlp.hook_in", **options)
    args = ("--model", model, "--release")
    assert verdicts(circuit, 0, *args, tmp_path / "right") == {"2.mlp_in": ("fits", None)}
    words = "with the mean over d_model left to the MLP's own"
    assert told(circuit, words, *args, tmp_path / "wrong") == "centred output"


class TestTrained:
    """What the demo has none of: one that reads the stream before the norm, and one with as many features as inputs."""

    @pytest.fixture(scope="class")
    def activations(self, load_once) -> Callable[[str], torch.Tensor]:
        from circuitcli.runtime.device import make

        tokenizer = Tokenizer(find("demo"))
        documents = [json.loads(line)["text"] for line in demo.TEXT.read_text(encoding="utf-8").splitlines()]
        chosen, _ = sample_documents(documents, 200, 0, 7)
        drawn = pad(to_sequences([tokenizer.encode(t) for t in chosen], bos=tokenizer.bos, max_tokens=100, count=200))
        text = Text(torch.as_tensor(drawn.tokens).long(), torch.as_tensor(drawn.lengths).long(), bos=True)
        sites = [Site(3, name) for name in ("resid_mid", "mlp_in", "mlp_out")]
        splicer = Splicer(load_once(find("demo"), make("cpu", "float32", None, 0)), text, sites)
        return lambda name: splicer.activations(Site(3, name))

    @pytest.fixture(scope="class")
    def before(self, activations) -> planted.Weights:
        return planted.train(activations("resid_mid"), activations("mlp_out"), d_sae=384)

    @pytest.fixture(scope="class")
    def square(self, activations) -> planted.Weights:
        return planted.train(activations("mlp_in"), activations("mlp_out"), d_sae=128, skip=True)

    def test_what_is_before_the_norm(self, circuit, before, tmp_path):
        right = planted.save_topk(tmp_path / "right", 3, before, "hook_resid_mid")
        assert verdicts(circuit, 0, "--release", right) == {"3.resid_mid": ("fits", None)}
        wrong = planted.save_topk(tmp_path / "wrong", 3, before, "mlp.hook_in")
        assert told(circuit, "before the norm (resid_mid)", "--release", wrong) == "before the norm"

    def test_a_skip_connection_too_many(self, circuit, before, tmp_path):
        added = {**before, "W_skip": torch.randn(128, 128, generator=torch.Generator().manual_seed(0)) / 128**0.5}
        wrong = planted.save_topk(tmp_path / "wrong", 3, added, "hook_resid_mid")
        assert told(circuit, "without its skip connection", "--release", wrong) == "no skip"

    @pytest.mark.parametrize(
        ("tensors", "name", "words"),
        [
            (("W_enc",), "W_enc transposed", "with W_enc transposed"),
            (("W_dec",), "W_dec transposed", "with W_dec transposed"),
            (("W_enc", "W_dec"), "transposed", "with W_enc and W_dec transposed"),
        ],
    )
    def test_transposed_weights(self, circuit, square, tmp_path, tensors, name, words):
        turned = {key: value.T if key in tensors else value for key, value in square.items()}
        folder = planted.save_topk(tmp_path / "wrong", 3, turned, "mlp.hook_in")
        assert told(circuit, words, "--release", folder) == name


ALL = range(4)


@pytest.mark.parametrize(
    ("change", "hook", "layers", "name"),
    [
        (planted.written(+1), "mlp.hook_in", ALL, "written before"),
        (planted.written(-1), "mlp.hook_in", ALL, "written after"),
        (planted.moved(+1), "mlp.hook_in", range(1, 4), "layer before"),
        (planted.moved(-1), "mlp.hook_in", range(3), "layer after"),
        (planted.unchanged, "hook_resid_mid", ALL, "gain"),
        (planted.b_dec(-1), "mlp.hook_in", ALL, "b_dec not subtracted"),
        (planted.b_dec(+1), "mlp.hook_in", ALL, "b_dec subtracted"),
    ],
)
def test_mistakes_in_a_cross_layer_transcoder(circuit, tmp_path, change, hook, layers, name):
    """In all its layers at once, as they are made."""
    folder = planted.plant(tmp_path / "set", change, source=demo.CLT, hook=hook)
    found = list(verdicts(circuit, 6, "--release", folder).values())
    assert {found[layer][1] for layer in layers} == {name}
    assert "wrong" in {found[layer][0] for layer in layers}


def test_some_layers_of_a_cross_layer_transcoder_are_not_judged(circuit):
    """What the others write there isn't known, and no error of theirs."""
    result = circuit("doctor", "--json", *SMALL, "--release", "demo-clt", "--layers", "2:")
    assert result.code == 0
    assert "whether the cross-layer transcoders at 2.mlp_in, 3.mlp_in fit wasn't checked" in result.err
    assert "those that read in layers 0, 1 write there too, and aren't chosen" in result.err
    assert {one["numbers"]["fvu"] for one in result.document["saes"]} == {None}


def test_where_it_was_judged_is_told(circuit, tmp_path):
    """In the table and with --json."""
    plain = circuit("doctor", *SMALL, "--release", "demo-clt", "--layers", "0:2")
    rows = [line.split("\t") for line in plain.out.splitlines() if "\t" in line]
    assert [row[:2] for row in rows] == [
        ["site", "judged at"], ["0.mlp_in", "0.mlp_out"], ["1.mlp_in", "1.mlp_out"],
    ]  # fmt: skip
    folder = planted.plant(tmp_path / "set", planted.written(-1), source=demo.CLT)
    wrong = circuit("doctor", *SMALL, "--release", folder, "--json")
    assert "cross-layer transcoders don't fit demo; 0.mlp_in: it fits far better" in wrong.err
    assert "“Doctor” in docs/transcoders.md" in wrong.err
    assert [(one["kind"], one["writes"], one["others"]) for one in wrong.document["saes"]][1] == (
        "cross-layer transcoder", "1.mlp_out", ["0.mlp_in"],
    )  # fmt: skip


def test_cache_acts_refuses_a_transcoder_that_is_wrong(circuit, tmp_path):
    """And a cross-layer one, whose layers are tried together."""
    for source, change, says in (
        (demo.TRANSCODERS, transposed, "The transcoder at 0.mlp_in doesn't fit"),
        (demo.CLT, planted.written(+1), "The cross-layer transcoder at 0.mlp_in doesn't fit"),
    ):
        folder = planted.plant(tmp_path / source.name, change, source=source)
        run = tmp_path / f"run-{source.name}"
        assert circuit("fetch-saes", "--run", run, "--release", folder).code == 0
        circuit("cache-acts", "--run", run, *SMALL).refused(3, says, "circuit doctor")


def test_what_is_judged_together_and_in_which_order():
    """A cross-layer transcoder is whole, wherever SAEs lie between its layers."""

    def entry(site: str, *writes: str) -> SaeEntry:
        at, there = (tuple(Site(int(n[0]), n[2:]) for n in names) for names in ((site,), writes))
        return SaeEntry(
            Facts(at[0], "", 4, 4, "standard", "none", True, None, False, True, False, None, writes=there),
            provider="local", source="", config=None, revision=None, stated={},
        )  # fmt: skip

    entries = [entry("0.z"), entry("0.mlp_in", "0.mlp_out", "1.mlp_out"), entry("0.mlp_out"), entry("0.resid_post")]
    entries += [entry("1.mlp_in", "1.mlp_out"), entry("1.resid_post")]
    found = [[str(one.at) for one in group] for group in fit.together(entries)]
    assert found == [["0.z"], ["0.mlp_in", "1.mlp_in"], ["0.mlp_out"], ["0.resid_post"], ["1.resid_post"]]
