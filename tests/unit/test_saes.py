"""SAEs on disk: what is refused, and with what words; what is recorded; and that nothing in a pickle is ever run."""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251 to set a trap
import random
import shutil
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import asdict
from math import sqrt
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from support import pickled
from torch import Tensor

from circuitcli import demo, plugins
from circuitcli.core.activations.gated import Gated
from circuitcli.core.activations.standard import Relu
from circuitcli.core.activations.topk import TopK
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import SITES, Site
from circuitcli.demo import measure_transcoders
from circuitcli.errors import InputError
from circuitcli.results import dictionaries
from circuitcli.runtime.hub import Hub
from circuitcli.saes import SaeEntry, _files, _read, entry, load, provider_of
from circuitcli.saes._files import Files, Stated

D_IN, D_SAE = 4, 6
SITE = Site(3, "resid_post")
Change = Callable[[dict[str, Any]], object]


def weights() -> dict[str, Tensor]:
    return {
        "W_enc": torch.ones(D_IN, D_SAE),
        "b_enc": torch.zeros(D_SAE),
        "W_dec": torch.ones(D_SAE, D_IN),
        "b_dec": torch.zeros(D_IN),
    }


def config() -> dict[str, Any]:
    return {
        "architecture": "standard",
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "float32",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "metadata": {"hook_name": SITE.hook, "prepend_bos": False},
    }


def write(folder: Path, *, cfg: Change | None = None, tensors: Change | None = None) -> Path:
    """A SAELens folder, its configuration and weights changed in place before they are written."""
    what, values = config(), weights()
    if cfg:
        cfg(what)
    if tensors:
        tensors(values)
    folder.mkdir(parents=True)
    (folder / "cfg.json").write_text(json.dumps(what))
    save_file(values, folder / "sae_weights.safetensors")
    return folder


def files(folder: Path, **stated: Any) -> Files:
    return Files(folder / "sae_weights.safetensors", folder / "cfg.json", Stated(**stated))


def take(release: Path | str) -> dict[Site, tuple[SaeEntry, Dictionary]]:
    """What `circuit fetch-saes` does with a release on disk, and then what any later command does."""
    provider = provider_of(str(release))
    source = plugins.load("saes", provider)
    taken = {}
    for located in source.locate(str(release), "main", source.sites(str(release), "main")):
        recorded = entry(provider, located, located.files({}))
        taken[located.site] = (recorded, load(recorded, Hub()))
    return taken


def refusal(release: Path) -> InputError:
    return refused(lambda: take(release))


def refused(action: Callable[[], object]) -> InputError:
    with pytest.raises(InputError) as error:
        action()
    assert error.value.exit_code == 3
    assert error.value.hint
    assert "\n" not in error.value.message + error.value.hint
    return error.value


def put(**values: Any) -> Change:
    return lambda mapping: mapping.update(values)


def drop(*names: str) -> Change:
    return lambda mapping: [mapping.pop(name) for name in names]


def at(name: str, place: tuple[int, ...], value: float) -> Change:
    return lambda tensors: tensors[name].__setitem__(place, value)


def test_a_good_folder_is_taken_alone_or_inside_another(tmp_path: Path) -> None:
    inner = write(tmp_path / "release" / "any name")
    ((recorded, sae),) = take(inner).values()
    assert take(inner.parent)[SITE][0] == recorded
    assert recorded.at == sae.reads == SITE
    assert (recorded.facts.d_in, recorded.facts.d_sae, recorded.facts.architecture) == (D_IN, D_SAE, "standard")
    assert recorded.source == str(inner / "sae_weights.safetensors")
    assert sae.w_dec.shape == (D_SAE, D_IN)


