"""What a cfg.json may say: what changes the meaning of the weights is refused by name, and nothing is taken for another
kind than it is. No file that a stranger wrote ends in a traceback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.strange import NASTY, device, folder, nested, pointer, safetensors, said_by
from test_saes import D_IN, D_SAE, SITE, config, facts, files, put, refused, weights, write
from torch import Tensor

from circuitcli import plugins
from circuitcli.core.activations import Activation
from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.saes import _read, _saelens, _spec

CHANGED = {
    "transcode": True,
    "is_crosscoder": 1,
    "skip_connection": True,
    "d_out": D_IN + 1,
    "hook_name_out": "blocks.3.hook_mlp_out",
    "hook_point_out": "blocks.4.hook_resid_post",
    "out_hook_point": "blocks.3.hook_mlp_out",
    "hook_layer_out": 5,
    "out_hook_point_layer": 5,
    "hook_head_index": 0,
    "hook_head_index_out": 0,
    "hook_names": [SITE.hook, "blocks.4.hook_resid_post"],
    "seqpos_slice": [5, -5],
    "scaling_factor": 2.0,
    "activation_normalization_factor": "1",
    "signed": True,
    "jump_relu_threshold": 0.1,
    "norm_activation": "dataset-wise",
}
# The same keys where they say nothing: no value, or what the SAE reads said once more.
SAME = {
    "is_transcoder": False,
    "transcode": None,
    "skip_connection": False,
    "d_out": D_IN,
    "hook_name_out": SITE.hook,
    "hook_point_out": "",
    "out_hook_point": None,
    "hook_layer_out": SITE.layer,
    "hook_head_index": None,
    "hook_names": [SITE.hook],
    "seqpos_slice": [None],
    "scaling_factor": 1.0,
    "signed": False,
}
# What SAELens 1 to 6 and their forks write of a training, by the names of the fields.
TRAINING = (
    "model_class_name hook_eval hook_point_eval hook_layer hook_point_layer dataset_path dataset_trust_remote_code "
    "streaming is_dataset_tokenized use_cached_activations cached_activations_path b_dec_init_method "
    "expansion_factor noise_scale normalize_sae_decoder from_pretrained_path decoder_orthogonal_init "
    "decoder_heuristic_init decoder_heuristic_init_norm init_encoder_as_decoder_transpose n_batches_in_buffer "
    "training_tokens total_training_tokens finetuning_tokens store_batch_size_prompts act_store_device seed "
    "autocast autocast_lm compile_llm llm_compilation_mode compile_sae train_batch_size_tokens adam_beta1 "
    "mse_loss_normalization l1_coefficient l0_coefficient lp_norm l1_warm_up_steps "
    "scale_sparsity_penalty_by_decoder_norm lr lr_scheduler_name lr_warm_up_steps lr_end lr_decay_steps "
    "n_restart_cycles finetuning_method use_ghost_grads feature_sampling_window feature_sampling_method "
    "dead_feature_window dead_feature_threshold resample_batches n_eval_batches log_to_wandb wandb_project wandb_id "
    "run_name resume n_checkpoints checkpoint_path output_path verbose model_kwargs sae_lens_version "
    "sae_lens_training_version exclude_special_tokens jumprelu_init_threshold jumprelu_bandwidth "
    "jumprelu_tanh_scale topk_threshold_lr matryoshka_widths aux_loss_coefficient decoder_init_norm "
    "use_sparse_activations use_chat_formatting multi_topk tied_weights device dtype logger author notes "
)


@pytest.mark.parametrize("key", CHANGED)
def test_a_key_that_changes_the_meaning_is_refused_by_name(tmp_path: Path, key: str) -> None:
    change = {key: CHANGED[key]}
    metadata = config()["metadata"]
    for number, cfg in enumerate((put(**change), put(metadata=metadata | change))):
        folder = write(tmp_path / str(number), cfg=cfg)
        message = refused(lambda folder=folder: _read.facts(files(folder))).message
        assert f"{key} = {CHANGED[key]!r}" in message
        assert str(folder / "cfg.json") in message


@pytest.mark.parametrize(
    "value", [[0, -1], [None, 64], [0, None, 2], [1, None], [], [0, 1, 2, 3], "5:", 5, {"start": 1}]
)
def test_every_slice_that_leaves_positions_out_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="seqpos_slice"):
        _saelens.spec(config() | {"seqpos_slice": value}, "cfg.json")


@pytest.mark.parametrize("value", [[None], [None, None], [0, None, 1], [0, 64], None])
def test_a_slice_of_all_positions_is_none(value: Any) -> None:
    assert _saelens.spec(config() | {"seqpos_slice": value, "context_size": 64}, "cfg.json").site == SITE


def test_keys_that_say_nothing_or_only_how_it_was_trained_pass(tmp_path: Path) -> None:
    plain = facts(write(tmp_path / "plain"))
    said = dict.fromkeys(TRAINING.split(), 0.5) | SAME
    for number, cfg in enumerate((put(**said), put(metadata=config()["metadata"] | said))):
        assert facts(write(tmp_path / str(number), cfg=cfg)) | {"sha256": ""} == plain | {"sha256": ""}


def test_a_z_whose_heads_were_rotated_is_another_z() -> None:
    options = {"model_from_pretrained_kwargs": {"refactor_factored_attn_matrices": True}}
    assert _saelens.spec(config() | options, "cfg.json").site == SITE
    with pytest.raises(InputError, match="refactor_factored_attn_matrices = True"):
        _saelens.spec(config() | options | {"metadata": {"hook_name": "blocks.3.attn.hook_z"}}, "cfg.json")


@pytest.mark.parametrize(
    ("hook", "more", "site", "with_layer_norm", "with_rms_norm"),
    [
        ("mlp.hook_in", {}, "mlp_in", False, False),
        ("mlp.hook_in", {"fold_ln": False}, "mlp_in", False, False),
        ("mlp.hook_in", {"fold_ln": True}, "mlp_in", True, True),
        ("ln2.hook_normalized", {"fold_ln": True}, "mlp_in", True, True),
        ("ln2.hook_normalized", {"fold_ln": False}, "mlp_in", False, True),
        ("ln2.hook_normalized", {}, "mlp_in", None, True),
        ("ln2.hook_out", {}, "mlp_in", False, False),
        ("ln2.hook_in", {}, "resid_mid", False, False),
        ("hook_mlp_in", {"fold_ln": True}, "resid_mid", False, False),
        ("hook_resid_mid", {"fold_ln": True}, "resid_mid", False, False),
    ],
)
def test_what_lies_between_the_stream_and_the_mlp_has_many_names(
    tmp_path: Path, hook: str, more: dict[str, Any], site: str, with_layer_norm: bool | None, with_rms_norm: bool
) -> None:
    """Whether the norm's weights are in it: None where nobody can know."""
    said = {"metadata": {"hook_name": f"blocks.3.{hook}"}, "model_from_pretrained_kwargs": more}
    saved = files(write(tmp_path / "sae", cfg=put(**said)))
    for subtracts, expected in ((True, with_layer_norm), (False, with_rms_norm)):
        if expected is None:
            error = refused(lambda: _read.facts(saved))
            assert "ln2.hook_normalized" in error.message
            assert "fold_ln" in error.hint
            assert "mlp.hook_in" in error.hint
        else:
            found = _read.facts(saved, norms_subtract_mean=subtracts)
            assert (found.site, found.normalized) == (Site(3, site), expected)
    for known in (True, False):
        assert _read.facts(files(saved.weights.parent, normalized=known)).normalized == known


