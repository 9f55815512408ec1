"""A hub on loopback with one repository, and a client of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from support.hub import LoopbackHub
from support.hub_client import FILES, REPO, TOKEN

from circuitcli.runtime.hub import Hub, retry


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite is offline; these tests aren't. Nobody waits, and nobody's own token is used."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(retry, "WAITS_S", (0.0, 0.0))
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
def server() -> Iterator[LoopbackHub]:
    with LoopbackHub() as hub:
        hub.add(REPO, FILES)
        yield hub


@pytest.fixture
def client(server: LoopbackHub, tmp_path: Path) -> Hub:
    return Hub(endpoint=server.endpoint, cache=tmp_path / "cache")
