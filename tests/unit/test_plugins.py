"""Plug points: names without imports, loading by name, and unknown names that list the known ones."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import circuitcli
from circuitcli import plugins
from circuitcli.errors import UsageError
from circuitcli.settings import Settings, nest, resolve, table

PLUG_POINTS = {
    "saes": {"demo", "local"},
    "saes.layouts": {"saelens", "circuit-tracer", "circuit-tracer-clt", "gemma-scope-2", "sparsify"},
    "texts": {"demo", "prompt", "file", "dataset"},
    "interventions": {"zero", "mean", "resample", "steer"},
    "renderers": {"html", "svg", "png", "dot", "json"},
    "executors": {"local", "dask"},
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


@pytest.fixture
def more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder outside the package whose files are interventions, formats and text sources too."""
    for folder in ("interventions", "renderers", "texts"):
        module = importlib.import_module(f"circuitcli.{folder}")
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    table.cache_clear()
    yield tmp_path
    table.cache_clear()


@pytest.mark.parametrize("key", ["ablate.intervention", "graph.formats", "texts.source"])
def test_settings_ask_which_plug_ins_there_are(key: str, more: Path):
    def named(name: str) -> Settings:
        return resolve(nest({"model": "gpt2", key: [name] if key == "graph.formats" else name}))

    with pytest.raises(UsageError, match=r"Unknown .* `of-mine`") as error:
        named("of-mine")
    assert "Known " in error.value.hint
    (more / "of_mine.py").write_text("raise RuntimeError")  # no plug-in is imported to know its name
    importlib.invalidate_caches()
    plugins._files.cache_clear()
    table.cache_clear()
    row = next(row for row in table() if row.key == key)
    assert row.of(named("of-mine")) == (("of-mine",) if row.repeats else "of-mine")
    said = {"ablate.intervention": row.flag.metavar, "graph.formats": row.flag.help}
    assert "of-mine" in said.get(key, "of-mine")


def test_a_long_name_that_no_plug_in_has_fits_a_line():
    with pytest.raises(UsageError) as error:
        plugins.check("renderers", "x" * 9999)
    assert error.value.message == f"Unknown format `{'x' * 79}…`."
