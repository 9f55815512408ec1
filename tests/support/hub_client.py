"""What the tests of the hub's client share: a repository of two files, and what is asked and said of it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from circuitcli.errors import CircuitError
from circuitcli.runtime.hub import Hub
from support.hub import LoopbackHub

REPO, TOKEN = "owner/saes", "hf_planted"
SMALL, LARGE = "blocks.0/cfg.json", "blocks.0/sae_weights.safetensors"
WEIGHTS = bytes(range(251)) * 4000
FILES = {SMALL: b'{"d_in": 2}', LARGE: WEIGHTS}
ROOT = Path(__file__).parents[2]

# A program that fetches files of the repository: its arguments are the cache and the files' paths.
FETCH = """
import sys
from pathlib import Path
from circuitcli.runtime.hub import Hub
hub = Hub(cache=Path(sys.argv[1]))
for path in hub.fetch(hub.files("owner/saes", sys.argv[2:])):
    print(path, path.stat().st_size)
"""


def cache_of(client: Hub) -> Path:
    return client._cache / "models--owner--saes"


def blobs(client: Hub) -> list[str]:
    folder = cache_of(client) / "blobs"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def partial(client: Hub) -> Path:
    (found,) = (cache_of(client) / "blobs").glob("*.incomplete")
    return found


def shown(client: Hub) -> list[Path]:
    return [path for path in cache_of(client).glob("snapshots/**/*") if not path.is_dir()]


def get(client: Hub, *paths: str) -> list[bytes]:
    return [path.read_bytes() for path in client.fetch(client.files(REPO, paths or (SMALL, LARGE)))]


def refused(kind: type[CircuitError], code: int, action: Callable[[], object]) -> str:
    """The two lines of an error of this class and exit code, which say nothing of the token."""
    with pytest.raises(CircuitError) as caught:
        action()
    error = caught.value
    assert isinstance(error, kind)
    assert error.exit_code == code
    for line in (error.message, error.hint):
        assert line
        assert "\n" not in line
        assert line.endswith((".", "?"))
        assert TOKEN not in line
    return f"{error.message} {error.hint}"


def start(server: LoopbackHub, program: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Another process, whose hub is the one on loopback."""
    environment = {**os.environ, "HF_ENDPOINT": server.endpoint, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def until(ready: Callable[[], bool]) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def nowhere() -> str:
    """An address where nobody listens."""
    with LoopbackHub() as gone:
        return gone.endpoint
