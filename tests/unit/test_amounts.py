"""Numbers of things in sentences: as English has them, made at one place."""

import re
from pathlib import Path

import pytest

import circuitcli
from circuitcli.core.words import amount, duration, quantity

PACKAGE = Path(circuitcli.__file__).parent
# A number in a sentence with a plural behind it that it may not go with.
BARE = re.compile(r"\{[^{}]*\} (?:sequences|ablations|features|contexts|edges|nodes|cards|rounds|others|prompts)\b")
# These are rates and more than one, or are that of which others are a part.
PLURAL = (
    " ablations/s",
    "{now.l0:.0f} features fire",
    "of {len(prompts):,} prompts",
    "of the {len(firing):,} features",
    "its SAE of {widths[sites[0]]} features",
)


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 edges"), (1, "1 edge"), (2, "2 edges"), (2000, "2,000 edges")], ids=str
)
def test_one_is_singular(count: int, words: str) -> None:
    assert amount(count, "edge") == words


def test_a_plural_of_its_own() -> None:
    assert [amount(n, "entry", "entries") for n in (1, 2)] == ["1 entry", "2 entries"]


def test_sentences_count_by_it() -> None:
    found = {
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in PACKAGE.rglob("*.py")
        if "demo" not in path.parts
        for line in path.read_text().splitlines()
        if BARE.search(line) and not any(known in line for known in PLURAL)
    }
    assert not found


@pytest.mark.parametrize(
    ("count", "words"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 * 2**20, "5.0 MiB"), (2**30, "1.0 GiB")]
)
def test_quantities(count: int, words: str) -> None:
    assert quantity(count) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "0 s"), (119.0, "119 s"), (180.0, "3 min"), (9000.0, "2.5 h")])
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words
