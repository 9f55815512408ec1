"""What people call models, and the repositories that they mean."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from circuitcli.errors import InputError, UsageError
from circuitcli.runtime.checkpoint import find
from circuitcli.runtime.names import repository
from circuitcli.saes import provider_of
from circuitcli.saes.hub import OnHub


@pytest.mark.parametrize("name", ["gpt2", "gpt2-small", "openai-community/gpt2"])
def test_gpt2_small_has_three_names(name: str) -> None:
    assert repository(name) == "openai-community/gpt2"


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("gpt2-xl", "openai-community/gpt2-xl"),
        ("pythia-70m", "EleutherAI/pythia-70m"),
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m"),
        ("gemma-2-2b", "google/gemma-2-2b"),
        ("my-own-model", "my-own-model"),
        ("somebody/my-own-model", "somebody/my-own-model"),
    ],
)
def test_other_names_are_transformer_lenss_or_stand_for_themselves(name: str, there: str) -> None:
    assert repository(name) == there


def test_gpt2_is_known_without_transformer_lens() -> None:
    code = "import sys; from circuitcli.runtime.names import repository; repository('gpt2-small'); repository('a/b')"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('transformer_lens' in sys.modules)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "False\n"


MALFORMED = [
    "",
    "  ",
    "-x",
    "--model",
    "../..",
    "..",
    "/",
    "a\0b",
    "a\nb",
    "a\ud800b",
    "\x1b[31m",
    "a b",
    "owner/a b",
    " a",
    "a ",
]


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder two deep, to be in."""
    folder = tmp_path / "empty" / "here"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("name", MALFORMED, ids=ascii)
def test_what_is_no_name_is_wrong_usage(nowhere: Path, name: str) -> None:
    for look_for in (find, provider_of):
        with pytest.raises(UsageError) as error:
            look_for(name)
        assert error.value.exit_code == 2
        assert f"{error.value.message}{error.value.hint}".isprintable()


@pytest.mark.parametrize("name", ["..", "../..", ".", "./-x y", "-x"])
def test_a_folder_of_a_model_or_of_saes_may_be_called_anything(nowhere: Path, name: str, tiny_model: Path) -> None:
    folder = nowhere / name
    folder.mkdir(exist_ok=True)
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    assert find(name).folder == Path(name)
    (folder / "cfg.json").touch()
    assert provider_of(name) == "local"


def test_a_folder_that_is_not_there_is_missing_input(nowhere: Path) -> None:
    for name in ("./my model", "~/no such model", "a/b/c"):
        with pytest.raises(InputError, match="There is no model in the folder"):
            find(name)


@pytest.mark.parametrize(
    "address", ["hf://", "hf://owner", "hf://owner/name/../other", "hf://owner/a b", "hf://-x/y", "hf://o/.."]
)
def test_what_is_no_address_of_saes_is_wrong_usage(address: str) -> None:
    with pytest.raises(UsageError):
        OnHub().sites(address, "main")
