"""Every table of the tool at every width from 20 to 200: all lines fit, all names and numbers are whole."""

import io
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text
from support.circuits import TEST, node
from support.commands import Result, tsv
from support.validated import Made, MadeAudit, feature, validate, with_audit, with_joint

from circuitcli.cli import cards, evidence, evidence_audit, evidence_joint, test
from circuitcli.cli.console import Terminal, printable
from circuitcli.cli.cut import Focused
from circuitcli.cli.layout import Column
from circuitcli.core.attributed import Measure
from circuitcli.core.circuit import Context
from circuitcli.runtime import shapes
from circuitcli.runtime.neuronpedia import Explained, Weight
from circuitcli.settings import resolve
from circuitcli.stages.report import Silent
from circuitcli.stages.spec import STAGES
from circuitcli.stages.stage import Job
from circuitcli.stages.test import Judged
from circuitcli.store.run import Run

Circuit = Callable[..., Result]
Table = tuple[str, Sequence[str | Column], Sequence[Sequence[str | Text | Focused]]]

SOURCES = Path(cards.__file__).parent
LONG = [
    "one " * 100,
    "x" * 400,
    "漢字かな交じり文" * 20,
    "🙂🫠👍🏽🇩🇪" * 20,
    "עברית ועוד עברית " * 20,
    "é\u0301\u0302" * 100,
    printable("[/b] \x1b]0;owned\x07\u202e\u200d\ud800\n\t") * 10,
    "",
]
FEATURE = re.compile(r"\d+\.[a-z_]+\.\d+")
NUMBER = re.compile(r"[+-]?\d+\.\d+")


def cells(line: str) -> int:
    """What a line takes, by Unicode's own table of what is wide; marks and the tones of skins take none."""
    drawn = [c for c in line if unicodedata.category(c) not in ("Mn", "Me") and not "\U0001f3fb" <= c <= "\U0001f3ff"]
    return len(drawn) + sum(unicodedata.east_asian_width(c) in "WF" for c in drawn)


def printed(table: Table, width: int) -> list[str]:
    """The lines of a table on a terminal so wide, without its title."""
    terminal = Terminal(as_json=False, quiet=False)
    out = io.StringIO()
    terminal._out = Console(file=out, force_terminal=True, width=width, color_system=None)
    terminal.table(*table)
    lines = out.getvalue().split("\n")
    assert lines[-2:] == ["", ""]
    assert [line for line in lines if cells(line) > width] == []
    said = "".join(lines).replace(" ", "")
    assert said.startswith(printable(table[0]).replace(" ", "")) or "…" in said
    return lines


