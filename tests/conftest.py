"""What all tests share: threads set on purpose, shapes checked, no network, and a tiny model to work on.

Two threads, as nox has it: the order of torch's sums, and so their last bits, follows the number of threads.
"""

import os
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # or threads spin while others need the cores
os.environ["HF_HUB_OFFLINE"] = "1"
_cache = tempfile.TemporaryDirectory(prefix="circuitcli-cache-")  # verdicts on models: none from elsewhere counts
os.environ["XDG_CACHE_HOME"] = _cache.name

from jaxtyping import install_import_hook

# Before anything imports circuitcli. Not the command line: typer passes other types than its annotations say.
install_import_hook(
    [f"circuitcli.{part}" for part in ("core", "runtime", "saes", "store", "results", "executors", "stages")],
    "beartype.beartype",
)

from circuitcli.runtime.quiet import hush

hush()

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings as hypothesis_settings
from support import tiny
from support.circuits import validator
from support.plain import PlainModel, PlainSae

from circuitcli.core.circuit import Circuit
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from circuitcli.renderers import json as json_renderer
from circuitcli.runtime.model import BridgeModel
from circuitcli.settings import resolve, to_dict
from circuitcli.stages import ablate, cache_acts, effects, fetch_saes
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.store.run import Run

collect_ignore = ["tracer"]  # has a nox session of its own

_THREADS = int(os.environ["OMP_NUM_THREADS"])
torch.set_num_threads(_THREADS)

# pytest-xdist starts its processes with Ctrl-C ignored, which the commands that a test starts would inherit.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline: the machine that runs the tests may be busy. The same examples every time: a failure can be repeated.
hypothesis_settings.register_profile("circuit", deadline=None, derandomize=True)
hypothesis_settings.load_profile("circuit")

Start = Callable[..., Job]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Those of torch, which a plan sets for the whole process and which decide the last bits, are put back."""
    yield
    torch.set_num_threads(_THREADS)


@pytest.fixture(autouse=True, scope="session")
def every_circuit_is_as_its_schema_says() -> Iterator[None]:
    """Every circuit.json that this process writes is checked."""
    write = json_renderer.Json.files

    def files(self: json_renderer.Json, circuit: Circuit) -> dict[str, bytes]:
        made = write(self, circuit)
        validator().validate(json.loads(made["circuit.json"]))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_renderer.Json, "files", files)
        yield


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a random GPT-2 with the demo's tokenizer."""
    return tiny.save_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_saes(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """SAELens folders, one for each site of each layer of the tiny model."""
    return tiny.save_saes(tmp_path_factory.mktemp("tiny") / "saes", tiny_model)


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .jsonl of short documents."""
    return tiny.save_text(tmp_path_factory.mktemp("tiny") / "text.jsonl")


@pytest.fixture(scope="session")
def plain_model(tiny_model: Path) -> PlainModel:
    """The tiny model by plain transformers, in float64."""
    return PlainModel(tiny_model)


@pytest.fixture(scope="session")
def plain_saes(tiny_saes: Path) -> dict[tuple[int, str], PlainSae]:
    """The tiny model's SAEs by hand, in float64."""
    folders = {(int(f.name.split(".")[0]), f.name.split(".")[1]): f for f in tiny_saes.iterdir()}
    return {place: PlainSae.read(folder) for place, folder in folders.items()}


@pytest.fixture(scope="session")
def start(tiny_model: Path, tiny_saes: Path, tiny_text: Path) -> Start:
    """Makes a job on a new run of the tiny model: `start(folder, {"ablate": {"positions": "all"}})`."""

    def make(root: Path, changes: dict[str, Any] | None = None, *, force: bool = False) -> Job:
        base = {
            "model": str(tiny_model),
            "allow_misfit": True,  # random SAEs fit nothing
            "runtime": {"device": "cpu"},
            "saes": {"release": str(tiny_saes), "sites": ["z", "attn_out", "resid_mid", "mlp_out", "resid_post"]},
            "texts": {"file": str(tiny_text), "num_sequences": 12, "max_tokens": 12},
            "features": {"thinning": 0.06, "branching": 1, "max_features": 10, "seq_cap": 5},
        }
        settings = resolve(base, changes or {})
        run = Run(root, STAGES.folders)
        run.save_settings(to_dict(settings))
        return Job(settings, Silent(), run, force)

    return make


@pytest.fixture(scope="session")
def measure(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Makes a job and does its stages from fetch-saes to effects."""

    def make(changes: dict[str, Any] | None = None) -> Job:
        job = start(tmp_path_factory.mktemp("runs") / "run", changes)
        for stage in (fetch_saes, cache_acts, ablate, effects):
            stage.run(job)
        return job

    return make


@pytest.fixture(scope="session")
def bridge(tiny_model: Path) -> BridgeModel:
    """The tiny model as circuitcli loads it."""
    return tiny.load_model(tiny_model)


@pytest.fixture(scope="session")
def saes(tiny_saes: Path) -> dict[Site, Dictionary]:
    """The tiny model's SAEs as circuitcli loads them."""
    return tiny.load_saes(tiny_saes)


@pytest.fixture(scope="session")
def sequences() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens [5, 9] of five sequences, padded right, and their lengths."""
    tokens = torch.randint(1, tiny.VOCAB, (5, 9), generator=torch.Generator().manual_seed(4))
    return tokens, torch.tensor([9, 6, 8, 5, 7])
