"""Exit 3 for a run that is unfinished, stale, corrupt or not to be trusted; exit 5 for want of memory or disk."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from support.commands import Result, contents, tables_of

from circuitcli.runtime.model import BridgeModel
from circuitcli.stages import fit
from circuitcli.stages.spec import STAGES

Circuit = Callable[..., Result]


def flip(path: Path) -> None:
    """Change one byte in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def first(run: Path, pattern: str) -> Path:
    return sorted(run.glob(pattern))[0]


@pytest.mark.parametrize("name", [name for name in STAGES if STAGES[name].parents])
def test_parent_stage_is_missing(name: str, circuit: Circuit, run: Path):
    [parent] = STAGES[name].parents
    (run / STAGES[parent].folder / "stage.json").unlink()
    before = contents(run)
    circuit(name, "--run", run).refused(3, f"no finished {parent} stage", f"circuit {parent} --run {run}")
    circuit(name, "--run", run, "--force", "--json").refused_in_json(3)
    assert contents(run) == before


CHANGED = {
    "text": ("cache-acts", ["--prompt", "In the beginning"], ["text", "texts.prompt", "texts.file"]),
    "length": ("cache-acts", ["--max-tokens", "9"], ["texts.max_tokens (12 → 9)"]),
    "seed": ("cache-acts", ["--seed", "7"], ["seed (0 → 7)"]),
    "dtype": ("cache-acts", ["--dtype", "bfloat16"], ['runtime.dtype ("float32" → "bfloat16")']),
    "layers": ("fetch-saes", ["--layers", "0:2"], ['saes.layers (":" → "0:2")']),
    "intervention": ("ablate", ["--intervention", "mean"], ['ablate.intervention ("zero" → "mean")']),
    "cap": ("ablate", ["--seq-cap", "4"], ["features.seq_cap (5 → 4)"]),
}


@pytest.mark.parametrize("name", CHANGED)
def test_changed_settings_ask_for_force(name: str, circuit: Circuit, run: Path):
    """A stage that needs the model isn't thrown away unasked, nor by a stage before it; what changed is named."""
    stage, args, words = CHANGED[name]
    before = contents(run)
    for command in (stage, "run-all"):
        circuit(command, "--run", run, *args).refused(3, *words, "--force")
        circuit(command, "--run", run, *args, "--json").refused_in_json(3)
    assert contents(run) == before


def test_changed_text_file_asks_for_force(circuit: Circuit, profile: Path, tiny_text: Path, tmp_path: Path):
    text = Path(shutil.copy(tiny_text, tmp_path / "text.jsonl"))
    args = ["run-all", "--profile", profile, "--run", tmp_path / "new", "--text", text]
    assert circuit(*args).code == 0
    text.write_text(text.read_text() + '{"text": "one more line"}\n')
    before = contents(tmp_path)
    circuit(*args).refused(3, "text (", "--force")
    assert contents(tmp_path) == before


def test_stale_parent_is_named(circuit: Circuit, run: Path, tmp_path: Path):
    (tmp_path / "profile.toml").write_text("[texts]\nmax_tokens = 9")
    before = contents(run)
    result = circuit("ablate", "--run", run, "--profile", tmp_path / "profile.toml")
    result.refused(3, "cache-acts", "texts.max_tokens (12 → 9)", "--force")
    assert contents(run) == before


FLIPPED = {
    "SAEs": ("saes/saes.json", "cache-acts", "fetch-saes"),
    "tokens": ("acts/tokens.safetensors", "ablate", "cache-acts"),
    "activations": ("acts/0.resid_post/*.safetensors", "ablate", "cache-acts"),
    "statistics": ("acts/features.parquet", "ablate", "cache-acts"),
    "ablations": ("ablations/effects-*.parquet", "effects", "ablate"),
    "ablated contexts": ("ablations/contexts-*.parquet", "effects", "ablate"),
    "ablated logits": ("ablations/logits-*.parquet", "effects", "ablate"),
    "effects": ("effects/effects.parquet", "graph", "effects"),
}


@pytest.mark.parametrize("name", FLIPPED)
def test_one_byte_is_wrong(name: str, circuit: Circuit, run: Path):
    pattern, command, owner = FLIPPED[name]
    path = first(run, pattern)
    flip(path)
    before = contents(run)
    args = [command, "--run", run, "--force"]
    circuit(*args).refused(3, str(path), "sha256", f"circuit {owner} --run", "--force")
    circuit(*args, "--json").refused_in_json(3)
    if name not in ("tokens", "activations"):  # ablate had begun when it came to read these
        assert contents(run) == before


