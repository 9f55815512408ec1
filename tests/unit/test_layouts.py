"""Every layout in which transcoders and SAEs are published, by plain formulas on files in it."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support import layouts
from support.layouts import D, Drawn, K, N, across, drawn, per_layer
from test_saes import refused, take
from torch import Tensor

from circuitcli.core.dictionary import Dictionary, reconstructed
from circuitcli.core.matrix import Stored
from circuitcli.core.sites import Site
from circuitcli.saes import SaeEntry, _files, _read, plugins, still_there
from circuitcli.saes._files import Files, Stated
from circuitcli.stages.sources import Sources

Taken = dict[Site, tuple[SaeEntry, Dictionary]]


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def check(taken: Taken, ones: list[Drawn], reads: str) -> None:
    """Activations of each, what all say together of each MLP's output, and the edits of one feature of each."""
    draw = torch.Generator().manual_seed(9)
    x = [2 * torch.randn(40, D, generator=draw) for _ in ones]
    y = torch.randn(40, D, generator=draw)
    assert list(taken) == [Site(layer, reads) for layer in range(len(ones))]
    loaded = {site: dictionary for site, (_, dictionary) in taken.items()}
    a = [one.encode(there) for one, there in zip(ones, x, strict=True)]
    for layer, one in enumerate(ones):
        entry, ours = taken[Site(layer, reads)]
        close(ours.encode(x[layer]), a[layer])
        assert 0 < (a[layer] > 0).float().mean() < 1
        assert ours.written == entry.facts.writes == tuple(Site(to, "mlp_out") for to in one.w_dec)
        assert entry.facts.skip == (one.w_skip is not None)
        assert (entry.facts.d_in, entry.facts.d_sae) == (D, N)
        feature = torch.arange(40) % N
        edits = ours.edit(x[layer], feature, a[layer][range(40), feature], torch.full((40,), 0.25))
        for to, w_dec in one.w_dec.items():
            by = (0.25 - a[layer][range(40), feature]).unsqueeze(1)
            close(edits[Site(to, "mlp_out")], by * w_dec[feature])
    for to in range(len(ones)):
        site = Site(to, "mlp_out")
        fires = {read: one.active(x[read.layer]) for read, one in loaded.items()}
        ours = reconstructed(site, loaded, fires, {read: x[read.layer] for read in loaded}, y)
        close(ours, sum(one.says(a[i], x[i], to, i) for i, one in enumerate(ones) if to in one.w_dec))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("act", ["relu", "topk", "jumprelu"])
@pytest.mark.parametrize(("hook", "site"), [("hook_resid_mid", "resid_mid"), ("mlp.hook_in", "mlp_in")])
def test_circuit_tracers_sets(tmp_path: Path, act: str, skip: bool, hook: str, site: str) -> None:
    more = {"activation": "topk", "k": K} if act == "topk" else {}
    ones = per_layer(act, skip=skip)
    taken = take(layouts.save_circuit_tracer(tmp_path, ones, hook, **more))
    check(taken, ones, site)
    facts = taken[Site(0, site)][0].facts
    assert (facts.centre, facts.centre_out, facts.centre_stated, facts.prepend_bos) == (False, False, True, True)
    assert not facts.normalized


def test_circuit_tracers_hook_behind_the_norm_is_without_the_gain_of_rms_norm_alone(tmp_path: Path) -> None:
    folder = layouts.save_circuit_tracer(tmp_path, per_layer(), "ln2.hook_normalized")
    source = plugins.load("saes", "local")
    (first, *_) = source.locate(str(folder), "main", [Site(0, "mlp_in")])
    assert not _read.facts(first.files({}), norms_subtract_mean=True).normalized
    assert _read.facts(first.files({}), norms_subtract_mean=False).normalized


