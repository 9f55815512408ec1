"""Every setting is given everything that a file can hold: it is taken for what it is, or refused by its name.

The settings come from the table, so that a new one is swept as well.
"""

import codecs
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from circuitcli.errors import InputError, UsageError
from circuitcli.settings import Setting, Settings, nest, resolve, table
from circuitcli.store import written
from circuitcli.store.run import Run

OTHER = {"model": "pythia-70m"}
DEEP = 500
# TOML values, by what they are.
VALUES = {
    "true": "true",
    "a whole number": "3",
    "nothing": "0",
    "less than nothing": "-1",
    "a fraction": "0.5",
    "infinity": "inf",
    "no number": "nan",
    "a number beyond floats": "1e999",
    "a number beyond 64 bits": str(2**70),
    "a number of 5,000 digits": "9" * 5000,
    "the same in hexadecimal": "0x" + "f" * 5000,
    "no text": '""',
    "a word": '"no"',
    "digits": '"1"',
    "half a character": '"\\ud800"',
    "a NUL": '"a\\u0000b"',
    "a NUL in a list": '["a\\u0000b"]',
    "control characters": '"a\\u001b]0;x\\u0007\\u202e\\r\\n"',
    "a long text": f'"{"x" * 100_000}"',
    "an empty list": "[]",
    "a list of numbers": "[1]",
    "a list of truths": "[true]",
    "a list of words": '["a"]',
    "lists in lists": "[" * DEEP + "]" * DEEP,
    "an empty table": "{}",
    "tables in tables": "{a = " * DEEP + "1" + "}" * DEEP,
    "a day": "1979-05-27",
    "a time": "07:32:00",
}


def setting(key: str, value: str) -> str:
    """A line of a profile."""
    return f"{key} = {value}\n"


def read(text: str, *flags: dict[str, Any]) -> Settings | None:
    """The settings of a profile; None if it was refused, in words that fit two lines."""
    try:
        return resolve(OTHER, written.toml(text, "p.toml"), *flags)
    except UsageError as refused:
        said = refused.message
    assert 10 < len(said.encode()) < 400
    assert "`" in said or "p.toml is not TOML" in said
    return None


def kinds(row: Setting) -> tuple[set[type], bool]:
    """The types of a setting's value, or of its parts, and whether it is a list."""
    head, _, name = row.key.rpartition(".")
    tree = get_type_hints(Settings)[head] if head else Settings
    hint = get_type_hints(tree)[name]
    parts = [part for part in get_args(hint) if part is not Ellipsis] if not isinstance(hint, type) else [hint]
    if get_origin(hint) is tuple:
        parts = [get_args(hint)[0]]
    flat = [get_args(part)[0] if get_origin(part) is tuple else part for part in parts]
    return {part if isinstance(part, type) else str for part in flat}, row.repeats


@pytest.mark.parametrize("what", VALUES)
@pytest.mark.parametrize("row", table(), ids=lambda row: row.key)
def test_a_value_is_taken_as_it_is_or_refused(row: Setting, what: str):
    found = read(setting(row.key, VALUES[what]))
    if found is None:
        return
    value, (types, is_list) = row.of(found), kinds(row)
    parts = value if isinstance(value, tuple) else (value,)
    assert isinstance(value, tuple) <= is_list
    assert {type(part) for part in parts} <= types
    [(_, written_value)] = nest({"x": written.toml(f"x = {VALUES[what]}", "x")["x"]}).items()
    if row.key != "texts.source" and not (types == {float} and isinstance(written_value, int)):
        assert type(value) is (tuple if isinstance(written_value, list) else type(written_value)), "nothing is coerced"


WRONG = [(bool, "true"), (bool, "false"), (int, "1"), (float, "1.0"), (str, '"no"'), (str, '"1"'), (str, '"true"')]


@pytest.mark.parametrize("row", table(), ids=lambda row: row.key)
def test_wrong_kinds_are_refused_even_under_a_flag(row: Setting):
    """Whatever a later layer puts in its place."""
    types, is_list = kinds(row)
    taken = types | ({int} if float in types else set())
    texts = [text for kind, text in WRONG if kind not in taken]
    assert len(texts) >= 2
    fine = nest({row.key: row.default})
    for text in [*texts, *(['"a"'] if is_list and types == {str} and row.default != "auto" else [])]:
        assert read(setting(row.key, text)) is None, text
        assert read(setting(row.key, text), fine) is None, text


@pytest.mark.parametrize(
    "text", ["texts = 5", "[[texts]]\nmax_tokens = 5", "texts = []", 'texts = "a"', "texts = true"]
)
def test_a_wrong_table_is_refused_though_a_flag_of_it_is_given(text: str):
    with pytest.raises(UsageError, match=r"`texts`.* a table"):
        resolve(OTHER, written.toml(text, "p"), {"texts": {"max_tokens": 9}})
    with pytest.raises(UsageError, match="`texts`"):
        resolve(OTHER, written.toml(text, "p"), {"texts": {"prompt": ["a"]}})


@pytest.mark.parametrize("count", [2, 900, 1_100, 20_000])
@pytest.mark.parametrize("head", ["", "texts.", "texts.file.", "seed."])
def test_a_key_of_many_parts(head: str, count: int):
    assert read(f"{head}{'.'.join('a' * count)} = 1") is None
    assert read(f"[{head}{'.'.join('a' * count)}]\nx = 1") is None


@pytest.mark.parametrize("row", [row for row in table() if row.kind is str], ids=lambda row: row.key)
@pytest.mark.parametrize("text", ["a\0b", "\0", "caf\udce9.txt"])
def test_text_that_toml_or_no_path_can_hold(text: str, row: Setting):
    """As a flag, too, in which the bytes of a name may be others than UTF-8."""
    with pytest.raises(UsageError) as error:
        resolve(OTHER, nest({row.key: (text,) if row.repeats else text}))
    assert f"`{row.key}`" in error.value.message


@pytest.mark.parametrize("row", [row for row in table() if row.words], ids=lambda row: row.key)
def test_the_words_of_a_flag_are_what_a_profile_would_have(row: Setting):
    assert row.typed("auto") == "auto"
    for word in ("true", "False", "no", "1", "0") if bool in row.words else ("7", "0012"):
        assert type(row.typed(word)) in row.words
    for word in ("", "٣", "1.0", "1e3", "9" * 5000):
        assert row.typed(word) == word


def test_a_mark_before_the_text_is_no_part_of_it(tmp_path: Path):
    """Editors of Windows begin a file with one."""
    (tmp_path / "settings.toml").write_bytes(codecs.BOM_UTF8 + b"seed = 7\n")
    assert Run(tmp_path).settings() == {"seed": 7}
    assert written.toml(written.text(tmp_path / "settings.toml", "The profile"), "p") == {"seed": 7}


def test_what_is_no_file_of_settings(tmp_path: Path):
    path = tmp_path / "p.toml"
    path.write_bytes(b"# \xff\n")
    with pytest.raises(InputError, match=r"The profile .* is not UTF-8"):
        written.text(path, "The profile")
    path.write_text("# " + "x" * written.MAX_BYTES)
    with pytest.raises(InputError, match="larger than 1,000,000 bytes"):
        written.text(path, "The profile")
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n")
    with pytest.raises(InputError, match="pointer of Git LFS"):
        written.text(path, "The profile")
    with pytest.raises(InputError, match="it is a folder"):
        written.text(tmp_path, "The profile")
