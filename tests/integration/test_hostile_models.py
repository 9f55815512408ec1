"""Folders of models that strangers wrote: what lies outside, pipes, pointers, pickles, configurations that choose
code or sizes. Each is read rightly or refused in words, and nothing of them is run.
"""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251 to set a trap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from support.families import VOCAB, save_checkpoint
from support.hub import LoopbackHub
from support.strange import NASTY, device, nested, pointer, safetensors, said_by
from support.strange import folder as a_folder

from circuitcli.errors import InputError
from circuitcli.runtime import weights
from circuitcli.runtime.checkpoint import find
from circuitcli.runtime.device import make
from circuitcli.runtime.hub import Hub
from circuitcli.runtime.model import load
from circuitcli.runtime.tokenizer import Tokenizer

BOM = b"\xef\xbb\xbf"
INDEX = "model.safetensors.index.json"
TOKENS = torch.arange(3, 9).unsqueeze(0)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_checkpoint("gpt2", tmp_path / "model")


def configure(folder: Path, **change: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    return folder


def read(folder: Path) -> Any:
    """Its weights in transformers: all that is read of a model's files before anything else happens."""
    return weights.load(find(str(folder)), make("cpu", "float32", None, seed=0))


def logits(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = read(folder)(TOKENS).logits
    return found


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as error:
        read(folder)
    assert error.value.exit_code == 3
    assert "\n" not in error.value.message + error.value.hint
    return error.value.message


def shard(folder: Path, names: list[str], *, index: str = INDEX) -> None:
    """Its weights in several files, at these paths, and an index of them."""
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    parts: dict[str, dict[str, torch.Tensor]] = {name: {} for name in names}
    for number, (tensor, value) in enumerate(whole.items()):
        parts[names[number % len(names)]][tensor] = value
    for name, part in parts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        save_file(part, folder / name, metadata={"format": "pt"})
    weight_map = {tensor: name for name, part in parts.items() for tensor in part}
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def test_shards_in_folders_below_are_read_and_each_is_part_of_the_identity(model: Path) -> None:
    expected, names = logits(model), ["one.safetensors", "below/two.safetensors", "below/deeper/three.safetensors"]
    shard(model, names)
    torch.testing.assert_close(logits(model), expected)
    before = find(str(model)).identity()
    (model / "other.safetensors").write_bytes(b"of another model")
    assert find(str(model)).identity() == before, "what the index doesn't name is no part of the model"
    for name in [*names, INDEX, "config.json"]:
        content = (model / name).read_bytes()
        (model / name).write_bytes(content + b" ")
        assert find(str(model)).identity() != before, name
        (model / name).write_bytes(content)
    assert find(str(model)).identity() == before


OUTSIDE: list[Any] = [
    "../out.safetensors", "below/../../out.safetensors", "/etc/out.safetensors", "..\\out.safetensors",
    "a\0b.safetensors", "", ".", 5, None, ["out.safetensors"], "out.bin", "out",
]  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE, ids=ascii)
def test_an_index_that_names_what_is_no_file_of_its_folder_is_refused(model: Path, name: Any) -> None:
    weights = (model / "model.safetensors").read_bytes()
    for outside in (model / "../out.safetensors", model / "out.bin"):
        outside.write_bytes(weights)
    tensors = dict.fromkeys(load_file(model / "model.safetensors"), name)
    (model / "model.safetensors").unlink()
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": tensors}))
    assert f"{INDEX} names" in refusal(model)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"{}", b'{"weight_map": []}', b'{"weight_map": {}, "metadata": {}}',
     b'{"weight_map": {"a": "b"}}',
     json.dumps({"weight_map": {"a": nested(500)}, "metadata": {}}).encode(), b'{"weight_map": {"\\ud800": "a"}}',
     b'{"metadata": {}, "weight_map": {"a": "gone.safetensors"}}'],
)  # fmt: skip
def test_no_index_ends_in_a_traceback(model: Path, content: bytes) -> None:
    (model / "model.safetensors").unlink()
    (model / INDEX).write_bytes(content)
    assert INDEX in refusal(model)


@pytest.fixture
def server() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


