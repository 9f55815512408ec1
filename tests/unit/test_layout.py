"""A table fits its terminal, and no name or number of it is ever cut."""

import re
import unicodedata
from collections.abc import Sequence
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from circuitcli.cli import cut, layout, tables
from circuitcli.cli.console import printable
from circuitcli.cli.cut import Focused
from circuitcli.cli.layout import Column
from circuitcli.results import next_tokens
from circuitcli.results.next_tokens import Answer, NextToken

HOSTILE = (
    "",
    "–",
    "plain words that go on for rather longer than any terminal is wide, and then some more of them, to be sure",
    "一二三四五六七八九十一二三四五六七八九十一二三四五六七八九十",
    "עברית ועוד עברית ועוד הרבה עברית שלא נגמרת",
    "🙂🙃🫠👍🏽🇩🇪🙂🙃🫠👍🏽🇩🇪",
    "e\u0301\u0302\u0303" * 20,
    "\u0301 a mark that has nothing to stand on",
    "[red]markup[/red] \\[not] and {braces}",
    printable("\x1b]0;owned\x07\x9b2J\u202e\u200d\ud800\r\n\t"),
    "x" * 300,
    "…" * 50,
)
NAMES = ("0.z.1", "2.resid_post.548", "12.resid_post.12345", "47.resid_mid.1048575")
NUMBERS = ("0", "-10.851", "+1234.567", "1.0e-05", "72.80%", "[-11.860, -9.960]", "[-1234.567, +1234.567]", "–")


def width_of(line: str) -> int:
    """The cells that a line takes, by Unicode's own table of what is wide; marks and the tones of skins take none."""
    drawn = [c for c in line if unicodedata.category(c) not in ("Mn", "Me") and not "\U0001f3fb" <= c <= "\U0001f3ff"]
    return len(drawn) + sum(unicodedata.east_asian_width(c) in "WF" for c in drawn)


def shown(columns: Sequence[str | Column], rows: Sequence[Sequence[str | Focused]], width: int) -> list[str]:
    made = layout.lines(columns, [[Text(c) if isinstance(c, str) else c for c in row] for row in rows], width)
    assert [line.plain for line in made if line.cell_len > width] == []
    return [line.plain for line in made]


def joined(lines: Sequence[str]) -> str:
    """The text of lines, words that go on in the next line in one piece."""
    return re.sub(r"…\n +", "", "\n".join(lines))


COLUMNS = ("from", "to", "mean effect", "95% interval", "n")
EFFECTS = (
    ("2.resid_post.548", "3.resid_post.706", "-10.851", "[-11.860, -9.960]", "40"),
    ("12.resid_post.12345", "13.resid_mid.1048575", "+1234.567", "[+1134.567, +1334.567]", "100"),
)


@pytest.mark.parametrize("width", range(20, 201))
def test_effects_are_whole_at_every_width(width: int):
    lines = shown(COLUMNS, EFFECTS, width)
    assert max(map(width_of, lines)) <= width
    assert sorted(word for row in EFFECTS for cell in row for word in cell.split()) == sorted(
        word for word in joined(lines).split() if re.search(r"\d", word) and word != "95%"
    )


def test_as_columns_where_there_is_room_and_as_records_where_there_is_none():
    assert shown(COLUMNS, EFFECTS[:1], 80) == [
        "from              to                mean effect       95% interval   n",
        "2.resid_post.548  3.resid_post.706      -10.851  [-11.860, -9.960]  40",
    ]
    assert shown(COLUMNS, EFFECTS[:1], 66) == [
        "                                       mean                95%",
        "from              to                 effect           interval   n",
        "2.resid_post.548  3.resid_post.706  -10.851  [-11.860, -9.960]  40",
    ]
    assert shown(COLUMNS, EFFECTS[:1], 50) == [
        "from: 2.resid_post.548  to: 3.resid_post.706",
        "  mean effect: -10.851",
        "  95% interval: [-11.860, -9.960]  n: 40",
    ]
    assert shown(COLUMNS, EFFECTS[1:], 20) == [
        "from:",
        "  12.resid_post.123…",
        "  45",
        "  to:",
        "  13.resid_mid.1048…",
        "  575",
        "  mean effect:",
        "  +1234.567",
        "  95% interval:",
        "  [+1134.567,",
        "  +1334.567]  n: 100",
    ]


def test_what_all_rows_say_is_said_once_before_anything_is_stacked():
    columns = ("site", "architecture", "d_in", Column("source", cut.path))
    rows = [(f"{i}.z", "standard", "128", f"~/some/folders/with/saes/blocks.{i}.hook_z") for i in range(2)]
    assert shown(columns, rows, 44) == [
        "in all rows  architecture: standard",
        "  d_in: 128",
        "site  source",
        "0.z   …/folders/with/saes/blocks.0.hook_z",
        "1.z   …/folders/with/saes/blocks.1.hook_z",
    ]


