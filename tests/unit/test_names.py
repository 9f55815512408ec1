"""What people call models, and the repositories that they mean."""

from __future__ import annotations

import subprocess
import sys

import pytest

from circuitcli.runtime.names import repository


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
