"""Which texts are read, and how they become sequences."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitcli.core.sampling import pad, sample_documents, to_sequences
from circuitcli.errors import InputError

TEXTS = [f"text {i}" for i in range(50)]
DOCUMENTS = st.lists(st.lists(st.integers(1, 9), max_size=12), max_size=8)


def test_documents_are_drawn_without_replacement_in_their_order() -> None:
    first, others = sample_documents(TEXTS, 10, 5, seed=0)
    assert (len(first), len(others)) == (10, 5)
    assert len({*first, *others}) == 15
    assert first == sorted(first, key=TEXTS.index)
    assert others == sorted(others, key=TEXTS.index)


def test_asking_for_more_extras_changes_nothing_of_the_first() -> None:
    first, others = sample_documents(TEXTS, 10, 5, seed=0)
    assert sample_documents(TEXTS, 10, 0, seed=0) == (first, [])
    more = sample_documents(TEXTS, 10, 20, seed=0)
    assert more[0] == first
    assert set(others) < set(more[1])


def test_the_seed_decides_and_every_document_has_its_chance() -> None:
    counts = Counter(text for seed in range(300) for text in sample_documents(TEXTS, 10, 0, seed=seed)[0])
    assert set(counts) == set(TEXTS)
    assert min(counts.values()) > 30  # 60 are expected of each
    assert max(counts.values()) < 95


def test_fewer_documents_than_asked_for_are_all_taken() -> None:
    assert sample_documents(iter(TEXTS[:3]), 10, 5, seed=0) == (TEXTS[:3], [])


def test_every_document_gives_its_beginning_before_any_gives_more() -> None:
    documents = [[1, 2, 3, 4, 5], [6, 7], [8, 9, 10]]
    pieces = to_sequences(documents, bos=0, max_tokens=3, count=10)
    assert pieces == [[0, 1, 2], [0, 6, 7], [0, 8, 9], [0, 3, 4], [0, 10], [0, 5]]
    assert to_sequences(documents, bos=0, max_tokens=3, count=4) == pieces[:4]


def test_without_bos_a_piece_needs_two_tokens_of_its_own() -> None:
    assert to_sequences([[1, 2, 3], [4], []], bos=None, max_tokens=2, count=10) == [[1, 2]]
    assert to_sequences([[1, 2, 3], [4], []], bos=0, max_tokens=3, count=10) == [[0, 1, 2], [0, 4], [0, 3]]


@given(DOCUMENTS, st.sampled_from([None, 0]), st.integers(2, 6), st.integers(1, 20))
def test_pieces_are_whole_documents_cut_up(
    documents: list[list[int]], bos: int | None, max_tokens: int, count: int
) -> None:
    pieces = to_sequences(documents, bos=bos, max_tokens=max_tokens, count=count)
    assert len(pieces) <= count
    assert all(2 <= len(piece) <= max_tokens for piece in pieces)
    if bos is not None:
        assert all(piece[0] == bos and bos not in piece[1:] for piece in pieces)
        if len(pieces) < count:
            assert sum(len(piece) - 1 for piece in pieces) == sum(map(len, documents))


def test_padding_is_on_the_right() -> None:
    sample = pad([[0, 5, 6], [0, 7]])
    assert sample.tokens.tolist() == [[0, 5, 6], [0, 7, 0]]
    assert sample.lengths.tolist() == [3, 2]


def test_special_tokens_and_the_first_position_never_count() -> None:
    sample = pad([[0, 5, 9, 6], [0, 7], [9, 8, 9]], [[2], [], [2]])
    assert sample.counted.astype(int).tolist() == [[0, 1, 0, 1], [0, 1, 0, 0], [0, 1, 0, 0]]
    assert sample.first(1).counted.astype(int).tolist() == [[0, 1, 0, 1]]
    assert not pad([[0, 5, 9, 6], [0, 7]]).special.any()


def test_no_sequence_at_all_is_the_users_to_mend() -> None:
    with pytest.raises(InputError, match="long enough"):
        pad([])
