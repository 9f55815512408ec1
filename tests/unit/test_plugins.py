"""Plug points: names without imports, loading by name, and unknown names that list the known ones."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import circuitcli
from circuitcli import plugins
from circuitcli.errors import UsageError

PLUG_POINTS = {
    "saes": {"demo", "local"},
    "texts": {"demo", "prompt", "file", "dataset"},
    "interventions": {"zero", "mean", "resample", "steer"},
    "renderers": {"html", "svg", "png", "dot", "json"},
}


@pytest.mark.parametrize("folder", PLUG_POINTS)
def test_names(folder: str):
    found = plugins.names(folder)
    assert set(found) >= PLUG_POINTS[folder]
    assert found == sorted(found)
    assert not [name for name in found if name.startswith("_") or "_" in name]


@pytest.mark.parametrize("folder", PLUG_POINTS)
def test_each_one_follows_the_protocol_of_its_folder(folder: str):
    module = importlib.import_module(f"circuitcli.{folder}")
    protocol = next(
        kind for kind in vars(module).values()
        if isinstance(kind, type) and getattr(kind, "_is_protocol", False) and kind.__module__ == module.__name__
    )  # fmt: skip
    wanted = {name for name, value in vars(protocol).items() if callable(value) and not name.startswith("_")}
    assert wanted
    for name in plugins.names(folder):
        plugin = plugins.load(folder, name)
        assert all(callable(getattr(plugin, method, None)) for method in wanted), name
        assert plugin is plugins.load(folder, name)


def test_names_import_no_plugin():
    code = (
        "import sys; from circuitcli import plugins; plugins.names('renderers'); plugins.names('interventions')\n"
        "print([m for m in sys.modules if m.startswith('circuitcli.') and m.count('.') == 2], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "renderers." not in done.stdout
    assert "interventions." not in done.stdout


@pytest.mark.parametrize(
    ("folder", "name", "message", "hint"),
    [
        (
            "renderers",
            "svgg",
            "Unknown format `svgg`.",
            "Did you mean `svg`? Known formats: csv, dot, graphml, html, json, neuronpedia, png, svg.",
        ),
        (
            "interventions",
            "zer",
            "Unknown intervention `zer`.",
            "Did you mean `zero`? Known interventions: mean, resample, steer, zero.",
        ),
        ("renderers", "", "Unknown format ``.", "Known formats: csv, dot, graphml, html, json, neuronpedia, png, svg."),
        (
            "renderers",
            "_html",
            "Unknown format `_html`.",
            "Did you mean `html`? Known formats: csv, dot, graphml, html, json, neuronpedia, png, svg.",
        ),
        (
            "renderers",
            "..json",
            "Unknown format `..json`.",
            "Did you mean `json`? Known formats: csv, dot, graphml, html, json, neuronpedia, png, svg.",
        ),
        (
            "renderers",
            "SVG",
            "Unknown format `SVG`.",
            "Known formats: csv, dot, graphml, html, json, neuronpedia, png, svg.",
        ),
    ],
)
def test_unknown_names(folder: str, name: str, message: str, hint: str):
    for refuse in (plugins.check, plugins.load):
        with pytest.raises(UsageError) as error:
            refuse(folder, name)
        assert (error.value.message, error.value.hint) == (message, hint)


def test_a_new_file_is_a_new_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Underscores of the file's name become hyphens of the plug-in's."""
    (tmp_path / "things").mkdir()
    (tmp_path / "things" / "__init__.py").write_text("")
    (tmp_path / "things" / "two_words.py").write_text("plugin = 'found'")
    (tmp_path / "things" / "_helper.py").write_text("raise RuntimeError")
    monkeypatch.setattr(circuitcli, "__path__", [*circuitcli.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    assert plugins.names("things") == ["two-words"]
    assert plugins.load("things", "two-words") == "found"
    with pytest.raises(UsageError, match="Unknown thing `two_words`"):
        plugins.load("things", "two_words")
