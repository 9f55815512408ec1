"""The README says what the code does: its table of settings is the code's, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from packaging.version import Version
from typer.main import get_command

from circuitcli import __version__
from circuitcli.cli.app import app
from circuitcli.cli.options import documentation

README = Path(__file__).parents[2] / "README.md"


def test_table_of_settings_is_the_codes():
    # To write it anew: python -c "from circuitcli.cli.options import documentation as d; print(d())"
    text = README.read_text(encoding="utf-8")
    table = text.split("<!-- SETTINGS -->\n")[1].split("\n<!-- /SETTINGS -->")[0]
    assert table == documentation()


def test_every_command_is_described_and_every_described_command_exists():
    text = README.read_text(encoding="utf-8")
    described = re.findall(r"^\| `circuit ([a-z-]+)(?: [a-z-]+)?` \|", text, flags=re.MULTILINE)
    assert set(described) == set(getattr(get_command(app), "commands"))  # noqa: B009 - typer says no more of it
    of_profiles = set(re.findall(r"^\| `circuit profile ([a-z]+)` \|", text, flags=re.MULTILINE))
    assert of_profiles == {"import", "init", "show"}


def test_named_files_exist():
    text = README.read_text(encoding="utf-8")
    for name in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (README.parent / name).exists(), name


def test_versions_agree():
    """What to cite is the newest release in the changelog, of the same day; the code is that or what comes next."""
    dated = re.findall(r"^## \[(\d[^\]]*)\] - (\d{4}-\d\d-\d\d)$", _read("CHANGELOG.md"), flags=re.MULTILINE)
    citation = yaml.safe_load(_read("CITATION.cff"))
    assert dated[0] == (citation["version"], citation["date-released"])
    assert [Version(version) for version, _ in dated] == sorted((Version(one) for one, _ in dated), reverse=True)
    assert Version(__version__) >= Version(citation["version"])


def _read(name: str) -> str:
    return (README.parent / name).read_text(encoding="utf-8")