def test_what_saelens_calls_hook_mlp_in_of_gemma_is_behind_the_norm() -> None:
    for module, site in (
        ("model.layers.3.pre_feedforward_layernorm.output", "mlp_in"),
        ("model.layers.3", "resid_mid"),
    ):
        said = {"metadata": {"hook_name": "blocks.3.hook_mlp_in", "hf_hook_name": module}}
        assert _saelens.spec(config() | said, "cfg.json").site == Site(3, site)


def options(key: str, value: Any) -> dict[str, Any]:
    return {"model_from_pretrained_kwargs": {key: value}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (options("center_writing_weights", "yes"), "center_writing_weights = 'yes'"),
        (options("center_writing_weights", 1), "center_writing_weights = 1"),
        (options("fold_value_biases", "no"), "fold_value_biases = 'no'"),
        ({"d_in": "128"}, "d_in = '128'"),
        ({"d_in": 4.5}, "d_in = 4.5"),
        ({"d_in": True}, "d_in = True"),
        ({"d_sae": 0}, "d_sae = 0"),
        ({"d_sae": float("nan")}, "d_sae = nan"),
        ({"d_sae": -6}, "d_sae = -6"),
        ({"context_size": -1}, "context_size = -1"),
        ({"context_size": [64]}, "context_size = [64]"),
        ({"architecture": "topk", "k": True}, "k = True"),
        ({"architecture": "topk", "k": float("inf")}, "k = inf"),
        ({"architecture": "topk", "activation_fn_kwargs": {"k": False}}, "k = False"),
        ({"architecture": ["standard"]}, "architecture = ['standard']"),
        ({"metadata": {"hook_name": SITE.hook, "prepend_bos": "false"}}, "prepend_bos = 'false'"),
        ({"metadata": {"hook_name": SITE.hook, "neuronpedia_id": 5}}, "neuronpedia_id = 5"),
        ({"metadata": {"hook_name": SITE.hook, "neuronpedia_id": "a\0b"}}, r"neuronpedia_id = 'a\x00b'"),
        ({"metadata": {"hook_name": SITE.hook, **options("center_writing_weights", "no")}}, "center_writing_weights"),
        ({"metadata": 0}, "metadata = 0"),
        ({"reshape_activations": False}, "reshape_activations = False"),
        ({"normalize_activations": 1}, "normalize_activations = 1"),
        ({"finetuning_scaling_factor": "scale"}, "finetuning_scaling_factor = 'scale'"),
    ],
)  # fmt: skip
def test_a_value_of_another_kind_is_refused_with_its_key(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    folder = write(tmp_path / "sae", cfg=put(**change))
    assert words in refused(lambda: _read.facts(files(folder))).message


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    folder = write(tmp_path / "sae")
    plain = facts(folder)
    path = folder / "cfg.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert facts(folder) | {"sha256": ""} == plain | {"sha256": ""}


@pytest.mark.parametrize("name", ["cfg.json", "sae_weights.safetensors"])
@pytest.mark.parametrize(
    ("make", "words"),
    [(pointer, "pointer of Git LFS"), (folder, "it is a folder"), (os.mkfifo, "no ordinary file"),
     (device, "no ordinary file")],
)  # fmt: skip
@pytest.mark.timeout(20)
def test_what_is_no_file_is_refused_and_never_waited_for(
    tmp_path: Path, name: str, make: Callable[[Path], None], words: str
) -> None:
    sae = write(tmp_path / "sae")
    (sae / name).unlink()
    make(sae / name)
    message = refused(lambda: _read.facts(files(sae))).message
    assert words in message
    assert str(sae / name) in message


@pytest.mark.parametrize(
    "dtype",
    [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.int64, torch.bool, torch.uint8, torch.complex64],
    ids=str,
)
@pytest.mark.parametrize("name", ["W_enc", "b_dec"])
def test_numbers_of_another_kind_are_refused(tmp_path: Path, dtype: torch.dtype, name: str) -> None:
    sae = write(tmp_path / "sae", tensors=lambda tensors: tensors.update({name: tensors[name].to(dtype)}))
    message = refused(lambda: _read.facts(files(sae))).message
    assert name in message
    assert str(dtype).removeprefix("torch.") in message


def places() -> Iterator[tuple[str, str | None]]:
    """Every key that any reader looks at, and what it lies in."""
    keys = ("architecture", "activation_fn", "activation_fn_str", "normalize_activations", "reshape_activations",
            "d_in", "d_sae", "k", "apply_b_dec_to_input", "rescale_acts_by_decoder_norm", "finetuning_scaling_factor",
            "prepend_bos", "context_size", "neuronpedia_id", "hook_name", "hook_point", "metadata", "act_name",
            "activation_fn_kwargs", "model_from_pretrained_kwargs", *CHANGED)  # fmt: skip
    yield from ((key, None) for key in keys)
    yield from ((key, "metadata") for key in keys)
    yield from ((key, "activation_fn_kwargs") for key in ("k", "signed"))
    yield from (
        (key, "model_from_pretrained_kwargs")
        for key in ("center_writing_weights", "fold_value_biases", "fold_ln", "refactor_factored_attn_matrices")
    )


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_no_value_of_any_key_ends_in_a_traceback(tmp_path: Path, architecture: str) -> None:
    path = tmp_path / "cfg.json"
    for key, inside in places():
        for value in (*NASTY, nested(500)):
            said = config() | {"architecture": architecture, "k": 2}
            (said if inside is None else said.setdefault(inside, {}))[key] = value
            path.write_text(json.dumps(said))
            said_of_it = said_by(lambda: _saelens.spec(_saelens.read_config(path), str(path)))
            assert "\n" not in said_of_it, (key, value)
            assert len(said_of_it) < 1000, (key, value)


def header(**entry: Any) -> bytes:
    whole = {"dtype": "F32", "shape": [D_IN, D_SAE], "data_offsets": [0, 4 * D_IN * D_SAE]} | entry
    return json.dumps({"W_enc": whole}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 8, (2**63).to_bytes(8, "little"), safetensors(b"{"), safetensors(b"[]"), safetensors(b"null"),
        safetensors(b"{}"), safetensors(b"[" * 500 + b"]" * 500), safetensors(b'{"\\ud800": 1}'),
        safetensors(b'{"W_enc": {}}'), safetensors(header()),
        *(safetensors(header(dtype=dtype), bytes(4 * D_IN * D_SAE)) for dtype in ("F4", "F8_E8M0", "U3", "\0", 5)),
        *(safetensors(header(shape=shape), bytes(4 * D_IN * D_SAE))
          for shape in ([-1, 6], [10**30, 6], [2**63, 2], ["4", 6], 4, None, [4, 6.0], [True, 24], [])),
        *(safetensors(header(data_offsets=at), bytes(4 * D_IN * D_SAE))
          for at in ([4, 0], [0, 10**30], [-4, 92], [0], None, "x")),
        safetensors(json.dumps({"W\0enc": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}).encode(), bytes(4)),
    ],
)  # fmt: skip
def test_no_header_of_safetensors_ends_in_a_traceback(tmp_path: Path, content: bytes) -> None:
    sae = write(tmp_path / "sae")
    (sae / "sae_weights.safetensors").write_bytes(content)
    assert str(sae) in refused(lambda: _read.facts(files(sae))).message


