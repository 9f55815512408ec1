"""How the package's files import each other: in no circle, whether at once, where they work, or for types alone."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest

from circuitcli.stages.spec import STAGES

PACKAGE = Path(__file__).parents[2] / "circuitcli"
PYPROJECT = PACKAGE.parent / "pyproject.toml"


def name_of(path: Path) -> str:
    """A file as a module."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, modules: set[str]) -> set[str]:
    """The package's files that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in modules else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found & modules


def test_no_files_import_each_other_in_a_circle():
    paths = {name_of(path): path for path in PACKAGE.rglob("*.py")}
    graph = {name: imported(path, set(paths)) for name, path in paths.items()}
    assert sum(map(len, graph.values())) > 500
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
    assert set(order) == set(paths)


# A line in a file that breaks each contract of pyproject.toml.
BREAKS = {
    "Imports go down the house": ("store/run.py", "from circuitcli.stages import spec"),
    "Results are read without what computes": ("results/nodes.py", "import torch"),
    "A finished run is read through results": ("cli/cards.py", "from circuitcli.store import tables"),
    "Settings hold plain values": ("settings/tree.py", "from circuitcli.core import sites"),
    "The core computes and does nothing else": ("core/merge.py", "import pyarrow"),
    "A task knows no run, no settings, no hub and nobody to report to": (
        "stages/task.py",
        "from circuitcli.stages import report",
    ),
    "An executor knows no stage, no run and no model": (
        "executors/local.py",
        "from circuitcli.store import tables",
    ),
    "A stage imports no other": ("stages/effects.py", "from circuitcli.stages import ablate"),
    "Only these read the demo": ("renderers/csv.py", "from circuitcli import demo"),
    "One door to TransformerLens": ("runtime/head.py", "import transformer_lens"),
    "One door to the Hugging Face Hub": ("texts/dataset.py", "import huggingface_hub"),
    "One door to Neuronpedia": ("runtime/hub/client.py", "import httpx2"),
    "One door to Graphviz": ("renderers/svg.py", "import graphviz"),
    "One door to SAELens": ("saes/local.py", "import sae_lens"),
    "One door to Dask": ("stages/run_all.py", "import distributed"),
    "One door to matplotlib": ("stages/curves.py", "import matplotlib"),
}


def contracts() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return found


def test_every_contract_is_broken_by_what_it_forbids(tmp_path: Path):
    """By import-linter itself, over a copy of the package with one such line for each."""
    pytest.importorskip("importlinter")
    assert set(BREAKS) == {contract["name"] for contract in contracts()}
    for path in PACKAGE.rglob("*.py"):
        copy = tmp_path / "circuitcli" / path.relative_to(PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    shutil.copy(PYPROJECT, tmp_path)
    for file, line in BREAKS.values():
        with (tmp_path / "circuitcli" / file).open("a", encoding="utf-8") as out:
            out.write(f"\n{line}\n")
    lint = "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command as c; c()"
    done = subprocess.run(
        [sys.executable, "-c", lint],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    broken = {name for name in BREAKS if f"{name} BROKEN" in done.stdout}
    assert broken == set(BREAKS), done.stdout


def test_the_contract_of_stages_names_them_all():
    [modules] = [set(one["modules"]) for one in contracts() if one["name"] == "A stage imports no other"]
    assert modules >= {str(spec.run).partition(":")[0] for spec in STAGES.values()}
    assert all(name.startswith("circuitcli.stages.") for name in modules)


LIGHT = """
import importlib, pkgutil, sys
for name in ("torch", "transformers", "transformer_lens", "huggingface_hub", "datasets"):
    sys.modules[name] = None  # an import of it fails
import circuitcli.results
found = [one.name for one in pkgutil.iter_modules(circuitcli.results.__path__, "circuitcli.results.")]
for name in found:
    importlib.import_module(name)
print(len(found))
"""


def test_results_can_be_imported_where_there_is_no_torch():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(list((PACKAGE / "results").glob("[!_]*.py")))