def test_circuit_tracers_list_names_files_in_the_folder_and_of_both_gemma_scopes(tmp_path: Path) -> None:
    """In the list's order, whatever their names."""
    ones = per_layer("jumprelu")
    layouts.save(tmp_path / "sub" / "c.safetensors", layouts.circuit_tracer(ones[0], 0))
    layouts.save(tmp_path / "b.safetensors", layouts.gemma(ones[1], 1))
    np.savez(tmp_path / "a.npz", W_enc=ones[2].w_enc, W_dec=ones[2].w_dec[2], b_enc=ones[2].b_enc,
             b_dec=ones[2].b_dec, threshold=ones[2].threshold)  # fmt: skip
    listed = ["sub/c.safetensors", "b.safetensors", "a.npz"]
    layouts.say(tmp_path / "config.yaml", layouts.circuit_tracer_config("transcoder_set", transcoders=listed))
    check(take(tmp_path), ones, "resid_mid")
    skips = per_layer("jumprelu", skip=True)
    layouts.save(tmp_path / "b.safetensors", layouts.gemma(skips[1], 1))
    (_, ours) = take(tmp_path)[Site(1, "resid_mid")]
    x = torch.randn(4, D)
    close(ours.constant(x), skips[1].b_dec + x @ skips[1].w_skip)


@pytest.mark.parametrize("act", ["relu", "jumprelu"])
def test_circuit_tracers_cross_layer_transcoders(tmp_path: Path, act: str) -> None:
    ones = across(act)
    taken = take(layouts.save_circuit_tracer_clt(tmp_path, ones))
    check(taken, ones, "resid_mid")
    entry, _ = taken[Site(1, "resid_mid")]
    assert entry.source.endswith("W_enc_1.safetensors")
    assert [Path(path).name for path in entry.more] == ["W_dec_1.safetensors"]
    assert entry.layout == "circuit-tracer-clt"


def test_what_a_cross_layer_transcoder_writes_stays_in_its_file(tmp_path: Path) -> None:
    """As it lies there: 16 bits a number, and views of one tensor."""
    ones = across()
    folder = layouts.save_circuit_tracer_clt(tmp_path, ones, dtype=torch.bfloat16)
    _, ours = take(folder)[Site(0, "resid_mid")]
    assert all(isinstance(one.w_dec, Stored) for one in ours.decoders)
    assert isinstance(ours.w_enc, Stored)
    assert torch.equal(ours.encoder, load_file(folder / "W_enc_0.safetensors")["W_enc_0"].T.float())
    whole = load_file(folder / "W_dec_0.safetensors")["W_dec_0"]
    for slot, one in enumerate(ours.decoders):
        assert torch.equal(one.rows(torch.tensor([3, 1])), whole[[3, 1], slot].float())
        assert torch.equal(one.whole(), whole[:, slot].float())


@pytest.mark.parametrize("skip", [False, True])
def test_gemma_scope_2(tmp_path: Path, skip: bool) -> None:
    ones = per_layer("jumprelu", skip=skip)
    taken = take(layouts.save_gemma(tmp_path / "transcoder_all", ones))
    check(taken, ones, "mlp_in")
    assert {(entry.facts.normalized, entry.facts.prepend_bos) for entry, _ in taken.values()} == {(False, True)}
    clt = across("jumprelu", skip=skip)
    check(take(layouts.save_gemma_clt(tmp_path / "clt", clt)), clt, "mlp_in")


@pytest.mark.parametrize(
    ("module", "site"),
    [
        ("output", "resid_post"),
        ("self_attn.o_proj.input", "z"),
        ("post_feedforward_layernorm.output", "mlp_out"),
        ("post_attention_layernorm.output", "attn_out"),
        ("pre_feedforward_layernorm.output", "mlp_in"),
    ],
)
def test_gemma_scope_2_has_saes_too(tmp_path: Path, module: str, site: str) -> None:
    ones = per_layer("jumprelu")
    for layer, (at, (entry, ours)) in enumerate(take(layouts.save_gemma(tmp_path, ones, module, None)).items()):
        assert at == Site(layer, site)
        assert entry.facts.writes == (at,)
        x = torch.randn(20, D)
        a = ones[layer].encode(x)
        close(ours.encode(x), a)
        close(ours.decode(a, x), a @ ones[layer].w_dec[layer] + ones[layer].b_dec)


@pytest.mark.parametrize("skip", [False, True])
def test_sparsifys_transcoders(tmp_path: Path, skip: bool) -> None:
    ones = per_layer("topk", skip=skip)
    taken = take(layouts.save_sparsify(tmp_path, ones))
    check(taken, ones, "mlp_in")
    facts = taken[Site(0, "mlp_in")][0].facts
    assert (facts.prepend_bos, facts.centre_stated, facts.normalized, facts.architecture) == (
        False,
        True,
        False,
        "topk",
    )