def test_an_sae_without_features_is_refused(tmp_path: Path) -> None:
    empty: dict[str, Tensor] = {**weights(), "W_enc": torch.zeros(D_IN, 0), "W_dec": torch.zeros(0, D_IN)}
    sae = write(tmp_path / "sae", cfg=lambda cfg: cfg.pop("d_sae"))
    save_file(empty | {"b_enc": torch.zeros(0)}, sae / "sae_weights.safetensors")
    assert "W_enc isn't a matrix" in refused(lambda: _read.facts(files(sae))).message


@dataclass(frozen=True, eq=False)
class Level(Activation):
    """One threshold for all features, in the configuration."""

    threshold: float

    def apply(self, pre: Tensor) -> Tensor:
        return pre * (pre > max(self.threshold, 0))

    def border(self, pre: Tensor) -> Tensor:
        return (pre - max(self.threshold, 0)).abs()


class TestNumbersOfAnActivationsOwn:
    @pytest.fixture(autouse=True)
    def known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = plugins.names
        for module in (_saelens, _spec):
            monkeypatch.setattr(module, "kind_of", lambda architecture: Level)
        monkeypatch.setattr(plugins, "names", lambda folder: ["level"] if "activations" in folder else names(folder))

    def spec(self, **options: Any) -> Any:
        return _saelens.spec(config() | {"architecture": "level"} | options, "cfg.json")

    def test_are_read_as_what_they_are(self, tmp_path: Path) -> None:
        assert self.spec(threshold=0.5).numbers == {"threshold": 0.5}, "a threshold that has its place is no mistake"
        assert self.spec(threshold=2, activation_fn_kwargs={"threshold": -1}).numbers == {"threshold": -1.0}
        folder = write(tmp_path / "sae", cfg=put(architecture="level", threshold=0.25))
        made = _read.sae(files(folder))
        assert isinstance(made.activation, Level)
        assert made.activation.threshold == 0.25

    @pytest.mark.parametrize("value", [None, "0.5", True, float("nan"), float("inf"), [0.5]])
    def test_are_refused_by_name_as_anything_else(self, value: Any) -> None:
        with pytest.raises(InputError, match="has threshold = ") as refusal:
            self.spec(threshold=value)
        assert "threshold" in refusal.value.hint or "finite" in refusal.value.hint

    def test_are_of_no_use_to_another(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.undo()
        with pytest.raises(InputError, match="a threshold belongs to its weights"):
            _saelens.spec(config() | {"threshold": 0.5}, "cfg.json")
