"""Models from a hub on loopback: which files are fetched, at which commit, and that they make the same model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file
from support.families import save_checkpoint
from support.hub import LoopbackHub
from support.tiny import load_model
from transformers import AutoModelForCausalLM

from circuitcli.core.sites import Site
from circuitcli.errors import HubError, InputError
from circuitcli.runtime import device
from circuitcli.runtime.checkpoint import Checkpoint, find
from circuitcli.runtime.hub import Hub
from circuitcli.runtime.model import load
from circuitcli.runtime.tokenizer import Tokenizer

REPO = "somebody/model"
OTHERS = {"flax_model.msgpack": b"x", "onnx/model.onnx": b"x", "README.md": b"x", "model.fp16.safetensors": b"x"}


@pytest.fixture
def server() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        yield hub


@pytest.fixture
def hub(server: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return Hub(endpoint=server.endpoint, cache=tmp_path / "cache")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def logits(checkpoint: Checkpoint) -> torch.Tensor:
    model = load(checkpoint, device.make("cpu", "float32", None, seed=0))
    final = model.run(torch.arange(3, 9).unsqueeze(0), [], final=True).final
    assert final is not None
    return model.logits(final[0])


def expected(folder: Path) -> torch.Tensor:
    model = load_model(folder)
    final = model.run(torch.arange(3, 9).unsqueeze(0), [Site(0, "z")], final=True).final
    assert final is not None
    return model.logits(final[0])


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama", "gemma2"])
@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
def test_a_model_is_the_same_from_the_hub_as_from_its_folder(
    server: LoopbackHub, hub: Hub, tmp_path: Path, family: str, shards: bool
) -> None:
    folder = save_checkpoint(family, tmp_path / "model")
    if shards:
        whole = AutoModelForCausalLM.from_pretrained(folder)
        (folder / "model.safetensors").unlink()
        whole.save_pretrained(folder, max_shard_size="20kB")
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    commit = server.add(REPO, contents(folder) | OTHERS)
    found = find(REPO, hub=hub)
    assert (found.commit, found.identity()) == (commit, commit)
    hub.fetch(found.files)
    assert not {file.path for file in found.files} & set(OTHERS)
    torch.testing.assert_close(logits(found), expected(folder))
    assert Tokenizer(found).encode("w3 w5") == [3, 5]
    assert find(str(folder)).shape == found.shape


def test_at_a_commit_nothing_is_asked_once_all_is_there(server: LoopbackHub, hub: Hub, tmp_path: Path) -> None:
    folder = save_checkpoint("gpt2", tmp_path / "model")
    commit = server.add(REPO, contents(folder))
    hub.fetch(find(REPO, commit, hub).files)
    asked = len(server.requests)
    again = find(REPO, commit, hub)
    assert (len(server.requests), again.files) == (asked, ())
    torch.testing.assert_close(logits(again), expected(folder))
    (again.folder / "tokenizer.json").unlink()
    assert find(REPO, commit, hub).files, "what another tool fetched in part is completed"


def test_a_revision_is_another_model(server: LoopbackHub, hub: Hub, tmp_path: Path) -> None:
    first, second = (save_checkpoint(family, tmp_path / family) for family in ("gpt2", "neox"))
    commits = server.add(REPO, contents(first)), server.add(REPO, contents(second), revision="step1000")
    assert [find(REPO, revision, hub).commit for revision in ("main", "step1000")] == list(commits)
    assert find(REPO, "step1000", hub).shape.parallel
    with pytest.raises(HubError, match="step2000"):
        find(REPO, "step2000", hub)


def test_old_weights_are_read_as_data(server: LoopbackHub, hub: Hub, tmp_path: Path) -> None:
    folder = save_checkpoint("gpt2", tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    reference = expected(folder)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    server.add(REPO, contents(folder))
    found = find(REPO, hub=hub)
    hub.fetch(found.files)
    torch.testing.assert_close(logits(found), reference)


@pytest.mark.parametrize(
    ("lacking", "words"), [("config.json", "no config.json"), ("model.safetensors", "no weights that transformers")]
)
def test_a_repository_that_is_no_model_is_refused(
    server: LoopbackHub, hub: Hub, tmp_path: Path, lacking: str, words: str
) -> None:
    files = contents(save_checkpoint("gpt2", tmp_path / "model"))
    del files[lacking]
    server.add(REPO, files)
    with pytest.raises(InputError, match=words):
        find(REPO, hub=hub)


def test_a_configuration_of_another_kind_is_refused(server: LoopbackHub, hub: Hub) -> None:
    server.add(REPO, {"config.json": json.dumps({"model_type": "nothing-known"}).encode(), "model.safetensors": b"x"})
    with pytest.raises(InputError, match=REPO):
        find(REPO, hub=hub)


def test_a_model_that_asks_for_code_is_refused(server: LoopbackHub, hub: Hub, tmp_path: Path) -> None:
    trap = tmp_path / "trapped"
    files = contents(save_checkpoint("gpt2", tmp_path / "model"))
    asked = {"AutoConfig": "custom.Config", "AutoModelForCausalLM": "custom.Model"}
    config = json.loads(files["config.json"]) | {"model_type": "custom", "auto_map": asked}
    code = f"open({str(trap)!r}, 'w').close()\nclass Config: pass\n".encode()
    server.add(REPO, files | {"config.json": json.dumps(config).encode(), "custom.py": code})
    with pytest.raises(InputError):
        logits(find(REPO, hub=hub))
    assert not trap.exists()


def test_a_folder_of_the_same_name_is_no_model(
    server: LoopbackHub, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checkpoint("gpt2", tmp_path / "model")
    server.add("openai-community/gpt2", contents(folder))
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("gpt2", hub=hub).commit