def test_sparsifys_cross_layer_transcoders(tmp_path: Path) -> None:
    """What a layer's features write to a later layer is a part of that layer's W_dec."""
    ones = across("topk", skip=True)
    taken = take(layouts.save_sparsify(tmp_path, ones))
    check(taken, ones, "mlp_in")
    assert [len(entry.more) for entry, _ in taken.values()] == [2, 1, 0]


@pytest.mark.parametrize(
    ("module", "site"), [("layers.1", "resid_post"), ("layers.1.mlp", "mlp_out"), ("h.1.attn", "attn_out")]
)
def test_sparsifys_saes_subtract_b_dec(tmp_path: Path, module: str, site: str) -> None:
    """A folder of one of them may be named itself."""
    one = drawn("topk")
    folder = layouts.save_sparsify(tmp_path, [one], module.replace("1", "{}"), transcode=False)
    folder = (folder / module.replace("1", "0")).rename(tmp_path / module)
    for release in (tmp_path, folder):
        ((at, (_, ours)),) = take(release).items()
        assert at == Site(1, site)
        x = torch.randn(20, D)
        a = one.encode(x - one.b_dec)
        close(ours.encode(x), a)
        close(ours.decode(a, x), a @ one.w_dec[0] + one.b_dec)


@pytest.mark.parametrize("skip", [False, True])
def test_the_sweep_of_gpt2s(tmp_path: Path, skip: bool) -> None:
    """W_dec lies the other way round, and no file says what is read."""
    ones = per_layer(skip=skip)
    check(take(layouts.save_sparsecoder(tmp_path / "plt", ones)), ones, "resid_mid")
    clt = across(skip=skip)
    taken = take(layouts.save_sparsecoder_clt(tmp_path / "clt", clt))
    check(taken, clt, "resid_mid")
    assert [len(entry.more) for entry, _ in taken.values()] == [3, 2, 1]