@pytest.mark.parametrize("release", ["no/such/folder", "demo2", "./demo 2"])
def test_an_unknown_release_is_refused(release: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = refused(lambda: provider_of(release))
    assert "Unknown release" in error.message
    assert "demo" in error.hint


def facts(folder: Path, **stated: Any) -> dict[str, Any]:
    return asdict(_read.facts(files(folder, **stated)))


def test_facts_come_from_the_metadata_or_from_beside_it_or_are_the_default(tmp_path: Path) -> None:
    said = {"prepend_bos": False, "context_size": 64, "neuronpedia_id": "gpt2-small/3-res"}
    options = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
    inside = facts(write(tmp_path / "new", cfg=put(metadata={"hook_name": SITE.hook, **said, **options})))
    beside = facts(write(tmp_path / "old", cfg=put(metadata=None, hook_point=SITE.hook, **said, **options)))
    expected = {
        "site": SITE,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "architecture": "standard",
        "normalisation": "none",
        "prepend_bos": False,
        "centre": True,
        "centre_stated": True,
        "fold_value_biases": False,
        "context_size": 64,
        "neuronpedia": "gpt2-small/3-res",
        "writes": (SITE,),
        "skip": False,
        "normalized": False,
        "centre_out": False,
    }
    assert inside == expected | {"sha256": inside["sha256"]}
    assert beside == expected | {"sha256": beside["sha256"]}
    silent = facts(write(tmp_path / "silent", cfg=put(metadata={"hook_name": SITE.hook, "prepend_bos": None})))
    unsaid = {"prepend_bos": True, "centre": False, "centre_stated": False, "context_size": None, "neuronpedia": None}
    assert silent == expected | unsaid | {"sha256": silent["sha256"]}


def test_what_the_release_states_goes_before_what_the_files_say(tmp_path: Path) -> None:
    folder = write(tmp_path / "sae")
    stated = facts(folder, prepend_bos=True, center_writing_weights=True, fold_value_biases=True, site=SITE)
    assert (stated["prepend_bos"], stated["centre"], stated["centre_stated"]) == (True, True, True)
    assert not stated["fold_value_biases"], "only z has them"
    assert _read.sae(files(folder, center_writing_weights=True)).frame.centre
    said_not = facts(folder, center_writing_weights=False)
    assert (said_not["centre"], said_not["centre_stated"]) == (False, True)


def test_z_is_never_centred_and_may_need_an_offset(tmp_path: Path) -> None:
    hook = "blocks.3.attn.hook_z"
    folder = write(tmp_path / "sae", cfg=put(metadata={"hook_name": hook}, reshape_activations="hook_z"))
    found = facts(folder, center_writing_weights=True, fold_value_biases=True)
    assert (found["site"].hook, found["centre"], found["fold_value_biases"]) == (hook, False, True)
    made = _read.sae(files(folder, center_writing_weights=True, fold_value_biases=True))
    assert (made.frame.centre, made.frame.offset) == (False, None)
    assert not facts(folder)["fold_value_biases"]


def test_centring_is_decided_by_what_is_said_the_site_and_the_norms(tmp_path: Path) -> None:
    """Whether it is centred, and whether anybody has to say so: not where it makes no difference."""
    hooks = {"stream": SITE.hook, "z": "blocks.3.attn.hook_z", "mlp_in": "blocks.3.mlp.hook_in"}
    folders = {
        (where, norm): write(
            tmp_path / f"{where} {norm}", cfg=put(metadata={"hook_name": hook}, normalize_activations=norm)
        )
        for where, hook in hooks.items()
        for norm in ("none", "layer_norm")
    }
    for (where, norm), folder in folders.items():
        for norms_subtract_mean in (True, False):
            for said in (None, True, False):
                found = _read.facts(files(folder, center_writing_weights=said), norms_subtract_mean=norms_subtract_mean)
                matters = where == "stream" and norms_subtract_mean
                assert found.centre == (matters and said is True)
                assert found.centre_stated == (said is not None or not matters or norm == "layer_norm")


def test_saes_json_has_facts_and_origin_side_by_side(tmp_path: Path) -> None:
    """As since the first version; and what isn't known, isn't there or isn't of its type is refused."""
    ((recorded, _),) = take(write(tmp_path / "sae")).values()
    tree = recorded.document()
    assert list(tree) == [
        "layer", "site", "provider", "source", "config", "revision", "stated", "layout", "more", "sha256", "d_in",
        "d_sae", "architecture", "normalisation", "prepend_bos", "context_size", "centre", "centre_stated",
        "fold_value_biases", "neuronpedia", "writes", "skip", "normalized", "centre_out",
    ]  # fmt: skip
    since = (
        "layout",
        "more",
        "writes",
        "skip",
        "normalized",
        "centre_out",
    )  # what was recorded before there were transcoders has none
    old = {key: value for key, value in tree.items() if key not in since}
    assert dictionaries.recorded().validate_json(json.dumps({"saes": [old]}))["saes"] == [recorded]
    read = dictionaries.recorded().validate_json(json.dumps({"saes": [tree]}))["saes"]
    assert read == [recorded]
    assert read[0].at == recorded.at
    assert isinstance(read[0].at, Site)
    spoiled = [
        {**tree, "width": 3},
        {**tree, "layer": "x"},
        *({k: v for k, v in tree.items() if k != key} for key in old),
    ]
    for other in [*spoiled, [], None]:
        with pytest.raises(ValidationError):
            dictionaries.recorded().validate_json(json.dumps({"saes": [other]}))


def test_a_site_that_only_the_release_knows(tmp_path: Path) -> None:
    folder = write(tmp_path / "sae", cfg=put(metadata={}))
    assert _read.sae(files(folder, site=SITE)).reads == SITE
    other = write(tmp_path / "other")
    error = refused(lambda: _read.facts(files(other, site=Site(4, "resid_pre"))))
    assert "4.resid_pre" in error.message
    assert str(SITE) in error.message


def test_the_digest_follows_the_files_and_what_is_stated(tmp_path: Path) -> None:
    folder = write(tmp_path / "sae")
    plain = _files.digest(files(folder))
    assert plain == facts(folder)["sha256"] == _files.digest(files(folder, site=None))
    assert plain == _files.digest(files(shutil.copytree(folder, tmp_path / "copy")))
    stated = [{"prepend_bos": True}, {"prepend_bos": False}, {"center_writing_weights": True}, {"site": SITE},
              {"scaling_factor": 0.5}, {"fold_value_biases": True}]  # fmt: skip
    assert len({plain, *(_files.digest(files(folder, **more)) for more in stated)}) == 1 + len(stated)
    (folder / "cfg.json").write_text((folder / "cfg.json").read_text() + " ")
    assert _files.digest(files(folder)) != plain


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (put(architecture="transcoder"), "subtracts b_dec"),
        (put(architecture="transcoder", apply_b_dec_to_input=False), "names no hook that it writes"),
        (put(architecture="topk_transcoder"), "topk_transcoder"),
        (put(architecture="crosscoder"), "crosscoder"),
        (put(architecture="temporal"), "temporal"),
        (put(architecture="matching_pursuit"), "matching_pursuit"),
        (put(architecture="batchtopk", k=2.0), "batchtopk"),
        (put(architecture="matryoshka_batchtopk", k=2.0), "matryoshka_batchtopk"),
        (put(activation_fn_str="tanh-relu"), "tanh-relu"),
        (put(activation_fn="gelu"), "gelu"),
        (put(architecture="gated", activation_fn="topk"), "topk"),
        (put(architecture="topk", k=2, activation_fn_kwargs={"signed": True}), "signed"),
        (put(normalize_activations="covariance_whitening"), "covariance_whitening"),
        (put(normalize_activations="constant_scalar_rescale"), "constant_scalar_rescale"),
        (put(normalize_activations=["layer_norm"]), "layer_norm"),
        (put(normalize_activations="expected_average_only_in"), "expected_average_only_in"),
        (put(normalize_activations=True), "expected_average_only_in"),
        (put(rescale_acts_by_decoder_norm=True), "decoder norms"),
        (put(architecture="jumprelu", rescale_acts_by_decoder_norm=True), "decoder norms"),
        (put(architecture="gated", rescale_acts_by_decoder_norm=True), "decoder norms"),
        (put(rescale_acts_by_decoder_norm="yes"), "rescale_acts_by_decoder_norm = 'yes'"),
        (put(apply_b_dec_to_input=0), "apply_b_dec_to_input = 0"),
        (put(reshape_activations="hook_q"), "hook_q"),
        (put(hook_head_index=5), "single head"),
        (put(hook_point_head_index=0), "single head"),
        (put(model_from_pretrained_kwargs={"fold_value_biases": True}), "value biases"),
        (put(architecture="topk"), "k = None"),
        (put(architecture="topk", k=0), "k = 0"),
        (put(architecture="topk", k=D_SAE + 1), f"k = {D_SAE + 1}"),
        (put(architecture="topk", k="2"), "k = '2'"),
        (put(architecture="topk", activation_fn_kwargs={"k": 2.0}), "k = 2.0"),
        (put(architecture="jumprelu"), "threshold"),
        (put(architecture="gated"), "b_gate"),
        (put(d_in=D_IN + 1), "W_enc has shape"),
        (put(d_sae=D_SAE + 1), "W_enc has shape"),
        (put(metadata={"hook_name": "blocks.3.hook_q_input"}), "hook_q_input"),
        (put(metadata={"hook_name": "blocks.3.ln1.hook_normalized"}), "ln1.hook_normalized"),
        (put(metadata={"hook_name": "blocks.03.ln2.hook_normalized"}), "blocks.03"),
        (put(metadata={"hook_name": "blocks.x.hook_resid_post"}), "blocks.x"),
        (put(metadata={"hook_name": "transformer.h.3"}), "transformer.h.3"),
        (put(metadata={"hook_name": ["blocks.3.hook_resid_post"]}), "hook_name = ['blocks.3.hook_resid_post']"),
        (put(metadata={}), "no hook"),
        (put(metadata=["hook_name"]), "isn't a SAELens configuration"),
        (put(activation_fn_kwargs=["k"]), "isn't a SAELens configuration"),
        (put(model_from_pretrained_kwargs="yes"), "isn't a SAELens configuration"),
        (put(act_name="blocks.3.hook_resid_post"), "hook-z-kk"),
    ],
)
def test_a_configuration_that_is_not_supported_is_refused(tmp_path: Path, change: Change, words: str) -> None:
    message = refusal(write(tmp_path / "sae", cfg=change)).message
    assert words in message
    assert str(tmp_path / "sae") in message


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"cfg"', '{"architecture": NaN', "[" * 100_000])
def test_a_broken_configuration_is_refused(tmp_path: Path, text: str) -> None:
    folder = write(tmp_path / "sae")
    (folder / "cfg.json").write_text(text)
    assert str(folder / "cfg.json") in refusal(folder).message


def gated(tensors: dict[str, Any]) -> None:
    del tensors["b_enc"]
    tensors.update(b_gate=torch.zeros(D_SAE), b_mag=torch.zeros(D_SAE), r_mag=torch.zeros(D_SAE))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("W_enc"), "no W_enc"),
        (drop("b_dec"), "no b_dec"),
        (put(threshold=torch.zeros(D_SAE)), "threshold"),
        (put(log_threshold=torch.zeros(D_SAE)), "log_threshold"),
        (put(W_skip=torch.zeros(D_IN, D_IN)), "W_skip"),
        (gated, "no b_enc"),
        (put(scaling_factor=torch.full((D_SAE,), 2.0)), "scaling_factor"),
        (put(scaling_factor=torch.ones(1)), "scaling_factor has shape (1,)"),
        (at("W_enc", (1, 2), torch.nan), "W_enc has NaN"),
        (at("W_dec", (1, 2), torch.inf), "W_dec has NaN"),
        (at("b_enc", (0,), -torch.inf), "b_enc has NaN"),
        (put(W_enc=torch.ones(D_SAE)), "W_enc isn't a matrix"),
        (put(W_enc=torch.ones(D_SAE, D_IN)), "shape"),
        (put(W_dec=torch.ones(D_IN, D_SAE)), "W_dec has shape (4, 6)"),
        (put(W_dec=torch.ones(D_SAE, D_IN, dtype=torch.int64)), "W_dec isn't a plain tensor of floats"),
        (put(b_enc=torch.ones(D_SAE + 1)), "b_enc has shape (7,)"),
        (put(b_dec=torch.ones(1, D_IN)), "b_dec has shape (1, 4)"),
    ],
)
def test_unfit_weights_are_refused(tmp_path: Path, change: Change, words: str) -> None:
    message = refusal(write(tmp_path / "sae", tensors=change)).message
    assert words in message
    assert str(tmp_path / "sae" / "sae_weights.safetensors") in message


