"""Tokens as text, over tokenizers of every kind that `tokenizers` can train: they join to what is decoded whole."""

import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tokenizers_of
from support.tokenizers_of import KINDS, LINES
from tokenizers import Tokenizer as Backend
from tokenizers.pre_tokenizers import ByteLevel

from circuitcli.core.model import ModelShape
from circuitcli.runtime.checkpoint import Checkpoint
from circuitcli.runtime.pieces import _BYTES
from circuitcli.runtime.tokenizer import Tokenizer

# Words of the lines and letters that they lack, with all kinds of spaces between.
TEXTS = st.lists(
    st.sampled_from([*" ".join(LINES).split(" "), " ", "  ", "\n", "ing", "é", "’", "日", "😀", "x", "\t", "the"])
    | st.text(max_size=5)
).map(" ".join)


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def both(kind: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Backend]:
    return loaded(kind, tmp_path_factory.getbasetemp())


@cache
def loaded(kind: str, base: Path) -> tuple[Tokenizer, Backend]:
    """Ours, and the one it is made of."""
    folder = tokenizers_of.save(kind, base / f"tokenizer of {kind}")
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    shape = ModelShape(n_layers=1, d_model=1, d_vocab=backend.get_vocab_size(), n_ctx=1, d_z=1)
    return Tokenizer(Checkpoint(kind, folder, shape, None, ())), backend


def joined(pieces: list[str]) -> str:
    """Pieces in a row, and the bytes of split characters put together again."""

    def characters(found: re.Match[str]) -> str:
        return bytes(int(byte, 16) for byte in re.findall("<0x(..)>", found[0])).decode("utf-8", "replace")

    return re.sub("(<0x[0-9A-F]{2}>)+", characters, "".join(pieces))


@settings(max_examples=40)
@given(text=TEXTS)
def test_the_pieces_of_a_sequence_join_to_its_text(both: tuple[Tokenizer, Backend], text: str):
    ours, backend = both
    tokens = ours.encode(text)
    for sequence in (tokens, [ours.bos, *tokens]):
        pieces = ours.pieces(sequence)
        assert len(pieces) == len(sequence)
        assert joined(pieces) == backend.decode(sequence, skip_special_tokens=False)


@settings(max_examples=40)
@given(text=TEXTS, start=st.integers(0, 9), length=st.integers(0, 9))
def test_a_part_of_a_sequence_reads_as_in_the_whole(
    both: tuple[Tokenizer, Backend], text: str, start: int, length: int
):
    tokens = both[0].encode(text)
    assert both[0].pieces(tokens, start, start + length) == both[0].pieces(tokens)[start : start + length]


def test_entries_that_differ_by_a_space_in_front_are_told_apart(kind: str, both: tuple[Tokenizer, Backend]):
    ours, backend = both
    entries = {token: ours.text(token) for token in range(backend.get_vocab_size())}
    names = {backend.id_to_token(token): token for token in entries}
    spaced = {"byte-level": "Ġ{}", "word-piece": "{}", "words": "{}", "suffixed": "{}"}.get(kind, "▁{}")
    glued = {"word-piece": "##{}"}.get(kind, "{}")
    pairs = [
        (names[spaced.format(name)], names[glued.format(name)])
        for name in ("a", "s", "t", "f", "the", "ing", "and")
        if spaced != glued and {spaced.format(name), glued.format(name)} <= set(names)
    ]
    assert pairs or kind in ("words", "suffixed")
    for word, part in pairs:
        assert entries[word] == " " + entries[part], (backend.id_to_token(word), backend.id_to_token(part))


@pytest.mark.parametrize(
    ("of", "text", "pieces"),
    [
        ("byte-level", "face was 日 light", ["f", "ace", " was", " <0xE6><0x97>", "<0xA5>", " light"]),
        ("Llama 2", "the the 日 the", ["the", " the", " ", "<0xE6>", "<0x97>", "<0xA5>", " the"]),
        ("Gemma", "the the", ["t", "he", " the"]),
        ("unigram", "the the", ["", "th", "e", " ", "th", "e"]),
        ("word-piece", "singing, the", ["sing", "ing", ",", " the"]),
        ("suffixed", "the the", ["the", " the"]),
        ("words", "the the", ["the", " the"]),
    ],
)
def test_what_is_shown(of: str, text: str, pieces: list[str], tmp_path_factory: pytest.TempPathFactory):
    ours, _ = loaded(of, tmp_path_factory.getbasetemp())
    found = ours.pieces(ours.encode(text))
    assert found == pieces


def test_bytes_that_are_no_character_stay_apart(tmp_path_factory: pytest.TempPathFactory):
    for of in ("byte-level", "Llama 2"):
        ours, backend = loaded(of, tmp_path_factory.getbasetemp())
        shown = [ours.text(token) for token in range(backend.get_vocab_size())]
        assert {f"<0x{byte:02X}>" for byte in range(0x80, 0x100)} <= set(shown)
        assert "\ufffd" not in "".join(shown)
        assert len(set(shown)) >= len(shown) - 128  # <0x41> is the A that is also an entry of its own
    assert shown[3 + 0x0A] == "\n"


def test_an_id_that_the_tokenizer_lacks_is_shown_as_such(both: tuple[Tokenizer, Backend]):
    ours, backend = both
    beyond = backend.get_vocab_size()
    for token in (beyond, 50_280, 2**31 - 1, 2**40, -1):
        assert ours.text(token) == f"<id {token}>"
    assert ours.pieces([beyond, beyond + 1, 5, beyond]) == [
        f"<id {beyond}>", f"<id {beyond + 1}>", ours.pieces([beyond, 5])[1], f"<id {beyond}>",
    ]  # fmt: skip


def test_the_characters_that_stand_for_bytes_are_those_of_tokenizers():
    assert set(_BYTES) == set(ByteLevel.alphabet())
    encode = ByteLevel(add_prefix_space=False, use_regex=False)
    for text in ("\x00 aZ~\x7f", "¡é­ÿ日😀"):
        ((written, _),) = encode.pre_tokenize_str(text)
        assert bytes(_BYTES[char] for char in written) == text.encode()