def learned(dict_class: str) -> tuple[dict[str, Tensor], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """A state dict of one of their classes, what it makes of x, and what it makes of activations."""
    one, s = drawn("jumprelu"), {}
    w_enc, b_enc, w_dec, b_dec, each = one.w_enc, one.b_enc, one.w_dec[0], one.b_dec, one.threshold
    assert each is not None
    linear = {"encoder.weight": w_enc.T, "encoder.bias": b_enc, "decoder.weight": w_dec.T}
    matrices = {"W_enc": w_enc, "b_enc": b_enc, "W_dec": w_dec, "b_dec": b_dec}
    norms, one_for_all, k = w_dec.norm(dim=1), torch.tensor(0.7), torch.tensor(K, dtype=torch.int)
    r_mag, gate, mag = one.b_enc / 2, one.b_enc.flip(0), one.b_enc

    def linearly(x: Tensor) -> Tensor:
        return (x - b_dec) @ w_enc + b_enc

    def gated(x: Tensor) -> Tensor:
        h = (x - b_dec) @ w_enc
        return (h + gate > 0) * (h * r_mag.exp() + mag).relu() * norms

    def topk(x: Tensor) -> Tensor:
        top = linearly(x).relu().topk(K, dim=-1)
        return torch.zeros(len(x), N).scatter(1, top.indices, top.values)

    def jump(x: Tensor) -> Tensor:
        pre = x @ w_enc + b_enc
        return pre.relu() * (pre > each) * norms

    def above(x: Tensor) -> Tensor:
        return linearly(x).relu() * (linearly(x) > one_for_all)

    s["AutoEncoder"] = {**linear, "bias": b_dec}, lambda x: linearly(x).relu()
    s["AutoEncoderNew"] = {**linear, "decoder.bias": b_dec}, lambda x: (x @ w_enc + b_enc).relu()
    s["AutoEncoderTopK"] = {**linear, "b_dec": b_dec, "k": k, "threshold": torch.tensor(-1.0)}, topk
    s["BatchTopKSAE"] = {**linear, "b_dec": b_dec, "k": k, "threshold": one_for_all}, above
    groups = {"k": k, "threshold": one_for_all, "group_sizes": torch.tensor([3, 5])}
    s["MatryoshkaBatchTopKSAE"] = {**matrices, **groups}, above
    s["JumpReluAutoEncoder"] = {**matrices, "threshold": each}, jump
    biases = {"decoder_bias": b_dec, "r_mag": r_mag, "gate_bias": gate, "mag_bias": mag}
    s["GatedAutoEncoder"] = {"encoder.weight": w_enc.T, "decoder.weight": w_dec.T, **biases}, gated
    state, encode = s[dict_class]
    scale = norms if dict_class in ("JumpReluAutoEncoder", "GatedAutoEncoder") else torch.ones(N)
    return state, encode, lambda a: (a / scale) @ w_dec + b_dec


CLASSES = ("AutoEncoder", "AutoEncoderNew", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE",
           "JumpReluAutoEncoder", "GatedAutoEncoder")  # fmt: skip


@pytest.mark.parametrize("dict_class", CLASSES)
def test_dictionary_learnings_saes(tmp_path: Path, dict_class: str) -> None:
    state, encode, decode = learned(dict_class)
    folder = layouts.save_dictionary_learning(tmp_path / "resid_post_layer_1" / "trainer_0", state, dict_class)
    ((at, (entry, ours)),) = take(tmp_path).items()
    assert at == Site(1, "resid_post")
    assert (entry.facts.context_size, entry.facts.prepend_bos, entry.facts.centre_stated) == (128, False, True)
    x = 2 * torch.randn(50, D, generator=torch.Generator().manual_seed(1))
    a = encode(x)
    assert 0 < (a > 0).float().mean() < 1
    close(ours.encode(x), a)
    close(ours.decode(a, x), decode(a))
    assert list(take(folder)) == [at]


@pytest.mark.parametrize(
    ("trainer", "folder", "site"),
    [
        ({"submodule_name": "mlp_out_layer_2", "layer": 2}, "x", "2.mlp_out"),
        ({"submodule_name": None, "layer": 3}, "resid_out_layer3/10_32768", "3.resid_post"),
        ({"submodule_name": None, "layer": 3}, "attn_out_layer3", "3.attn_out"),
        ({"lm_name": "google/gemma-2-2b"}, "x", "1.resid_post"),
    ],
)
def test_dictionary_learning_names_its_site_in_the_configuration_or_the_folder(
    tmp_path: Path, trainer: dict[str, Any], folder: str, site: str
) -> None:
    layouts.save_dictionary_learning(tmp_path / folder, learned("AutoEncoder")[0], "AutoEncoder", trainer)
    ((at, (entry, _)),) = take(tmp_path / folder).items()
    assert str(at) == site
    assert entry.facts.prepend_bos == ("gemma" in trainer.get("lm_name", ""))


def test_pickles_of_the_first_transcoders_are_found_by_their_names(tmp_path: Path) -> None:
    from support import pickled

    one = drawn()
    w = {"W_enc": one.w_enc, "b_enc": one.b_enc, "W_dec": one.w_dec[0], "b_dec": one.b_dec, "b_dec_out": one.b_dec + 1}
    for layer in (0, 1):
        hooks = {"hook_point": f"blocks.{layer}.ln2.hook_normalized", "out_hook_point": f"blocks.{layer}.hook_mlp_out"}
        name = f"final_sparse_autoencoder_gpt2-small_blocks.{layer}.ln2.hook_normalized_{N}.pt"
        config = {**hooks, "d_in": D, "d_out": D, "d_sae": N, "is_transcoder": True, "context_size": 128}
        pickled.save_first_format(tmp_path / name, "sae_training.config", config, w)
    taken = take(tmp_path)
    assert list(taken) == [Site(0, "mlp_in"), Site(1, "mlp_in")]
    entry, ours = taken[Site(1, "mlp_in")]
    assert (entry.facts.normalized, entry.facts.centre_out, entry.config) == (True, True, None)
    x = torch.randn(20, D)
    close(ours.encode(x), one.encode(x - one.b_dec))
    close(ours.constant(x), one.b_dec + 1)


WRITERS: dict[str, Callable[[Path], Path]] = {
    "circuit-tracer": lambda folder: layouts.save_circuit_tracer(folder, per_layer("jumprelu", skip=True)),
    "circuit-tracer-clt": lambda folder: layouts.save_circuit_tracer_clt(folder, across("jumprelu")),
    "gemma-scope-2": lambda folder: layouts.save_gemma(folder, per_layer("jumprelu", skip=True)),
    "gemma-scope-2 clt": lambda folder: layouts.save_gemma_clt(folder, across("jumprelu", skip=True)),
    "sparsify": lambda folder: layouts.save_sparsify(folder, per_layer("topk", skip=True)),
    "sparsify clt": lambda folder: layouts.save_sparsify(folder, across("topk", skip=True)),
    "sparsecoder": lambda folder: layouts.save_sparsecoder(folder, per_layer(skip=True)),
    "sparsecoder clt": lambda folder: layouts.save_sparsecoder_clt(folder, across(skip=True)),
}


def turn(tensor: Tensor) -> Tensor | None:
    other = tensor.transpose(0, -1).contiguous()
    return None if other.shape == tensor.shape else other


WAYS: dict[str, Callable[[Tensor], Tensor | None]] = {
    "transposed": turn,
    "wider": lambda tensor: torch.cat([tensor, tensor[:1]]),
    "narrower": lambda tensor: tensor[..., :-1].contiguous(),
    "not a number": lambda tensor: tensor.clone().index_put_((torch.tensor(0),), torch.tensor(torch.nan)),
    "whole numbers": lambda tensor: tensor.int(),
    "missing": lambda tensor: None,
}


@pytest.mark.parametrize("layout", WRITERS)
def test_tensors_that_are_spoilt_are_refused_by_their_names(tmp_path: Path, layout: str) -> None:
    """All of them, each in each way that its shape allows; what is optional may be missing."""
    tried = 0
    folder = WRITERS[layout](tmp_path / "x")
    for path in sorted(folder.rglob("*.safetensors")):
        whole = load_file(path)
        before = path.read_bytes()
        for name, tensor in whole.items():
            for way, change in WAYS.items():
                other = change(tensor)
                if way == "missing" and any(word in name for word in ("skip", "threshold")):
                    continue
                if other is None and way != "missing":
                    continue
                layouts.save(path, {**whole, name: other})
                error = refused(lambda: take(folder))
                assert name.split("_from_")[0] in error.message + error.hint, (way, error)
                tried += 1
        layouts.save(path, {**whole, "else": torch.zeros(2)})
        assert "else" in refused(lambda: take(folder)).message or "alone" in refused(lambda: take(folder)).message
        path.write_bytes(before)
    assert tried > 40
    assert take(folder)


@pytest.mark.parametrize("layout", WRITERS)
def test_files_that_are_cut_or_anything_at_all_are_refused(tmp_path: Path, layout: str) -> None:
    folder, draw = WRITERS[layout](tmp_path / "x"), random.Random(0)
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        before = path.read_bytes()
        for content in (before[: len(before) // 2], b"", draw.randbytes(200), b"[1, 2]", b"null"):
            path.write_bytes(content)
            assert str(path.name) in refused(lambda: take(folder)).message
        path.write_bytes(before)


@pytest.mark.parametrize("layout", WRITERS)
def test_the_digest_follows_every_file(tmp_path: Path, layout: str) -> None:
    folder = WRITERS[layout](tmp_path / "x")
    for site, (entry, _) in take(folder).items():
        located = plugins.load("saes", "local").again(entry)
        assert _files.digest(located.files({})) == entry.facts.sha256
        paths = [entry.source, *entry.more, *([entry.config] if entry.config else [])]
        for path in map(Path, paths):
            before = path.read_bytes()
            path.write_bytes(before + b" ")
            assert _files.digest(located.files({})) != entry.facts.sha256, (site, path)
            path.write_bytes(before)


@pytest.mark.parametrize("layout", WRITERS)
def test_files_that_were_moved_are_found_with_what_lies_beside_them(tmp_path: Path, layout: str) -> None:
    """As on another machine, whose folder is called otherwise."""
    folder = WRITERS[layout](tmp_path / "x")
    recorded = [entry for entry, _ in take(folder).values()]
    folder.rename(tmp_path / "elsewhere")
    for entry in recorded:
        assert not still_there(entry)
        there = Sources((tmp_path,))._there(entry)
        assert still_there(there)
        assert there.facts == entry.facts


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"model_kind": "crosscoder"}, "model_kind = 'crosscoder'"),
    ({"model_kind": ["transcoder_set"]}, "model_kind"),
    ({"feature_input_hook": None}, "feature_input_hook = None"),
    ({"feature_input_hook": "hook_resid_post"}, "reads 0.resid_post"),
    ({"feature_input_hook": "hook_nothing"}, "hook_nothing"),
    ({"feature_output_hook": "hook_attn_out"}, "writes 0.attn_out"),
    ({"feature_output_hook": 3}, "feature_output_hook = 3"),
    ({"activation": "gelu"}, "activation = 'gelu'"),
    ({"activation": "topk"}, "k = None"),
    ({"activation": "topk", "k": 0}, "k = 0"),
    ({"activation": "topk", "k": N + 1}, f"k = {N + 1}"),
    ({"activation": "jumprelu"}, "no activation_function.threshold"),
    ({"transcoders": "layer_0.safetensors"}, "transcoders = 'layer_0.safetensors'"),
    ({"transcoders": []}, "transcoders = []"),
    ({"transcoders": ["layer_0.safetensors", 3]}, "transcoders = "),
    ({"transcoders": ["layer_9.safetensors"]}, "'layer_9.safetensors', which is not there"),
    ({"transcoders": ["../x/layer_0.safetensors"]}, "leaves its folder"),
    ({"transcoders": ["/etc/passwd"]}, "leaves its folder"),
    ({"transcoders": ["sub/../../x/layer_0.safetensors"]}, "leaves its folder"),
    (
        {"transcoders": ["layer_0.safetensors", "layer_1.safetensors"], "model_kind": "cross_layer_transcoder"},
        "no layer",
    ),
]