def test_missing_and_truncated_weights_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "sae")
    path = folder / "sae_weights.safetensors"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:20], b""):
        path.write_bytes(content)
        assert str(path) in refusal(folder).message
    path.unlink()
    assert str(path) in refusal(folder).message


def test_two_saes_at_one_site_and_an_empty_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "none" / "deeper").mkdir(parents=True)
    assert "no SAE" in refusal(tmp_path / "none").message
    write(tmp_path / "two" / "first")
    write(tmp_path / "two" / "second")
    message = refusal(tmp_path / "two").message
    assert "3.resid_post" in message
    assert "first" in message
    assert "second" in message


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
@pytest.mark.parametrize("how", ["changed", "removed"])
def test_a_file_changed_after_it_was_recorded_is_refused(tmp_path: Path, name: str, how: str) -> None:
    folder = write(tmp_path / "sae")
    recorded = take(folder)[SITE][0]
    if how == "removed":
        (folder / name).unlink()
    elif name == "cfg.json":
        (folder / name).write_text(json.dumps(config() | {"apply_b_dec_to_input": False}))
    else:
        save_file(weights() | {"b_dec": torch.full((D_IN,), 1e-6)}, folder / name)
    error = refused(lambda: load(recorded, Hub()))
    assert "isn't the one that was recorded" in error.message
    assert "fetch-saes --force" in error.hint