@pytest.mark.parametrize("name", ["../out.safetensors", "gone.safetensors"])
def test_an_index_on_the_hub_names_files_of_its_repository_alone(
    server: LoopbackHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    shard(model, ["below/one.safetensors", "two.safetensors"])
    files = {str(path.relative_to(model)): path.read_bytes() for path in model.rglob("*") if path.is_file()}
    hub = Hub(endpoint=server.endpoint, cache=tmp_path / "cache")
    server.add("somebody/model", files)
    found = find("somebody/model", hub=hub)
    assert {"below/one.safetensors", "two.safetensors"} <= {file.path for file in found.files}
    index = json.loads(files[INDEX]) | {"weight_map": {"a": name}}
    server.add("somebody/model", files | {INDEX: json.dumps(index).encode()})
    with pytest.raises(InputError, match=f"{INDEX} names"):
        find("somebody/model", hub=hub)


CODE = {
    "_attn_implementation": "somebody/kernels",
    "attn_implementation": "somebody/kernels@main:flash",
    "_attn_implementation_internal": "flash_attention_2",
    "_experts_implementation": "somebody/experts",
    "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "somebody/evil--evil.Model"},
    "fusion_config": {"patch_embeddings": True},
    "output_attentions": True,
    "return_dict": False,
    "architectures": ["BertForMaskedLM"],
    "_name_or_path": "somebody/else",
    "gradient_checkpointing": True,
}


def test_a_configuration_that_chooses_code_is_read_for_its_sizes_alone(model: Path) -> None:
    expected, trap = logits(model), model / "sprung"
    (model / "evil.py").write_text(f"open({str(trap)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n")
    configure(model, **CODE)
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)
    assert read(model).config._attn_implementation == weights.ATTENTION
    assert load(find(str(model)), make("cpu", "float32", None, seed=0)).resumes_at_places
    assert Tokenizer(find(str(model))).encode("w3") == [3]
    assert not trap.exists()