@pytest.mark.parametrize(("change", "words"), CONFIGS)
def test_a_config_yaml_of_something_else_is_refused_by_name(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = layouts.save_circuit_tracer(tmp_path / "x", per_layer())
    layouts.say(folder / "config.yaml", {**layouts.circuit_tracer_config("transcoder_set"), **change})
    error = refused(lambda: take(folder))
    assert words in error.message
    assert "config.yaml" in error.message or "layer_" in error.message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- a\n- b\n", "holds no configuration of transcoders"),
        ("just words", "holds no configuration"),
        ("", "holds nothing"),
        ("a: [1", "is not YAML"),
        ("a: !!python/object/apply:os.system ['true']", "has a tag"),
        ("a: &b [1]\nc: *b", "has an alias"),
        ("\x00", "YAML"),
        ("a: " + "x" * 200_000, "is larger than"),
    ],
)
def test_a_config_yaml_that_is_no_plain_mapping_is_refused(tmp_path: Path, text: str, words: str) -> None:
    folder = layouts.save_circuit_tracer(tmp_path / "x", per_layer())
    (folder / "config.yaml").write_text(text)
    assert words in refused(lambda: take(folder)).message


def test_thresholds_below_0_are_refused_where_activations_would_be_negative(tmp_path: Path) -> None:
    (one,) = [drawn("jumprelu")]
    assert one.threshold is not None
    one.threshold[3] = -0.5
    folder = layouts.save_circuit_tracer(tmp_path, [one])
    assert "thresholds below 0" in refused(lambda: take(folder)).message


