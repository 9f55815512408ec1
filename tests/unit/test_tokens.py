"""How tokens are shown: by the rules written out again here, and for any text at all."""

import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitcli.core.tokens import readable, running, visible


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("cat", "cat"),
        (" the", "␣the"),
        ("   ", "␣␣␣"),
        ("\n", "⏎"),
        ("\r\n\t", "␍⏎⇥"),
        ("\x00\x1b[31m\x7f", "␀␛[31m␡"),
        ("\u202eabc", "\\u202eabc"),
        ("\xa0", "\\xa0"),
        ("\u2028", "\\u2028"),
        ("\ud800", "\\ud800"),
        ("\ufffe", "\\ufffe"),
        ("\U000e0001", "\\U000e0001"),
        ("\ufffd", "\ufffd"),
        ("é日本😀שלום", "é日本😀שלום"),
        ("\u0301", "◌\u0301"),
        ("[/b]</script>", "[/b]</script>"),
        ("", "∅"),
    ],
)
def test_what_a_reader_sees(token: str, shown: str) -> None:
    assert visible(token, 20) == shown


@pytest.mark.parametrize(
    ("token", "limit", "shown"),
    [
        ("abcdef", 6, "abcdef"),
        ("abcdefg", 6, "abcde…"),
        ("x" * 10_000, 6, "xxxxx…"),
        ("ab\u202ecd", 8, "ab…"),  # an escape isn't cut in two
        ("\u202e", 3, "…"),
        ("ab", 1, "…"),
    ],
)
def test_what_is_too_long_ends_in_an_ellipsis(token: str, limit: int, shown: str) -> None:
    assert visible(token, limit) == shown


def test_a_limit_below_one_is_a_bug() -> None:
    with pytest.raises(ValueError, match="limit"):
        visible("a", 0)


ANY_TEXT = st.text(st.characters(), max_size=40)  # surrogates too


@given(ANY_TEXT, st.integers(1, 50))
def test_any_token_fits_prints_and_has_no_whitespace(token: str, limit: int) -> None:
    shown = visible(token, limit)
    assert 1 <= len(shown) <= limit
    assert shown.isprintable()
    assert not any(char.isspace() for char in shown)
    assert unicodedata.combining(shown[0]) == 0
    shown.encode()


@given(ANY_TEXT)
def test_a_longer_limit_only_shows_more(token: str) -> None:
    longest = visible(token, 1000)
    for limit in range(1, len(longest)):
        assert longest.startswith(visible(token, limit).removesuffix("…"))


@pytest.mark.parametrize(
    ("pieces", "firing", "shown"),
    [
        (["don", "<0xE2><0x80>", "<0x99>", "t"], None, ["don", "", "’", "t"]),
        (["don", "<0xE2><0x80>", "<0x99>", "t"], 1, ["don", "’", "", "t"]),
        (["don", "<0xE2><0x80>", "<0x99>", "t"], 3, ["don", "", "’", "t"]),
        (["a", " <0xE2><0x80>", "<0x9C>b"], None, ["a", " ", "“b"]),
        (["<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "!"], 2, ["", "", "😀", "", "!"]),
        (["cut <0xE2><0x80>"], None, ["cut <0xE2><0x80>"]),
        (["<0x99>", "t"], 0, ["<0x99>", "t"]),
        (["<0xE2>", "<0x80>", "a"], None, ["<0xE2>", "<0x80>", "a"]),
        (["<0x99>", "<0xE2><0x80>", "<0x99><0xF0>", "<0x9F>"], None, ["<0x99>", "", "’<0xF0>", "<0x9F>"]),
        (["<0xE2><0x80>", "<0x99><0xE2>", "<0x80><0x9C>"], 1, ["", "’“", ""]),
        ([], None, []),
    ],
)
def test_split_characters_are_whole_in_a_running_text(pieces: list[str], firing: int | None, shown: list[str]):
    assert readable(pieces, firing) == shown


def test_a_token_without_text_takes_no_place_in_a_running_text_unless_it_fires():
    pieces = readable(["a", " <0xE2><0x80>", "<0x9C>", "b"])
    assert "".join(running(piece, 16) for piece in pieces) == "a “b"
    pieces = readable(["don", "<0xE2><0x80>", "<0x99>", "t"])
    assert "".join(running(piece, 16) for piece in pieces) == "don’t"
    assert running("", 16, firing=True) == "∅"


@given(st.text(), st.data())
def test_any_cut_of_a_text_reads_as_the_text(text: str, data: st.DataObject):
    """Cut between any two bytes, as byte-level tokens are; each piece as the tokenizer gives it."""
    raw = text.encode("utf-8", "replace")
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)))) | {0, len(raw)})
    parts = [raw[a:b].decode("utf-8", "surrogateescape") for a, b in itertools.pairwise(cuts)]
    pieces = ["".join(f"<0x{ord(c) - 0xDC00:02X}>" if "\udc80" <= c <= "\udcff" else c for c in p) for p in parts]
    assert "".join(readable(pieces)) == raw.decode()
