"""The tour: every command works, in order, in one folder, and says what its pages say."""

import re
from pathlib import Path

import pytest
from support import readme

# Numbers differ in their last digits between machines, and what is counted doesn't.
WITHIN = 0.02


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_tour_says_what_it_says(tmp_path: Path) -> None:
    wrong: list[str] = []

    def watch(page: Path, block: readme.Block, body: str) -> None:
        wrong.extend(f"{page.name}: {line}" for line in differences(block.body, body))

    readme.made(tmp_path, watch)
    assert not wrong, "\n".join([*wrong, "To write them anew: python tests/support/readme.py"])


def test_every_block_of_output_is_made() -> None:
    """None is typed: what shows output says of what."""
    tour = {page: readme.blocks(page) for page in readme.PAGES}
    assert len([block for found in tour.values() for block in found if block.shown]) >= 7
    for page, found in tour.items():
        for block in found:
            assert block.shown or block.kind in ("sh", "python"), f"{page.name}: {block.body}"


def test_every_page_with_a_part_of_the_tour_is_run() -> None:
    pages = [readme.ROOT / "README.md", *sorted((readme.ROOT / "docs").glob("*.md"))]
    assert {page for page in pages if "<!-- made: " in page.read_text(encoding="utf-8")} <= set(readme.PAGES)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("a.b  -10.85  [-11.9, -9.9]  40", "a.b   -10.86  [-11.91, -9.9] 40", True),
        ("a.b  -10.85  40", "a.b  -11.85  40", False),
        ("a.b  40", "a.c  40", False),
        ("a.b  77.8%", "a.b  77.9%", True),
        ("a.b  77.8%", "a.b  17.9%", False),
        ("a 1", "a 1\nb 2", False),
        ("1.resid_post.109 1", "1.resid_post.110 1", False),
        ("n 40", "n 41", False),
    ],
)
def test_what_counts_as_the_same(first: str, second: str, same: bool) -> None:
    assert (not differences(first, second)) == same


def differences(first: str, second: str) -> list[str]:
    """Lines that differ in more than the last digits of their numbers."""
    before, after = first.splitlines(), second.splitlines()
    lines = [
        f"there: {a}\nnow:   {b}"
        for a, b in zip(before, after, strict=False)
        if len(a.split()) != len(b.split()) or not all(map(_same, a.split(), b.split()))
    ]
    return (
        lines if len(before) == len(after) else [*lines, f"there are {len(before)} lines, now {len(after)}:\n{second}"]
    )


def _same(first: str, second: str) -> bool:
    if first == second:
        return True
    one, other = (re.fullmatch(r"([\[(]?)([+-]?\d+\.\d+)(%?[\]),]*)", word) for word in (first, second))
    if one is None or other is None or (one[1], one[3]) != (other[1], other[3]):
        return False
    a, b = float(one[2]), float(other[2])
    return abs(a - b) <= max(WITHIN * max(abs(a), abs(b)), 0.02)