def test_half_a_layer_is_refused_and_a_missing_layer_is_left_out(tmp_path: Path) -> None:
    """What the missing one would write is left to the errors."""
    clts = {"W_dec_{}": layouts.save_circuit_tracer_clt, "encoder_layer_{}": layouts.save_sparsecoder_clt}
    for half, write in clts.items():
        folder = write(tmp_path / half, across())
        (folder / f"{half.format(1)}.safetensors").unlink()
        assert "half of layer 1" in refused(lambda folder=folder: take(folder)).message
    folder = layouts.save_circuit_tracer_clt(tmp_path / "c", across())
    for part in ("W_enc_1", "W_dec_1"):
        (folder / f"{part}.safetensors").unlink()
    assert list(take(folder)) == [Site(0, "resid_mid"), Site(2, "resid_mid")]
    folder = layouts.save_sparsify(tmp_path / "d", across("topk"))
    for path in (folder / "h.2.mlp").iterdir():
        path.unlink()
    assert "has no layer 2, to which layer 0 writes" in refused(lambda: take(folder)).message


def test_two_dictionaries_that_read_one_site_are_refused(tmp_path: Path) -> None:
    ones = per_layer("topk")
    layouts.save_sparsify(tmp_path, ones)
    layouts.save_sparsify(tmp_path, ones, "layers.{}.mlp")
    error = refused(lambda: take(tmp_path))
    assert "read 0.mlp_in: " in error.message
    assert "h.0.mlp" in error.message
    assert "layers.0.mlp" in error.message