# Foldings, by hand. W_dec's rows are all 1, of norm 2.
X = torch.tensor([1.0, 2.0, 3.0, 4.0])


def test_a_stated_factor_is_folded_in(tmp_path: Path) -> None:
    change = put(normalize_activations="expected_average_only_in")
    folder = write(tmp_path / "sae", cfg=change, tensors=put(b_dec=torch.full((D_IN,), 0.25)))
    sae = _read.sae(files(folder, scaling_factor=0.5))
    a = sae.encode(X)
    # Σ(x/2 − 1/4) = 5 − 1, for each feature
    torch.testing.assert_close(a, torch.full((D_SAE,), 4.0))
    # (6 features · 4 + 1/4) · 2
    torch.testing.assert_close(sae.decode(a, X), torch.full((D_IN,), 48.5))
    assert (sae.frame.normalisation, facts(folder, scaling_factor=0.5)["normalisation"]) == ("none", "none")
    assert "scaling_factor" not in refused(lambda: _read.sae(files(folder))).message


def test_decoder_norms_are_folded_in_and_choose_the_features(tmp_path: Path) -> None:
    rows = torch.tensor([0.1, 1.0, 1.0, 1.0, 3.0, 0.0]).unsqueeze(1) * torch.ones(D_IN)
    change = put(architecture="topk", k=2, rescale_acts_by_decoder_norm=True)
    biases = torch.tensor([9.0, 0.0, 0.5, 0.0, 0.0, 0.0])
    sae = _read.sae(files(write(tmp_path / "sae", cfg=change, tensors=put(W_dec=rows, b_enc=biases))))
    # Pre-activations 10 + bias, times norms (0.2, 2, 2, 2, 6, 0): the first, the largest before, isn't chosen.
    a = sae.encode(X)
    torch.testing.assert_close(a, torch.tensor([0.0, 0.0, 21.0, 0.0, 60.0, 0.0]))
    # along rows of norm 1, which are 1/2 everywhere
    torch.testing.assert_close(sae.decode(a, X), torch.full((D_IN,), 40.5))
    torch.testing.assert_close(sae.w_dec[:5].norm(dim=-1), torch.ones(5))


