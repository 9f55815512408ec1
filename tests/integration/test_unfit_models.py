"""Models that can't be studied are refused with what is wrong: a folder by its name, a family, the hub."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from families import D_MODEL, VOCAB, save_checkpoint
from transformers import AutoModelForCausalLM, MambaConfig, OPTConfig, PretrainedConfig

from circuitcli.errors import HubError, InputError
from circuitcli.runtime import device
from circuitcli.runtime.model import load
from circuitcli.runtime.tokenizer import Tokenizer, describe, unavailable


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
        load(str(folder), device.make("cpu", "float32", None, seed=0))
    assert error.value.message.startswith(f"The model in the folder {folder} can't be loaded: ")
    assert "\n" not in error.value.message
    assert "tokenizer.json" in error.value.hint


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
        load(str(tmp_path), device.make("cpu", "float32", None, seed=0))


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path) -> None:
    folder = save_checkpoint("llama", tmp_path)
    assert Tokenizer(str(folder)).encode("w3 w5") == [3, 5]
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="can't be loaded"):
        Tokenizer(str(folder))


def test_the_identity_of_a_model_follows_its_files(tmp_path: Path) -> None:
    folder = save_checkpoint("gpt2", tmp_path)
    identities = [describe(str(folder)).identity]
    for name in ("model.safetensors", "tokenizer.json"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + b" ")
        identities.append(describe(str(folder)).identity)
    assert len(set(identities)) == 3


class ConnectError(Exception):
    """As httpx names it."""


def raised(*errors: Exception) -> Exception:
    """The last of a chain, each raised while the one before it was handled."""
    for before, after in itertools.pairwise(errors):
        after.__context__ = before
    return errors[-1]


def test_the_network_is_told_from_an_unknown_name() -> None:
    network = raised(ConnectError("refused"), FileNotFoundError("not in the cache"), OSError("We couldn't connect"))
    assert isinstance(unavailable("some/model", network), HubError)
    assert unavailable("some/model", network).exit_code == 4
    unknown = unavailable("some/model", raised(FileNotFoundError("404"), OSError("no such model")))
    assert isinstance(unknown, InputError)
    assert unknown.message.startswith("Unknown model some/model")
