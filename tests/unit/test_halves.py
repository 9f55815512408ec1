"""Which half each example is in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from circuitcli.core.evidence.examples import Example
from circuitcli.errors import InputError
from circuitcli.stages.halves import halves


def made(names: list[str]) -> list[Example]:
    return [Example(name, (), "nats") for name in names]


def discovery(names: list[str], **more: object) -> set[str]:
    """The texts that features are ranked on."""
    found = halves(made(names), **{"split": 0.5, "seed": 0, **more})
    return {name for name, half in zip(names, found, strict=True) if half == "discovery"}


MANY = [f"prompt {i}" for i in range(40)]


@pytest.mark.parametrize(("split", "count"), [(0.5, 20), (0.25, 10), (0.001, 1), (0.999, 39)])
def test_the_share_that_was_asked_for_and_one_at_least(split: float, count: int) -> None:
    assert len(discovery(MANY, split=split)) == count


def test_the_seed_decides() -> None:
    assert discovery(MANY) == discovery(MANY)
    assert discovery(MANY) != discovery(MANY, seed=1)


@given(st.permutations(MANY[:12]), st.integers(0, 5))
def test_the_order_does_not_matter(names: list[str], seed: int) -> None:
    assert discovery(names, seed=seed) == discovery(MANY[:12], seed=seed)


def test_one_more_example_moves_one_at_most() -> None:
    """As each draws a lot of its own."""
    before, after = discovery(MANY[:20]), discovery(MANY[:21])
    assert len((before ^ after) - {MANY[20]}) <= 1


@given(st.lists(st.sampled_from("abcdef"), min_size=2, max_size=30), st.integers(0, 20))
def test_a_text_is_in_one_half_alone(names: list[str], seed: int) -> None:
    if len(set(names)) < 2:
        return
    found = halves(made(names), 0.5, seed)
    assert {*found} == {"discovery", "evaluation"}
    assert len({*zip(names, found, strict=True)}) == len(set(names))


@given(st.sets(st.sampled_from(MANY), min_size=1, max_size=39), st.integers(0, 5))
def test_what_a_circuit_was_found_on_judges_nothing(found_on: set[str], seed: int) -> None:
    ranked = discovery(MANY, seed=seed, found_on=found_on)
    assert found_on <= ranked
    assert len(ranked) == max(20, len(found_on))


@pytest.mark.parametrize(
    ("names", "found_on", "words"),
    [
        ([], [], "0 examples"),
        (["a"], [], "1 example"),
        (["a", "a"], [], "2 examples, and no other text"),
        (["a", "b"], ["a", "b", "c"], "found on all of the 2 examples"),
    ],
)
def test_none_left_in_a_half(names: list[str], found_on: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        halves(made(names), 0.5, 0, found_on)
    assert error.value.exit_code == 3
    assert "--prompts FILE" in error.value.hint
