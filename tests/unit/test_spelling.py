"""Tokens by their texts, over tokenizers of every kind: what is found is what the whole vocabulary says."""

from collections import Counter

import pytest
from support.tokenizers_of import KINDS
from test_pieces import loaded

# What no text becomes: parts of characters, letters that a vocabulary has and never uses, marks in running text.
UNREACHED = {"unigram": 0.03, "unigram, first word": 0.03, "word-piece": 0.03, "suffixed": 0.7}


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_is_found_by_its_text(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    ours, backend = loaded(kind, tmp_path_factory.getbasetemp())
    texts = [ours.text(token) for token in range(backend.get_vocab_size())]
    count = Counter(texts)
    whole = [token for token, text in enumerate(texts) if text and count[text] == 1 and "<0x" not in text]
    found = {token: ours.token(texts[token]) for token in whole}
    assert len(whole) >= 40
    assert {(token, one) for token, one in found.items() if one not in (token, None)} == set()
    missed = [texts[token] for token, one in found.items() if one is None]
    assert len(missed) <= UNREACHED.get(kind, 0) * len(whole), missed


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_found_as_they_are_written(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The end of a text may be what comes next."""
    ours, backend = loaded(kind, tmp_path_factory.getbasetemp())
    special = [str(one) for one in backend.get_added_tokens_decoder().values() if one.special]
    named = [text for text in special if not text.startswith("<0x")]
    assert named
    for text in named:
        assert ours.token(text) == backend.token_to_id(text)


@pytest.mark.parametrize("kind", ["byte-level", "Llama 2", "Gemma", "words"])
def test_what_is_none_or_several_is_not_found(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nor what a vocabulary lacks, though a token stands for all such words."""
    ours, _ = loaded(kind, tmp_path_factory.getbasetemp())
    assert ours.token("") is None
    assert ours.token(" the light") is None
    assert ours.token(" zebra") is None
    assert ours.token(" the") is not None
    assert ours.token(" the") != ours.token("the")