def test_a_wrong_shard_is_not_blessed_by_going_on(circuit: Circuit, run: Path):
    """Pinning one more feature keeps the old shards, but only those that are still as recorded."""
    for path in run.glob("ablations/effects-*.parquet"):
        flip(path)
    before = contents(run)
    circuit("ablate", "--run", run, "--branching", "2").refused(3, "sha256", "circuit ablate --run", "--force")
    assert contents(run) == before


def test_changed_sae_is_noticed(circuit: Circuit, profile: Path, tiny_saes: Path, tmp_path: Path):
    saes = Path(shutil.copytree(tiny_saes, tmp_path / "saes"))
    args = ["--profile", profile, "--run", tmp_path / "new", "--release", saes]
    assert circuit("fetch-saes", *args).code == 0
    config = saes / "0.resid_post" / "cfg.json"
    config.write_text(config.read_text() + "\n")
    circuit("cache-acts", "--run", tmp_path / "new").refused(
        3, "0.resid_post", "changed", "circuit fetch-saes --run", "--force"
    )


ENTRIES = {
    "none": lambda saes: [],
    "an older run's": lambda saes: [{k: v for k, v in saes[0].items() if k != "stated"}, *saes[1:]],
    "a newer run's": lambda saes: [*saes[:-1], {**saes[-1], "colour": "red"}],
    "no entries": lambda saes: [1],
    "a word for a number": lambda saes: [{**saes[0], "d_sae": "wide"}],
    "no list": lambda saes: saes[0],
}


@pytest.mark.parametrize("name", ENTRIES)
def test_saes_of_another_version(name: str, circuit: Circuit, run: Path):
    """Their hash is right, but this version can't read them; fetch-saes can write them anew."""
    path, record = run / "saes" / "saes.json", run / "saes" / "stage.json"
    path.write_text(json.dumps({"saes": ENTRIES[name](json.loads(path.read_text())["saes"])}))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    record.write_bytes(_edited(record, {"files": {"saes/saes.json": {"sha256": digest, "rows": 3}}}))
    before = contents(run)
    for command in ("fetch-saes", "graph", "run-all"):
        force = ["--force"] if command == "graph" else []
        circuit(command, "--run", run, *force).refused(3, str(path), "circuit fetch-saes --run", "--force")
        circuit(command, "--run", run, *force, "--json").refused_in_json(3)
    assert contents(run) == before
    assert circuit("fetch-saes", "--run", run, "--force").code == 0
    assert len(json.loads(path.read_text())["saes"]) == 3


CORRUPT = {
    "no JSON": ("stage.json", b"{", ["corrupt"]),
    "binary": ("stage.json", b"\xff\xfe", ["corrupt"]),
    "a list": ("stage.json", b"[]", ["corrupt"]),
    "missing keys": ("stage.json", b'{"schema_version": 1}', ["corrupt"]),
    "wrong types": ("plan.json", {"shards": ["a"]}, ["corrupt"]),
    "wrong files": ("stage.json", {"files": {"a": 3}}, ["corrupt"]),
    "other schema": ("stage.json", {"schema_version": 99}, ["schema version 99", "not 1"]),
    "no settings": ("../settings.toml", b"= 3", ["settings.toml", "TOML"]),
}


@pytest.mark.parametrize("name", CORRUPT)
def test_corrupt_records(name: str, circuit: Circuit, run: Path):
    file, change, words = CORRUPT[name]
    path = run / "acts" / file
    path.write_bytes(change if isinstance(change, bytes) else _edited(path, change))
    before = contents(run)
    circuit("cache-acts", "--run", run).refused(3, path.name, *words)
    circuit("cache-acts", "--run", run, "--json", "--force").refused_in_json(3)
    assert contents(run) == before


def _edited(path: Path, change: dict[str, object]) -> bytes:
    return json.dumps({**json.loads(path.read_text()), **change}).encode()


@pytest.mark.parametrize("name", ["../victim", "/etc/passwd", "graph/../../victim", "graph/link", "folder/victim"])
@pytest.mark.parametrize("file", ["plan.json", "stage.json"])
def test_records_that_leave_the_run(file: str, name: str, circuit: Circuit, run: Path, tmp_path: Path):
    """A record can name any path, but none outside the run is read, and none removed."""
    (tmp_path / "victim").write_text("mine")
    (run / "graph" / "link").symlink_to(tmp_path / "victim")
    (run / "folder").symlink_to(tmp_path)
    path = run / "graph" / file
    key, value = ("shards", None) if file == "plan.json" else ("files", {"sha256": "0" * 64, "rows": None})
    path.write_bytes(_edited(path, {key: {name: value}}))
    force = ["--force"] if file == "plan.json" else []
    before = contents(tmp_path)
    circuit("graph", "--run", run, *force).refused(3, repr(name), "outside")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["settings.toml", "graph/plan.json", "graph/stage.json", "graph", ".lock"])