def hostile(table: Table) -> Table:
    """The same table with the worst that its cells may hold."""
    title, columns, rows = table
    worse = []
    for index in range(max(len(LONG), len(rows))):
        row: list[str | Text | Focused] = []
        for column, cell in zip(columns, rows[index % len(rows)], strict=True):
            text = LONG[index % len(LONG)]
            if isinstance(cell, Focused):
                row.append(Focused(Text(text), len(text) // 2, len(text) // 2 + 4))
            elif isinstance(column, Column) and column.gives:
                row.append(text)
            else:
                row.append(NUMBER.sub("-98765.4321", FEATURE.sub("147.resid_post.16777215", str(cell))))
        worse.append(row)
    return title, columns, worse


def check(table: Table, width: int) -> None:
    title, columns, rows = table
    lines = printed(table, width)
    words = {*" ".join(lines).split()}
    whole = words | {*re.sub(r"…\n +", "", "\n".join(lines)).split()}  # with those that go on in the next line
    there = {word for row in rows for cell in (*row, title) for word in printable(str(cell)).split()}
    spared = "no room for" in " ".join(lines)
    for row in rows:
        for column, cell in zip(columns, row, strict=True):
            gives = isinstance(column, Column) and (column.gives or (column.spared and spared))
            if not gives and not isinstance(cell, Focused):
                assert {*str(cell).split()} - {"–"} <= whole, (title, column, cell)
    for word in words:
        if FEATURE.fullmatch(word) or NUMBER.fullmatch(word):
            assert word in there, f"{word} is no name and no number of {title}"


@pytest.fixture
def tables(
    circuit: Circuit, run: Path, profile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, screen: Any
) -> list[Table]:
    """What every command shows."""
    found: list[Table] = []
    table = Terminal.table

    def record(self: Terminal, *made: Any) -> None:
        found.append(made)
        table(self, *made)

    sizes = {"n_layer": 4, "n_embd": 64, "n_head": 4, "vocab_size": 500, "n_positions": 64}
    monkeypatch.setitem(shapes.SHAPES, "small", ("GPT2Config", sizes))
    monkeypatch.setattr(Terminal, "table", record)
    prompts = [
        "--prompt",
        "the light of the earth was upon 漢字 🙂",
        "--prompt",
        "the void \x1b]0;owned\x07 עברית was",
    ]
    other, asked, fewer, parted = (tmp_path / name for name in ("other", "asked", "fewer", "parted"))
    features = [row[0] for row in tsv(circuit("effects", "--run", run).out) if FEATURE.fullmatch(row[0])][:3]
    pins = [word for name in features for word in ("--pin", name)]
    steered = ["--steer", f"{features[0]}=3", "--prompt", "the light of the", "--generate", "3"]
    for args in (
        ["run-all", "--run", run],
        ["effects", "--run", run, *(word for name in features for word in ("--feature", name))],
        ["effects", "--run", run, *steered],
        ["run-all", "--profile", profile, "--run", other, *prompts, *pins],
        ["effects", "--run", other, "--by-position"],
        ["diff", run, other],
        ["diff", other, run],
        ["fetch-saes", "--profile", profile, "--run", parted],
        ["cache-acts", "--run", parted],
        ["ablate", "--run", parted, "--shard", "1/1"],
        ["ablate", "--run", run, "--dry-run", "--force"],
        ["run-all", "--run", tmp_path / "new", "--profile", profile, "--dry-run"],
        ["run-all", "--run", tmp_path / "new", "--profile", profile, "--dry-run", "--attribute", *prompts],
        ["attribute", "--run", other, "--method", "relp"],  # two prompts: positions add up
        ["run-all", "--run", asked, "--profile", profile, *prompts[:2], "--attribute"],
        ["run-all", "--run", fewer, "--profile", profile, *prompts[:2], "--attribute", "--nodes", "3"],
        ["diff", asked, fewer],
        ["run-all", "--run", run, "--pin", "0.resid_post.1", "--pin", "0.resid_post.2"],
        ["fetch-saes", "--list"],
        ["profile", "show", *prompts],
        ["bench", "--shape", "small", "--d-sae", "256", "--tokens", "8", "--budget", "1"],
        ["bench", "--attribution", "--shape", "small", "--d-sae", "256", "--tokens", "8", "--budget", "2"],
        ["bench", "--estimates", "--profile", profile, "--num-prompts", "2", "--tokens", "6"],
        ["bench", "--precisions", "--shape", "small", "--d-sae", "256", "--tokens", "8", "--budget", "1"],
        ["bench", "--truth"],
    ):
        screen(circuit, args)
    repeated = ["stability", "--run", run, "--seeds", "2", "--halves", "0", "--interventions", "none"]
    judged = tmp_path / "judged.jsonl"
    judged.write_text('{"prompt": "the light of the earth"}\n{"prompt": "and the deep was void"}\n')
    foreseen = ["validate", "--run", run, "--prompts", judged, "--draws", "1", "--candidates", "9", "--dry-run"]
    for typed in ([*repeated, "--dry-run"], repeated, foreseen):
        done = circuit(*typed)
        assert done.code == 0, done.err
    circuit("doctor", "--profile", profile)
    for typed in (["--run", other, "--by-position"], ["--run", run, *steered]):
        circuit("effects", *typed)  # in a pipe it is one table
    contexts = (Context(("the", " light", " of"), (0.5, 7.0, 0.0), 1, -1, -1),)
    explained = Explained("2026-01-02", ("an explanation",), contexts, (Weight(" a", 1.5),), (Weight(" b", -1.5),))
    cards._explained(Terminal(as_json=False, quiet=False), node("0.resid_post.1"), explained)
    checked = validate(Job(resolve({}), Silent(), Run(run, STAGES.folders)), Made(sizes=(1, 3, 6, 12, 30, 60)))
    evidence.show(checked.results(), Terminal(as_json=False, quiet=False))
    held = tuple(t.judged(Measure(0.5, 0.2, 0.7)) for t in (*TEST.faithfulness, *TEST.edges))
    told = Judged(Path("held.json"), "gpt2", "c" * 40, held, 1.0, {}, "cpu")
    test._show(told, Terminal(as_json=False, quiet=False))
    place = {"seq": np.zeros(2, np.int32), "pos": np.array([1, 2], np.int32), "next_id": np.array([7, -1], np.int32)}
    said = {"token_id": np.array([7, 8], np.int32), "token": [" heavens", "\x1b[31m"]}
    with_joint(checked, {**place, **said, "base": np.array([0.9, 0.1]), "altered": np.array([0.2, 0.3])})
    evidence_joint.show_joint(checked.results(), Terminal(as_json=False, quiet=False))
    audited = (MadeAudit(feature=feature(3)), MadeAudit(feature=feature(7), silent=("discovery",), by_atp=None))
    evidence_audit.show_audit(with_audit(checked, *audited).results(), Terminal(as_json=False, quiet=False))
    return found


@pytest.mark.slow
def test_every_table_fits_every_width_and_is_whole(tables: list[Table]):
    titles = [title for title, *_ in tables]
    for path in SOURCES.glob("*.py"):
        for start in re.findall(r"[._]table\(\s*(?:terminal, node, )?f?\"([^\"{]+)", path.read_text(encoding="utf-8")):
            assert any(title.startswith(start) for title in titles), f"{start}, of {path.name}, isn't tried"
    tried = {(title.split()[0], len(columns)): (title, columns, rows[:6]) for title, columns, rows in tables if rows}
    assert len(tried) >= 18
    for width in range(20, 201):
        for table in tried.values():
            check(table, width)
            check(hostile(table), width)
