"""The documents say what the code does: settings, commands, flags, versions; and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.version import Version
from typer.main import get_command

from circuitcli import __version__, errors
from circuitcli.cli.app import app
from circuitcli.cli.options import documentation
from circuitcli.errors import CircuitError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command of the tool by its name, those of groups as `profile init`."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name} ")
        else:
            yield before + name, command


COMMANDS = dict(commands(get_command(app)))
FLAGS = {name: {flag for one in command.params for flag in one.opts} for name, command in COMMANDS.items()}


def test_readme_is_short():
    assert len(read("README.md").splitlines()) <= 160


def test_table_of_settings_is_the_codes():
    # To write it anew: python -c "from circuitcli.cli.options import documentation as d; print(d())"
    table = read("docs/settings.md").split("<!-- SETTINGS -->\n")[1].split("\n<!-- /SETTINGS -->")[0]
    assert table == documentation()


def test_every_command_is_described_and_every_described_command_exists():
    described = re.findall(r"^\| `circuit ([a-z -]+)` \|", read("docs/commands.md"), flags=re.MULTILINE)
    assert sorted(described) == sorted(COMMANDS)


def test_shared_flags_are_those_of_the_commands_that_are_named():
    rows = re.findall(r"^\| (`--[^|]*) \| [^|]* \| ([^|]*) \|$", read("docs/commands.md"), flags=re.MULTILINE)
    assert len(rows) >= 8
    for flags, of in rows:
        named = set(re.findall(r"`([^`]+)`", of))
        taken = set(COMMANDS) - named if of.startswith("all") else named
        for flag in re.findall(r"`([^`]+)`", flags):
            assert {name for name in COMMANDS if flag in FLAGS[name]} == taken, flag


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_typed_can_be_typed(page: Path):
    """Every flag in a shell block, or in a line that begins with a command in text, is one that the command has."""
    text = page.read_text(encoding="utf-8")
    typed = re.findall(r"^(?:\$ )?(circuit [^\n]*)$", text, flags=re.MULTILINE) + re.findall(r"`(circuit [^`]*)`", text)
    for line in typed:
        words = shlex.split(line, comments=True)[1:]
        name = " ".join(words[:2]) if words[:1] == ["profile"] and len(words) > 1 else words[0]
        if name in ("COMMAND", "profile", "--help", "--version", "--install-completion"):
            continue
        assert name in COMMANDS, line
        unknown = {word for word in words if word.startswith("--")} - FLAGS[name] - {"--help"}
        assert not unknown, line


def test_every_release_is_in_one_row():
    rows = re.findall(r"^\| (`gpt2-small-[^|]*) \|", read("docs/saes.md"), flags=re.MULTILINE)
    patterns = [
        re.sub("SITE|KIND|N(?=-)", "[a-z0-9-]+", name) for row in rows for name in re.findall(r"`([^`]+)`", row)
    ]
    known = tomllib.loads(read("circuitcli/saes/releases.toml"))
    for name in known:
        assert len([one for one in patterns if re.fullmatch(one, name)]) == 1, name
    for one in patterns:
        assert any(re.fullmatch(one, name) for name in known), one


def test_exit_codes_are_the_codes():
    table = read("docs/settings.md").split("## Exit codes")[1]
    told = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, flags=re.MULTILINE) for code in row.split(",")}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, CircuitError)]
    assert told == {0, errors.INTERRUPTED, errors.TERMINATED} | {kind.exit_code for kind in kinds}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path):
    for name in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / name).exists(), name


def test_every_page_is_found_from_the_first_one_and_in_the_sites_navigation():
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    for place in ("docs/index.md", "mkdocs.yml"):
        assert not {page for page in pages if page not in read(place)}, place
    assert not {page for page in pages if f"docs/{page}" not in read("README.md")}


def test_versions_agree():
    """What to cite is the newest release in the changelog, of the same day; the code is that or what comes next."""
    dated = re.findall(r"^## \[(\d[^\]]*)\] - (\d{4}-\d\d-\d\d)$", read("CHANGELOG.md"), flags=re.MULTILINE)
    citation = yaml.safe_load(read("CITATION.cff"))
    assert dated[0] == (citation["version"], citation["date-released"])
    assert [Version(version) for version, _ in dated] == sorted((Version(one) for one, _ in dated), reverse=True)
    assert Version(__version__) >= Version(citation["version"])


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")