def test_the_scaling_factor_of_a_finetuned_sae_is_of_the_decoder(tmp_path: Path) -> None:
    scaling = torch.arange(1.0, D_SAE + 1)
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        change, tensors = put(finetuning_scaling_factor=True), put(**{name: scaling})
        sae = _read.sae(files(write(tmp_path / name, cfg=change, tensors=tensors)))
        torch.testing.assert_close(sae.encode(X), torch.full((D_SAE,), 10.0))
        torch.testing.assert_close(sae.decode(sae.encode(X), X), torch.full((D_IN,), 10.0 * 21))
    unused = _read.sae(files(write(tmp_path / "ones", tensors=put(scaling_factor=torch.ones(D_SAE)))))
    torch.testing.assert_close(unused.w_dec, weights()["W_dec"])


def test_architectures_and_normalisations_arrive_where_they_belong(tmp_path: Path) -> None:
    def change(tensors: dict[str, Any]) -> None:
        gated(tensors)
        tensors.update(b_gate=torch.full((D_SAE,), -9.0), b_mag=torch.ones(D_SAE), r_mag=torch.full((D_SAE,), 2.0))

    options = put(architecture="gated", normalize_activations="constant_norm_rescale", apply_b_dec_to_input=False)
    folder = write(tmp_path / "gated", cfg=options, tensors=change)
    sae = _read.sae(files(folder))
    # |x| = √30 and √d_in = 2: Σx·2/√30 = 3.65 is below the gate's 9
    torch.testing.assert_close(sae.activation.border(sae.pre_activations(X)), torch.full((D_SAE,), 9 - 20 / sqrt(30)))
    assert (sae.frame.normalisation, sae.apply_b_dec_to_input) == ("constant_norm", False)
    assert isinstance(sae.activation, Gated)
    assert (sae.activation.b_mag[0], sae.activation.r_mag[0], sae.b_enc[0]) == (1.0, 2.0, 0.0)
    found = facts(folder)
    assert (found["architecture"], found["normalisation"]) == ("gated", "constant_norm")


