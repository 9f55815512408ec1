"""Special tokens that are written out in a text, over tokenizers of every kind."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tokenizers_of
from support.tokenizers_of import KINDS
from test_pieces import TEXTS, loaded

from circuitcli.core.model import ModelShape
from circuitcli.runtime.checkpoint import Checkpoint
from circuitcli.runtime.tokenizer import Tokenizer

SPECIAL = {
    "byte-level": ["<|endoftext|>"],
    "word-piece": ["[CLS]", "[SEP]", "[UNK]"],
    "suffixed": ["<s>", "<unk>"],
    "words": ["[BOS]", "[UNK]"],
}


@pytest.fixture(scope="session", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


def read(folder: Path) -> Tokenizer:
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    return Tokenizer(Checkpoint("a", folder, ModelShape(1, 1, 1, d_vocab=1000, n_ctx=1), None, ()))


def special_of(kind: str) -> list[str]:
    return SPECIAL.get(kind, ["<s>", "</s>", "<unk>"])


@settings(max_examples=40)
@given(parts=st.lists(TEXTS, min_size=1, max_size=5), data=st.data())
def test_a_text_is_split_at_them(kind: str, base: Path, parts: list[str], data: st.DataObject):
    special = special_of(kind)
    between = [data.draw(st.sampled_from(special)) for _ in parts[1:]]
    text = "".join(part + mark for part, mark in zip(parts, [*between, ""], strict=True))
    assert loaded(kind, base)[0].split(text) == (parts, between)


@settings(max_examples=40)
@given(text=TEXTS)
def test_ordinary_text_is_read_as_the_tokenizer_reads_it(kind: str, base: Path, text: str):
    ours, backend = loaded(kind, base)
    wanted = backend.encode(text, add_special_tokens=False).ids
    assert ours.encode(text) == wanted
    assert ours.encode_prompt(text) == (wanted, [])


@pytest.mark.parametrize("kind", ["byte-level", "Llama 2", "Gemma"])
def test_without_a_split_they_are_the_characters_that_they_are(kind: str, base: Path):
    ours, backend = loaded(kind, base)
    for mark in special_of(kind):
        found = ours.encode(f"the {mark} light")
        assert backend.token_to_id(mark) not in found
        assert backend.decode(found, skip_special_tokens=False) == f"the {mark} light"


def test_in_a_prompt_they_are_what_the_tokenizer_says_and_their_places_are_known(kind: str, base: Path):
    ours, backend = loaded(kind, base)
    special = special_of(kind)
    text = f"the {special[0]} light{special[-1]} was {special[0]}"
    ids, places = ours.encode_prompt(text)
    assert ids == backend.encode(text, add_special_tokens=False).ids
    assert [backend.id_to_token(ids[place]) for place in places] == [special[0], special[-1], special[0]]


def test_what_stands_for_an_unknown_word_is_ordinary_unless_it_was_typed(base: Path):
    ours, backend = loaded("words", base)
    unknown = backend.token_to_id("[UNK]")
    ids, places = ours.encode_prompt("the zebra was")
    assert (ids[1], places) == (unknown, [])
    assert ours.encode_prompt("the [UNK] was")[1] == [1]
    assert ours.split("the zebra was") == (["the zebra was"], [])


@pytest.mark.parametrize("mark", ["<|im_start|>", "\n\n", "[REF]"])
def test_added_tokens_count_where_they_are_said_to_be_special(mark: str, tmp_path: Path):
    """As those of chats; tokens that were added for other reasons are text."""
    folder = tokenizers_of.save("byte-level", tmp_path, extra_special_tokens=[mark])
    path = folder / "tokenizer.json"
    tree = json.loads(path.read_text())
    plain = {**tree["added_tokens"][-1], "id": len(tree["model"]["vocab"]) + 1, "content": "<plain>", "special": False}
    path.write_text(json.dumps({**tree, "added_tokens": [*tree["added_tokens"], plain]}))
    ours = read(folder)
    assert ours.split(f"the {mark}light <plain> was") == (["the ", "light <plain> was"], [mark])
    assert len(ours.encode_prompt(f"the {mark}light <plain> was")[1]) == 1
    assert "<plain>" in ours.pieces(ours.encode("light<plain>was"))


def test_a_length_that_the_tokenizer_was_saved_with_cuts_nothing(tmp_path: Path):
    folder = tokenizers_of.save("byte-level", tmp_path, model_max_length=4)
    path = folder / "tokenizer.json"
    tree = json.loads(path.read_text())
    cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    filled = {"strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
              "pad_type_id": 0, "pad_token": "<|endoftext|>"}  # fmt: skip
    path.write_text(json.dumps({**tree, "truncation": cut, "padding": filled}))
    ours = read(folder)
    text = "the light of the earth was upon the waters"
    for ids in (ours.encode(text), ours.encode_prompt(text)[0]):
        assert len(ids) > 4
        assert "".join(ours.pieces(ids)) == text