def test_links_in_the_run(name: str, circuit: Circuit, run: Path, tmp_path: Path):
    path = run / name
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / path.name
    path.touch()
    path.rename(target)
    path.symlink_to(target)
    before = contents(tmp_path)
    for force in ([], ["--force"]):
        circuit("graph", "--run", run, "--max-edges", "3", *force).refused(3, path.name, "link")
    assert contents(tmp_path) == before


def full(*args: object, **more: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("module", "function"), [(os, "fsync"), (pyarrow.parquet, "write_table"), (os, "replace")])
def test_disk_is_full(module: object, function: str, circuit: Circuit, profile: Path, finished: Path, tmp_path: Path):
    new = tmp_path / "new"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, function, full)
        circuit("run-all", "--profile", profile, "--run", new).refused(5, "disk is full", "Free some space")
        circuit("run-all", "--profile", profile, "--run", new, "--json").refused_in_json(5)
    assert not list(new.rglob("*.part"))
    assert circuit("run-all", "--profile", profile, "--run", new).code == 0
    assert tables_of(new) == tables_of(finished)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
@pytest.mark.parametrize("method", ["run", "resume"])
def test_memory_is_full(method: str, error: Exception, circuit: Circuit, profile: Path, tmp_path: Path):
    """Batches are halved, and said to be; when one row is too much, the run stays resumable."""

    def fail(*args: object, **more: object) -> None:
        raise error

    args = ["run-all", "--profile", profile, "--run", tmp_path / "new", "--device", "cpu", "--batch-size", "4"]
    circuit("run-all", "--profile", profile, "--run", tmp_path / "loaded")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "examine", lambda *args, **more: [])  # so that it is the batches that fail
        patch.setattr(BridgeModel, method, fail)
        result = circuit(*args)
        result.refused(5, "Out of memory", "batch of one row", "--max-tokens")
        assert "batches of 2" in result.err
        circuit(*args, "--json").refused_in_json(5)
    assert circuit(*args).code == 0


def test_logits_beyond_the_dtype(circuit: Circuit, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    original = BridgeModel.logits

    def one_beyond(model: BridgeModel, final: torch.Tensor) -> torch.Tensor:
        logits = original(model, final)
        logits[0, 0] = torch.inf
        return logits

    monkeypatch.setattr(BridgeModel, "logits", one_beyond)
    args = ["run-all", "--profile", profile, "--run", tmp_path / "new"]
    circuit(*args).refused(3, "no longer numbers", "--dtype float32")
    assert not list((tmp_path / "new").glob("ablations/*.parquet"))


def test_memory_is_full_before_anything_is_written(circuit: Circuit, profile: Path, tmp_path: Path, monkeypatch):
    def fail(*args: object, **more: object) -> None:
        raise MemoryError

    circuit("fetch-saes", "--profile", profile, "--run", tmp_path / "new")
    before = contents(tmp_path / "new")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit.Examiner, "trials", fail)
        circuit("cache-acts", "--run", tmp_path / "new").refused(5, "Out of memory", "--max-tokens")
    assert contents(tmp_path / "new") == before
    assert circuit("cache-acts", "--run", tmp_path / "new").code == 0


def test_other_failures_of_torch_are_bugs(circuit: Circuit, profile: Path, tmp_path: Path, monkeypatch):
    def fail(*args: object, **more: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    circuit("run-all", "--profile", profile, "--run", tmp_path / "loaded")
    monkeypatch.setattr(BridgeModel, "run", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        circuit("run-all", "--profile", profile, "--run", tmp_path / "new")


def test_a_folder_that_cannot_be_made(circuit: Circuit):
    circuit("fetch-saes", "--run", "/proc/x").refused(3, "/proc/x", "--run")


def test_a_number_beyond_all_bounds_in_the_runs_settings(circuit: Circuit, run: Path):
    (run / "settings.toml").write_text(f"seed = {'9' * 5000}\n")
    circuit("graph", "--run", run).refused(3, "settings.toml", "TOML")