@pytest.mark.parametrize("name", ["activation_fn", "activation_fn_str"])
def test_topk_was_once_a_standard_sae_with_another_activation_function(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "sae", cfg=put(k=5, activation_fn_kwargs={"k": 2}, **{name: "topk"}))
    sae = _read.sae(files(folder))
    assert isinstance(sae.activation, TopK)
    assert (facts(folder)["architecture"], sae.activation.k) == ("topk", 2)
    relu = _read.sae(files(write(tmp_path / "relu", cfg=put(k=5, activation_fn_kwargs={"k": 2}, **{name: "relu"}))))
    assert isinstance(relu.activation, Relu)


# Pickles.
OLD_CONFIG = {
    "hook_point": "blocks.3.hook_resid_post",
    "hook_point_head_index": None,
    "d_in": D_IN,
    "d_sae": D_SAE,
    "context_size": 128,
    "dtype": torch.float32,
    "device": torch.device("cpu"),
    "lr": 4e-4,
    "betas": (0.9, 0.999),
    "nothing": None,
}


@pytest.mark.parametrize("module", [None, *pickled.MODULES])
@pytest.mark.parametrize("archive", [True, False])
def test_the_first_format_of_res_jb(tmp_path: Path, module: str | None, archive: bool) -> None:
    tensors = {name: torch.nn.Parameter(torch.randn_like(tensor)) for name, tensor in weights().items()}
    path = pickled.save_first_format(tmp_path / "sae.pt", module, OLD_CONFIG, OrderedDict(tensors), archive=archive)
    found = _read.facts(Files(path, None))
    assert (found.site, found.architecture, found.prepend_bos, found.context_size) == (SITE, "standard", True, 128)
    sae = _read.sae(Files(path, None))
    assert sae.apply_b_dec_to_input
    for ours, name in ((sae.w_enc, "W_enc"), (sae.b_enc, "b_enc"), (sae.w_dec, "W_dec"), (sae.b_dec, "b_dec")):
        assert torch.equal(ours, tensors[name])
        assert not ours.requires_grad
    longer = tmp_path / "longer.pt"
    longer.write_bytes(path.read_bytes() + b"\0")
    assert _files.digest(Files(path, None)) == found.sha256 != _files.digest(Files(longer, None))


def hook_z_kk(folder: Path, **changes: Any) -> Files:
    """Files of that release: a state dict, and beside it a configuration of its own kind."""
    said = {"act_name": "blocks.3.attn.hook_z", "act_size": D_IN, "dict_size": D_SAE, "seq_len": 128, "lr": 1e-3}
    folder.mkdir(exist_ok=True)
    torch.save(OrderedDict(weights()), folder / "gpt2-small_L3_Hcat_z.pt")
    (folder / "gpt2-small_L3_Hcat_z_cfg.json").write_text(json.dumps(said | changes))
    return Files(folder / "gpt2-small_L3_Hcat_z.pt", folder / "gpt2-small_L3_Hcat_z_cfg.json")


def test_the_format_of_hook_z_kk(tmp_path: Path) -> None:
    saved = hook_z_kk(tmp_path)
    assert saved.config is not None
    assert _files.site_of(saved.config) == Site(3, "z")
    found, sae = _read.facts(saved), _read.sae(saved)
    assert (found.site, found.d_in, found.d_sae, found.context_size) == (Site(3, "z"), D_IN, D_SAE, 128)
    assert (found.prepend_bos, found.fold_value_biases, found.centre, found.architecture) == (
        True,
        True,
        False,
        "standard",
    )
    assert isinstance(sae.activation, Relu)
    assert (sae.apply_b_dec_to_input, sae.frame.normalisation, sae.frame.offset) == (True, "none", None)
    assert "W_enc has shape" in refused(lambda: _read.sae(hook_z_kk(tmp_path, dict_size=D_SAE + 1))).message


