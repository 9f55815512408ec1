"""Models that can't be studied are refused with what is wrong: a folder by its name, a family, its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import D_MODEL, FAMILIES, VOCAB, plain, save_checkpoint
from support.tiny import load_model
from torch import Tensor
from transformers import AutoModelForCausalLM, MambaConfig, OPTConfig, PretrainedConfig

from circuitcli.errors import InputError
from circuitcli.runtime.checkpoint import find
from circuitcli.runtime.tokenizer import Tokenizer


def all_of(folder: Path) -> None:
    load_model(folder)
    Tokenizer(find(str(folder)))


def lacking(file: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).unlink()


def half(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize("spoil", [lacking("tokenizer.json"), lacking("model.safetensors"), half, not_json])
def test_a_folder_that_cannot_be_loaded_is_refused_by_its_name(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    folder = save_checkpoint("llama", tmp_path)
    spoil(folder)
    with pytest.raises(InputError) as error:
        all_of(folder)
    assert str(folder) in error.value.message
    assert "\n" not in error.value.message


@pytest.mark.parametrize(
    "config",
    [
        MambaConfig(num_hidden_layers=2, hidden_size=D_MODEL, vocab_size=VOCAB),  # no attention
        OPTConfig(num_hidden_layers=2, hidden_size=D_MODEL, ffn_dim=48, num_attention_heads=4, vocab_size=VOCAB,
                  word_embed_proj_dim=D_MODEL, max_position_embeddings=32),
    ],
)  # fmt: skip
def test_a_family_that_is_not_claimed_is_refused(tmp_path: Path, config: PretrainedConfig) -> None:
    save_checkpoint("gpt2", tmp_path)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="that this tool knows"):
        load_model(tmp_path)


def reweighted(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_lack_a_tensor_are_refused_not_filled_in_at_random(tmp_path: Path, family: str) -> None:
    folder = save_checkpoint(family, tmp_path)
    lost = next(name for name in load_file(folder / "model.safetensors") if "1." in name and "mlp" in name)
    reweighted(folder, lambda weights: weights.pop(lost))
    with pytest.raises(InputError) as error:
        load_model(folder)
    assert f"lack {lost}" in error.value.message


def test_weights_that_lack_many_tensors_name_some(tmp_path: Path) -> None:
    folder = save_checkpoint("gpt2", tmp_path)
    reweighted(folder, lambda weights: [weights.pop(name) for name in list(weights) if ".h.2." in name])
    with pytest.raises(InputError, match=r"lack transformer\.h\.2\.\S+, \S+, \S+ and 9 more"):
        load_model(folder)


def test_a_configuration_that_contradicts_the_weights_is_refused(tmp_path: Path) -> None:
    folder = save_checkpoint("gpt2", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_inner": 4 * D_MODEL + 1}))
    with pytest.raises(InputError, match=r"other sizes than its weights to transformer\.h\.0\.mlp"):
        load_model(folder)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_unembeddings_that_are_tied_or_not_are_loaded(tmp_path: Path, family: str, tied: bool) -> None:
    folder = save_checkpoint(family, tmp_path, tied=tied)
    names = load_file(folder / "model.safetensors")
    assert any(name.startswith(("lm_head", "embed_out")) for name in names) is not tied
    model, hf = load_model(folder), plain(folder, family)
    tokens = torch.arange(3, 9).unsqueeze(0)
    final = model.run(tokens, [], final=True).final
    torch.testing.assert_close(model.logits(final[0]), hf.run(tokens, [])[1][0], rtol=0, atol=1e-3)


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    folder = save_checkpoint("llama", tmp_path)
    assert Tokenizer(find(str(folder))).encode("w3 w5") == [3, 5]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(InputError, match="can't be loaded"):
        Tokenizer(find(str(folder)))


def test_the_identity_of_a_model_follows_its_files(tmp_path: Path) -> None:
    folder = save_checkpoint("gpt2", tmp_path)
    identities = [find(str(folder)).identity()]
    for name in ("model.safetensors", "tokenizer.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + b" ")
        identities.append(find(str(folder)).identity())
    assert len(set(identities)) == 3


def test_the_identity_follows_every_file_of_the_tokenizer(tmp_path: Path) -> None:
    folder = save_checkpoint("gpt2", tmp_path)
    before = find(str(folder)).identity()
    (folder / "tokenizer_config.json").write_text("{}")
    assert find(str(folder)).identity() != before


def test_a_folder_has_no_revisions(tmp_path: Path) -> None:
    folder = save_checkpoint("gpt2", tmp_path)
    with pytest.raises(InputError, match="has no revisions"):
        find(str(folder), "step1000")
    assert find(str(folder), find(str(folder)).identity()).folder == folder


def test_weights_of_more_layers_than_the_configuration_says_are_refused(tmp_path: Path) -> None:
    for family, key in (("gpt2", "n_layer"), ("llama", "num_hidden_layers"), ("neox", "num_hidden_layers")):
        folder = save_checkpoint(family, tmp_path / family)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {key: 2}))
        with pytest.raises(InputError, match="says 2 layers, its weights go on"):
            load_model(folder)


@pytest.mark.parametrize(
    "change",
    [
        "null", {"model_type": ["gpt2"]}, {"n_head": 0}, {"n_layer": "x"}, {"n_layer": -1}, {"n_positions": None},
        {"activation_function": "nope"}, {"dtype": "float99"}, {"n_embd": -4}, "[" * 100_000,
    ],
    ids=str,
)  # fmt: skip
def test_a_damaged_configuration_is_refused_in_words(tmp_path: Path, change: object) -> None:
    folder = save_checkpoint("gpt2", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(change if isinstance(change, str) else json.dumps(config | change))
    with pytest.raises(InputError) as error:
        load_model(folder)
    assert "\n" not in error.value.message


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json"])
def test_damaged_files_beside_the_weights_are_refused_in_words(tmp_path: Path, name: str) -> None:
    folder = save_checkpoint("gpt2", tmp_path)
    (folder / name).write_text("[]")
    read = load_model if name.startswith("generation") else lambda folder: Tokenizer(find(str(folder)))
    with pytest.raises(InputError, match=r"can't be (loaded|read)"):
        read(folder)