@pytest.mark.parametrize(
    "change",
    [{"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, {"quantization_config": "fp8"},
     {"compression_config": {}}, {"transformers_weights": "other.safetensors"}],
)  # fmt: skip
def test_weights_that_stand_for_others_are_refused_by_name(model: Path, change: dict[str, Any]) -> None:
    assert next(iter(change)) in refusal(configure(model, **change))


def test_no_quantisation_is_none(model: Path) -> None:
    read(configure(model, quantization_config=None))


def test_an_adapter_beside_the_weights_is_refused(model: Path) -> None:
    (model / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    assert "adapter_config.json" in refusal(model)


class Trap:
    """Unpickling it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (os.system, (f"touch '{self.path}'",))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["archive", "legacy", "bare", "damaged", "not tensors", "a list"])
def test_weights_in_a_hostile_pickle_are_refused_and_nothing_runs(model: Path, kind: str) -> None:
    sprung, path = model / "sprung", model / "pytorch_model.bin"
    (model / "model.safetensors").unlink()
    held = {"transformer.wte.weight": Trap(sprung)}
    if kind in ("archive", "legacy"):
        torch.save(held, path, _use_new_zipfile_serialization=kind == "archive")
    elif kind == "bare":
        path.write_bytes(pickle.dumps(held))
    else:
        torch.save({"a": 1} if kind == "not tensors" else [1], path)
        path.write_bytes(path.read_bytes()[: -40 if kind == "damaged" else None])
    assert "pytorch_model.bin" in refusal(model)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("family", "key", "size"),
    [
        ("gpt2", "n_layer", 10**9), ("gpt2", "n_layer", 5), ("gpt2", "vocab_size", 10**12),
        ("gpt2", "vocab_size", 10**9),
        ("gpt2", "n_positions", 10**12), ("gpt2", "n_positions", 10**8), ("gpt2", "n_inner", 10**12),
        ("gpt2", "n_embd", 10**8), ("gpt2", "n_head", 10**9), ("llama", "num_hidden_layers", 10**9),
        ("llama", "intermediate_size", 10**11), ("llama", "head_dim", 10**8), ("llama", "num_key_value_heads", 10**7),
        ("neox", "hidden_size", 4 * 10**9), ("gemma2", "vocab_size", 10**18), ("gpt2", "vocab_size", 10**400),
    ],
)  # fmt: skip
def test_sizes_that_the_weights_have_not_are_refused_before_anything_is_built(
    tmp_path: Path, family: str, key: str, size: int
) -> None:
    folder = configure(save_checkpoint(family, tmp_path), **{key: size})
    began = time.process_time()
    assert "config.json" in refusal(folder)
    assert time.process_time() - began < 5


def test_a_token_beyond_the_vocabulary_is_named(model: Path) -> None:
    path = model / "tokenizer.json"
    tree = json.loads(path.read_text())
    tree["model"]["vocab"]["further"] = VOCAB
    path.write_text(json.dumps(tree))
    tokenizer = Tokenizer(find(str(model)))
    assert tokenizer.encode("w3 w5") == [3, 5]
    with pytest.raises(InputError) as error:
        tokenizer.encode("w3 further")
    assert "'further'" in error.value.message
    assert f"the id {VOCAB}" in error.value.message
    assert f"go to {VOCAB - 1}" in error.value.message


@pytest.mark.parametrize(
    ("change", "words"),
    [({"fast_tokenizer_files": ["tokenizer.2.0.json"]}, "fast_tokenizer_files"), ({"model_max_length": "x"}, ""),
     ({"auto_map": []}, ""), ({"tokenizer_class": 5}, ""), ({"bos_token": {"content": 5}}, ""),
     ({"added_tokens_decoder": {"x": 5}}, ""), ({"extra_special_tokens": nested(500)}, "nested")],
)  # fmt: skip
def test_a_tokenizer_of_other_files_or_other_kinds_is_refused(model: Path, change: dict[str, Any], words: str) -> None:
    path = model / "tokenizer_config.json"
    (model / "tokenizer.2.0.json").write_text((model / "tokenizer.json").read_text().replace("w3", "w4"))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError) as error:
        Tokenizer(find(str(model))).encode("w3")
    assert words in error.value.message
    assert "\n" not in error.value.message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize(
    ("make_it", "words"),
    [(pointer, "pointer of Git LFS"), (a_folder, "it is a folder"), (os.mkfifo, "no ordinary file"),
     (device, "no ordinary file")],
)  # fmt: skip
@pytest.mark.timeout(60)
def test_what_is_no_file_is_refused_and_never_waited_for(
    model: Path, name: str, make_it: Callable[[Path], None], words: str
) -> None:
    (model / name).unlink()
    make_it(model / name)
    message = refusal(model)
    assert words in message
    assert str(model / name) in message


def test_a_shard_that_is_a_pointer_is_named(model: Path) -> None:
    shard(model, ["one.safetensors", "two.safetensors"])
    pointer(model / "two.safetensors")
    assert f"{model}/two.safetensors is a pointer of Git LFS" in refusal(model)


def test_a_byte_order_mark_in_the_configuration_is_passed_over(model: Path) -> None:
    expected = logits(model)
    path = model / "config.json"
    path.write_bytes(BOM + path.read_bytes())
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)
    assert load(find(str(model)), make("cpu", "float32", None, seed=0)).shape.d_vocab == VOCAB
    assert Tokenizer(find(str(model))).encode("w3") == [3]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.complex64], ids=str)
def test_weights_of_numbers_of_another_kind_are_refused(model: Path, dtype: torch.dtype) -> None:
    path, name = model / "model.safetensors", "transformer.h.0.mlp.c_fc.weight"
    held = load_file(path)
    save_file(held | {name: held[name].to(dtype)}, path, metadata={"format": "pt"})
    assert name in refusal(model)


def test_masks_that_old_files_keep_are_no_weights(model: Path) -> None:
    path, expected = model / "model.safetensors", logits(model)
    mask = torch.ones(1, 1, 32, 32, dtype=torch.uint8)
    save_file(load_file(path) | {"transformer.h.0.attn.bias": mask}, path, metadata={"format": "pt"})
    torch.testing.assert_close(logits(model), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "content",
    [b"\xff" * 8, safetensors(b"{"), safetensors(b"{}"), safetensors(b"[" * 500),
     safetensors(b'{"a\\u0000": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}', bytes(4)),
     safetensors(b'{"transformer.wte.weight": {"dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}', bytes(4))],
)  # fmt: skip
def test_no_header_of_weights_ends_in_a_traceback(model: Path, content: bytes) -> None:
    (model / "model.safetensors").write_bytes(content)
    assert str(model) in refusal(model)


KEYS = ("model_type", "n_layer", "n_embd", "n_head", "vocab_size", "n_positions", "n_inner", "activation_function",
        "layer_norm_epsilon", "scale_attn_weights", "tie_word_embeddings", "dtype", "architectures", "rope_parameters",
        "is_encoder_decoder", "get_text_config", "__class__", "text_config", "id2label", "per_layer_config", "head_dim",
        "layer_types", "attribute_map")  # fmt: skip


def test_no_value_of_a_configuration_ends_in_a_traceback(model: Path) -> None:
    """Most are refused when the configuration is read; the rest is left to a look at a few."""
    config = json.loads((model / "config.json").read_text())
    for key in KEYS:
        for value in (*NASTY, nested(500)):
            (model / "config.json").write_text(json.dumps(config | {key: value}))
            said = said_by(lambda: find(str(model)))
            assert "\n" not in said, (key, value)
            assert len(said) < 1000, (key, value)
    for key, value in (("architectures", -1), ("is_encoder_decoder", [1]), ("layer_norm_epsilon", "x"), ("n_inner", -1),
                       ("activation_function", 5), ("tie_word_embeddings", "x"), ("get_text_config", 5)):  # fmt: skip
        (model / "config.json").write_text(json.dumps(config | {key: value}))
        assert "\n" not in said_by(lambda: read(model)), (key, value)