class Trap:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path, call: str) -> None:
        self.path, self.call = path, call

    def __reduce__(self) -> Any:
        match self.call:
            case "posix.system":
                return (os.system, (f"touch '{self.path}'",))
            case "eval":
                return (eval, (f"open({str(self.path)!r}, 'w')",))
            case "shutil.copyfile":
                return (shutil.copyfile, (__file__, str(self.path)))
        raise ValueError


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", ["posix.system", "eval", "shutil.copyfile"])
@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_that_needs_code_is_refused_by_the_name_of_it_and_nothing_ran(
    tmp_path: Path, call: str, archive: bool
) -> None:
    path, sprung = tmp_path / "sae.pt", tmp_path / "sprung"
    trapped = [
        {"cfg": OLD_CONFIG | {"name": Trap(sprung, call)}, "state_dict": weights()},
        {"cfg": OLD_CONFIG, "state_dict": weights() | {"b_dec": Trap(sprung, call)}},
        Trap(sprung, call),
    ]
    for content in trapped:
        torch.save(content, path, _use_new_zipfile_serialization=archive)
        error = refused(lambda: _read.sae(Files(path, None)))
        assert f"it wants {call}." in error.message
        assert str(path) in error.message
        assert not sprung.exists()
    path.write_bytes(pickle.dumps(Trap(sprung, call)))
    assert str(path) in refused(lambda: _read.sae(Files(path, None))).message
    assert not sprung.exists()
    pickle.loads(path.read_bytes())
    assert sprung.exists(), "the trap works"