def test_an_unknown_layout_says_what_was_looked_for_and_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    for name in ("weights.bin", "one/model.onnx"):
        (tmp_path / name).write_bytes(b"")
    error = refused(lambda: take(tmp_path))
    assert "it has 'weights.bin', 'one/model.onnx'" in error.message
    for name in plugins.names("saes.layouts"):
        assert plugins.load("saes.layouts", name).files in error.hint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"activation": "groupmax"}, "activation = 'groupmax'"),
        ({"k": 0}, "k = 0"),
        ({"k": None}, "k = None"),
        ({"d_in": "5"}, "d_in = '5'"),
        ({"num_latents": 0, "expansion_factor": 0}, "expansion_factor = 0"),
        ({"signed": True}, "signed = True"),
        ({"gram_lookup": True}, "gram_lookup = True"),
        ({"transcode": False}, "skip connection"),
        ({"num_latents": N + 1}, "encoder.weight has shape"),
        ({"skip_connection": False}, "W_skip"),
    ],
)
def test_what_sparsify_says_is_checked(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = layouts.save_sparsify(tmp_path, per_layer("topk", skip=True), **change)
    assert words in refused(lambda: take(folder)).message


@pytest.mark.parametrize("change", [{"activation": "relu"}, {"signed": True}, {"embed_skip": True}])
def test_what_sparsify_says_is_checked_where_its_release_is_known(tmp_path: Path, change: dict[str, Any]) -> None:
    """Its files are read then without the folder that they were found in."""
    folder = layouts.save_sparsify(tmp_path, per_layer("topk", skip=True))
    entry, _ = take(folder)[Site(1, "mlp_in")]
    assert entry.config is not None
    config = Path(entry.config)
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    files = Files(Path(entry.source), config, stated=Stated(site=Site(1, "mlp_in")), layout="sparsify")
    [name] = change
    assert f"has {name} = " in refused(lambda: _read.facts(files)).message


def test_a_module_that_is_no_site_is_refused(tmp_path: Path) -> None:
    for number, module in enumerate(("embed_tokens{}", "h.{}.mlp.c_fc", "h.{}.attn")):
        folder = layouts.save_sparsify(tmp_path / str(number), per_layer("topk")[:1], module)
        assert module.format(0) in refused(lambda folder=folder: take(folder)).message


@pytest.mark.parametrize(
    ("dict_class", "trainer", "more", "words"),
    [
        ("CrossCoder", {}, {}, "dict_class = 'CrossCoder'"),
        ("IdentityDict", {}, {}, "dict_class = 'IdentityDict'"),
        ("AutoEncoder", {"submodule_name": "somewhere"}, {}, "submodule_name = 'somewhere'"),
        ("AutoEncoder", {"layer": 4}, {}, "layer = 4"),
        ("AutoEncoder", {}, {"buffer": {"io": "in"}}, "io = 'in'"),
        ("AutoEncoder", {"dict_size": N + 1}, {}, "encoder.weight has shape"),
        ("AutoEncoder", {"activation_dim": "5"}, {}, "activation_dim = '5'"),
        ("AutoEncoder", {}, {"trainer": None}, "trainer = None"),
        ("AutoEncoderTopK", {"k": None}, {}, "k = None"),
        ("AutoEncoderTopK", {"k": K + 1}, {}, "its weights have 3"),
        ("AutoEncoderNew", {}, {}, "decoder.bias"),
        ("GatedAutoEncoder", {}, {}, "decoder_bias"),
    ],
)
def test_what_dictionary_learning_says_is_checked(
    tmp_path: Path, dict_class: str, trainer: dict[str, Any], more: dict[str, Any], words: str
) -> None:
    state = learned("AutoEncoderTopK" if dict_class == "AutoEncoderTopK" else "AutoEncoder")[0]
    folder = layouts.save_dictionary_learning(tmp_path / "x", state, dict_class, trainer, **more)
    assert words in refused(lambda: take(folder)).message


def test_a_threshold_that_was_never_set_is_refused(tmp_path: Path) -> None:
    state = learned("BatchTopKSAE")[0] | {"threshold": torch.tensor(-1.0)}
    folder = layouts.save_dictionary_learning(tmp_path / "x", state, "BatchTopKSAE")
    assert "never set" in refused(lambda: take(folder)).message
    with_nan = learned("BatchTopKSAE")[0] | {"b_dec": torch.full((D,), torch.nan)}
    folder = layouts.save_dictionary_learning(tmp_path / "y", with_nan, "BatchTopKSAE")
    assert "b_dec has NaN" in refused(lambda: take(folder)).message


def test_weights_are_looked_through_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that isn't finite is found wherever the parts begin and end."""
    from circuitcli.saes import _weights

    path = tmp_path / "w.safetensors"
    for part in (4, 8, 64):
        monkeypatch.setattr(_weights, "_PART", part)
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            if part < 8 and dtype == torch.float64:
                continue
            for place in (0, 6, 12):
                w = torch.zeros(13, dtype=dtype)
                layouts.save(path, {"before": torch.full((3,), torch.nan), "w": w})
                _weights.refuse_infinite(path, ["w"])
                w[place] = torch.inf
                layouts.save(path, {"w": w})
                assert "w has NaN or infinite" in refused(lambda: _weights.refuse_infinite(path, ["w"])).message


def test_files_say_which_layout_they_are_of() -> None:
    assert Files(Path("x"), None).layout == "saelens"
    assert set(plugins.names("saes.layouts")) == {
        "circuit-tracer", "circuit-tracer-clt", "dictionary-learning", "gemma-scope-2", "sae-training", "saelens",
        "sparsecoder", "sparsify",
    }  # fmt: skip


class Unknown:
    """What nobody here knows, in a pickle; it would make a folder as it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["ae.pt", f"final_sparse_autoencoder_gpt2_blocks.1.ln2.hook_normalized_{N}.pt"])
def test_a_pickle_that_wants_a_class_that_is_not_known_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    state: dict[str, Any] = learned("AutoEncoder")[0]
    folder = layouts.save_dictionary_learning(tmp_path / "x", state, "AutoEncoder")
    (folder / "ae.pt").unlink()
    sprung = tmp_path / "sprung"
    torch.save({**state, "bias": Unknown(sprung)}, folder / name)
    error = refused(lambda: take(folder))
    assert "it wants posix.mkdir" in error.message
    assert "Nothing in it was run" in error.hint
    assert not sprung.exists()


MEASURE = """
import resource, sys
from pathlib import Path
from circuitcli import plugins
from circuitcli.saes import _read
source = plugins.load("saes", "local")
(one,) = source.locate(sys.argv[1], "main", source.sites(sys.argv[1], "main"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
facts = _read.facts(one.files({}))
made = _read.sae(one.files({}))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, facts.d_sae, len(made.decoders))
"""


@pytest.mark.slow
def test_what_a_cross_layer_transcoder_writes_is_never_in_memory(tmp_path: Path) -> None:
    """200 MB of decoders are looked through for what isn't finite, hashed and mapped, beside 32 MB of an encoder."""
    import subprocess
    import sys

    n, d, slots = 32_768, 256, 12
    encoder = {"W_enc_0": torch.randn(n, d), "b_enc_0": torch.zeros(n), "b_dec_0": torch.zeros(d)}
    layouts.save(tmp_path / "W_enc_0.safetensors", encoder)
    decoders = torch.randn(n, slots, d).to(torch.bfloat16)
    layouts.save(tmp_path / "W_dec_0.safetensors", {"W_dec_0": decoders})
    layouts.say(tmp_path / "config.yaml", layouts.circuit_tracer_config("cross_layer_transcoder"))
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    grown, features, written = done.stdout.split()
    assert (int(features), int(written)) == (n, slots)
    assert float(grown) < 200, "MB: less than the decoders"