def test_items_go_whole_and_a_record_has_them_all():
    columns = ("feature", Column("promoted", cut.items))
    rows = [("1.z.2", "␣haven -3.52  ␣know -3.27  're -2.95")]
    assert shown(columns, rows, 37)[1:] == ["1.z.2    ␣haven -3.52  ␣know -3.27  …"]
    assert shown(columns, rows, 24)[1:] == ["1.z.2    ␣haven -3.52  …"]
    assert " ".join(shown(columns, rows, 22)).split() == ["feature:", "1.z.2", "promoted:", *rows[0][1].split()]


def test_a_token_with_a_comma_keeps_its_number():
    columns = ("feature", Column("suppressed", cut.items))
    rows = [("1.z.2", "␣haven -3.52  , +4.35 (+0.0009)  }, +2.00")]
    assert shown(columns, rows, 30)[1:] == ["1.z.2    ␣haven -3.52  …"]
    record = "\n".join(shown(columns, rows, 22))
    assert ", +4.35 (+0.0009)" in record
    assert "}, +2.00" in record


def test_the_end_of_a_prompt_has_a_mark_where_more_stands_before_it(monkeypatch: pytest.MonkeyPatch):
    prompts = ("In the beginning, God created the heavens and the", "exactly twenty-four here", "short")
    answers = [Answer(seq, text, (NextToken(" earth", 1, 0.5),)) for seq, text in enumerate(prompts)]
    monkeypatch.setattr(next_tokens, "answers", lambda results: answers)
    terminal = Mock()
    tables.answers(Mock(), terminal)
    ends = [row[1] for row in terminal.table.call_args.args[2]]
    assert ends == ["…ted the heavens and the", "exactly twenty-four here", "short"]


def test_firing_tokens_stay_and_stand_below_one_another():
    def context(text: str) -> Focused:
        start = text.index("«")
        return Focused(Text(text), start, text.index("»") + 1)

    columns = ("activation", "context")
    rows = [
        ("14.41", context("the wickedness. You don’«t» fast today")),
        ("9.80", context("漢字漢字«漢»漢字漢字漢字漢字漢字漢字")),
    ]
    for width in range(40, 80):
        lines = shown(columns, rows, width)[1:]
        assert len({width_of(line.partition("«")[0]) for line in lines}) == 1
        assert all("«t»" in line or "«漢»" in line for line in lines)
        assert all(re.search("…$", line) or line.endswith(("today", "字")) for line in lines)


def test_a_column_that_can_be_spared_goes_before_rows_are_stacked():
    columns = ("release", "sites", Column("Neuronpedia", spared=True))
    rows = [("one-release", "resid_post", "{layer}-res-jb"), ("another", "resid_pre", "–")]
    assert "Neuronpedia" in shown(columns, rows, 41)[0].split()
    assert shown(columns, rows, 30)[:2] == ["no room for  Neuronpedia", "release      sites"]
    assert "{layer}-res-jb" in "\n".join(shown(columns, rows, 20)).split()


def test_a_path_keeps_its_last_folders():
    assert cut.path(Text("hf://owner/repo/v5/blocks.8.hook_resid_pre"), 30).plain == "…/v5/blocks.8.hook_resid_pre"
    assert cut.path(Text("hf://owner/repo/v5/blocks.8.hook_resid_pre"), 12).plain == "…k_resid_pre"


@given(
    names=st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
    texts=st.lists(st.sampled_from(HOSTILE) | st.text(max_size=80).map(printable), min_size=3, max_size=3),
    numbers=st.lists(st.sampled_from(NUMBERS), min_size=3, max_size=3),
    width=st.integers(20, 200),
)
def test_whatever_is_in_it(names: list[str], texts: list[str], numbers: list[str], width: int):
    """Each row keeps its name and its number, whatever stands beside them, and no line is too wide."""
    columns = (
        "feature",
        "mean effect",
        Column("label", cut.at_end),
        "activation",
        Column("source", cut.path),
        "context",
    )
    rows = [
        (name, number, text, "3.14", text[::-1], Focused(Text(text), len(text) // 3, len(text) // 2))
        for name, text, number in zip(names, texts, numbers, strict=False)
    ]
    whole = joined(shown(columns, rows, width))
    for name, number, *_ in rows:
        assert name in whole.split()
        assert set(number.split()) - {"–"} <= set(whole.split())


def test_lines_break_between_words_and_leave_a_command_whole():
    line = Text("See `circuit doctor --run my-run` for more, or /a/path/that/is/wider/than/a/line/of/this/terminal.")
    assert [part.plain for part in cut.flow(cut.words(line), 40, whole=True)] == [
        "See `circuit doctor --run my-run` for",
        "  more, or",
        "  /a/path/that/is/wider/than/a/line/of/this/terminal.",
    ]