@pytest.mark.parametrize("module", ["sae_training.other", "evil", "sae_lens.training.config.inner"])
def test_an_object_of_any_other_module_is_refused(tmp_path: Path, module: str) -> None:
    path = pickled.save_first_format(tmp_path / "sae.pt", module, OLD_CONFIG, weights())
    error = refused(lambda: _read.sae(Files(path, None)))
    assert f"{module}.LanguageModelSAERunnerConfig" in error.message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([], "holds no SAE"),
        (torch.zeros(3), "holds no SAE"),
        ({"state_dict": weights()}, "holds no SAE"),
        ({"cfg": [], "state_dict": weights()}, "holds no SAE"),
        ({"cfg": OLD_CONFIG, "state_dict": [1]}, "holds no SAE"),
        ({"cfg": OLD_CONFIG, "state_dict": weights() | {"b_dec": 1.0}}, "holds no SAE"),
        ({"cfg": OLD_CONFIG, "state_dict": {0: torch.zeros(3)}}, "holds no SAE"),
        ({}, "no configuration"),
        (weights(), "no configuration"),
        ({"cfg": {}, "state_dict": weights()}, "no hook"),
        ({"cfg": OLD_CONFIG | {"activation_fn_str": "tanh-relu"}, "state_dict": weights()}, "tanh-relu"),
        ({"cfg": OLD_CONFIG, "state_dict": weights() | {"b_dec": torch.zeros(D_IN, device="meta")}}, "plain tensor"),
        ({"cfg": OLD_CONFIG, "state_dict": weights() | {"b_dec": torch.zeros(D_IN).to_sparse()}}, "plain tensor"),
        ({"cfg": OLD_CONFIG, "state_dict": weights() | {"b_dec": torch.full((D_IN,), torch.nan)}}, "b_dec has NaN"),
    ],
)
def test_a_pickle_of_something_else_is_refused(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "sae.pt"
    torch.save(content, path)
    message = refused(lambda: _read.facts(Files(path, None))).message
    assert words in message
    assert str(path) in message


def one_damaged(whole: bytes, path: Path, draw: random.Random) -> str | None:
    """What is said of the file with a few bytes changed, or its end missing; None if it was read."""
    damaged = bytearray(whole)
    for _ in range(draw.randint(1, 3)):
        damaged[draw.randrange(min(len(whole), 1200 if draw.random() < 0.7 else len(whole)))] = draw.randrange(256)
    path.unlink(missing_ok=True)  # it may be mapped
    path.write_bytes(damaged[: draw.randrange(len(whole))] if draw.random() < 0.2 else damaged)
    try:
        _read.sae(Files(path, None))
    except InputError as error:
        return error.message
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("archive", [True, False])
def test_a_damaged_pickle_is_read_or_refused_in_one_line(tmp_path: Path, archive: bool) -> None:
    whole = pickled.save_first_format(
        tmp_path / "whole.pt", pickled.MODULES[0], OLD_CONFIG, weights(), archive=archive
    ).read_bytes()
    draw = random.Random(5)
    refusals = [refusal for _ in range(400) if (refusal := one_damaged(whole, tmp_path / "sae.pt", draw)) is not None]
    assert not any("\n" in refusal for refusal in refusals)
    said = {refusal.partition(":")[0].removeprefix(str(tmp_path / "sae.pt")).strip() for refusal in refusals}
    assert {"can't be read", "can't be read without running code"} <= said
    missing = tmp_path / "missing.pt"
    assert str(missing) in refused(lambda: _read.sae(Files(missing, None))).message


@pytest.mark.parametrize("name", ["sae.pt", "sae_weights.pt", "sae_weights.safetensors", "sparsity.safetensors"])
@pytest.mark.parametrize("with_config", [True, False])
def test_no_pickle_in_a_folder_is_opened(tmp_path: Path, name: str, with_config: bool) -> None:
    folder, sprung = tmp_path / "sae", tmp_path / "sprung"
    folder.mkdir()
    (folder / name).write_bytes(pickle.dumps(Trap(sprung, "posix.system")))
    if with_config:
        (folder / "cfg.json").write_text(json.dumps(config()))
    refusal(folder)
    assert not sprung.exists()


@pytest.mark.parametrize(("release", "file", "number"), [
    ("demo", "saes/blocks.1.hook_mlp_out/cfg.json", 12),
    ("demo-transcoders", "transcoders/layer_1.safetensors", 4),
    ("demo-clt", "clt/W_dec_1.safetensors", 4),
])  # fmt: skip
def test_the_demos_entries_say_the_same_on_every_machine(
    release: str, file: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entries() -> dict[Site, SaeEntry]:
        return {site: recorded for site, (recorded, _) in take(release).items()}

    here = entries()
    elsewhere = shutil.copytree(demo.FOLDER, tmp_path / "site-packages" / "demo")
    monkeypatch.setattr(demo, "FOLDER", elsewhere)
    assert entries() == here
    assert len(here) == number
    folder = f"circuitcli/demo/{file.split('/')[0]}/"
    files = [file for one in here.values() for file in (one.source, one.config, *one.more)]
    assert all(file and file.startswith(folder) for file in files)
    assert str(Path.cwd()) not in json.dumps([asdict(recorded) for recorded in here.values()])
    [changed] = [one for one in here.values() if f"circuitcli/demo/{file}" in (one.source, one.config, *one.more)]
    load(changed, Hub())
    with (elsewhere / file).open("ab") as moved:
        moved.write(b" ")
    assert "isn't the one that was recorded" in refused(lambda: load(changed, Hub())).message


@pytest.mark.parametrize(("release", "cross"), [("demo-transcoders", False), ("demo-clt", True)])
def test_the_demos_transcoders_are_read_as_they_were_trained(release: str, cross: bool) -> None:
    """Beside what the demo's own measurements read, which go by the tensors of their files alone."""
    found = {site: made for site, (_, made) in take(release).items()}
    wanted = measure_transcoders.load(demo.CLT if cross else demo.TRANSCODERS)
    assert found.keys() == wanted.keys() == {Site(layer, "mlp_in") for layer in range(4)}
    torch.manual_seed(0)
    x = torch.randn(20, 128)
    for site, one in found.items():
        other = wanted[site]
        assert (one.writes, one.written) == (Site(site.layer, "mlp_out"), other.written)
        assert len(one.written) == (4 - site.layer if cross else 1)
        assert (one.w_skip is None) == cross
        torch.testing.assert_close(one.encode(x), other.encode(x))
        assert one.encode(x).any()
        for mine, theirs in zip(one.decoders, other.decoders, strict=True):
            torch.testing.assert_close(mine.whole(), theirs.whole())
        torch.testing.assert_close(one.constant(x), other.constant(x))


@pytest.mark.parametrize("release", ["demo", "demo-transcoders", "demo-clt"])
def test_what_is_told_of_the_demos_unread_is_what_its_files_say(release: str) -> None:
    source = plugins.load("saes", "demo")
    [told] = [offer for offer in source.offers() if offer.name == release]
    sites = source.sites(release, "main")
    found = source.locate(release, "main", sites)
    files = [[file for file in (one.weights, *one.more) if isinstance(file, Path)] for one in found]
    assert told.sites == tuple(name for name in SITES if any(site.name == name for site in sites))
    assert told.layers == tuple(sorted({site.layer for site in sites}))
    assert told.widths == tuple({entry("demo", one, one.files({})).facts.d_sae for one in found})
    assert told.bytes_each == max(sum(file.stat().st_size for file in some) for some in files)
