"""The command line in this process, and a finished run to break."""

import io
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from support import drawn
from support.commands import Result
from support.tiny import SMALL

from circuitcli.cli.app import main
from circuitcli.core import circuit as circuits
from circuitcli.renderers import html
from circuitcli.runtime import model as models
from circuitcli.runtime.checkpoint import Checkpoint
from circuitcli.runtime.device import DTYPES, Runtime, make
from circuitcli.settings import to_dict
from circuitcli.stages import run_all

Circuit = Callable[..., Result]


@pytest.fixture(scope="session")
def load_once() -> Callable[[Checkpoint, Runtime], models.BridgeModel]:
    """`runtime.model.load`, but each model once: loading takes longer than all that a tiny model then does."""
    original = models.load
    load = cache(lambda checkpoint, device, dtype: original(checkpoint, make(device, dtype, None, 0)))
    names = {dtype: name for name, dtype in DTYPES.items()}
    return lambda checkpoint, runtime: load(checkpoint, str(runtime.device), names[runtime.dtype])


@pytest.fixture
def circuit(
    load_once: Callable[[Checkpoint, Runtime], models.BridgeModel],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Circuit]:
    """Runs a command in this process: `circuit("graph", "--run", folder)`. A bug is raised."""
    monkeypatch.delenv("CIRCUIT_RUN", raising=False)
    monkeypatch.setattr(models, "load", load_once)
    before = signal.getsignal(signal.SIGTERM)

    def run_cli(*args: str | Path) -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["circuit", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return Result(end.value.code, out, err)

    yield run_cli
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def finished(start: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the tiny model with all stages done; not to be touched."""
    job = start(tmp_path_factory.mktemp("finished") / "run", SMALL)
    run_all.run(job, lambda outcome: None)
    return job.run.root


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def profile(start: Callable[..., Any], tmp_path: Path) -> Path:
    """A profile that makes the same run."""
    settings = start(tmp_path / "unused", SMALL).settings
    shutil.rmtree(tmp_path / "unused")
    path = tmp_path / "profile.toml"
    path.write_text(tomli_w.dumps(to_dict(settings)), encoding="utf-8")
    return path


class Screen(io.StringIO):
    """A terminal that remembers."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[Circuit, list[str | Path]], str]:
    """What a command shows on a terminal of 100 columns."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def shown(circuit: Circuit, args: list[str | Path]) -> str:
        out = Screen()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", out)
            patch.setattr("sys.stderr", out)
            assert circuit(*args).code == 0
        return out.getvalue()

    return shown


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from support.browser import chromium  # here, so that no other test needs Playwright

    with chromium() as found:
        yield found


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens a circuit's page; whatever a test does to it, in the end nothing may have gone wrong."""
    from support.browser import Opened

    pages: list[Opened] = []

    def open_page(shown: circuits.Circuit = drawn.SMALL, **context: Any) -> Opened:
        file = tmp_path / "circuit.html"
        file.write_bytes(html.plugin.files(shown)["circuit.html"])
        pages.append(Opened(browser, file, **context))
        return pages[-1]

    yield open_page
    for each in pages:
        each.check()
        each.context.close()
