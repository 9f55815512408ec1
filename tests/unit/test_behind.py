"""Files written behind: few at once, all by the end, and what goes wrong is told."""

import os
import stat
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from circuitcli.store import files
from circuitcli.store.behind import THREADS, Behind


def test_all_is_written_by_the_end_and_few_are_held(tmp_path: Path) -> None:
    held, most, alone = 0, 0, threading.Lock()

    def write(number: int) -> None:
        time.sleep(0.01 * (number % 3))
        files.write(tmp_path / f"{number}", bytes([number]))
        nonlocal held
        with alone:
            held -= 1

    with Behind() as behind:
        for number in range(20):
            with alone:
                held += 1
                most = max(most, held)
            behind(partial(write, number))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {str(n): bytes([n]) for n in range(20)}
    assert 1 < most <= THREADS + 1  # one waits for its turn


def test_writing_does_not_wait_for_writing() -> None:
    together = threading.Barrier(THREADS, timeout=20)
    with Behind() as behind:
        for _ in range(THREADS):
            behind(lambda: together.wait() and None)


@pytest.mark.parametrize("others", [0, 3 * THREADS])
def test_what_goes_wrong_is_raised(others: int) -> None:
    def fail() -> None:
        raise OSError("no room")

    def work() -> None:
        with Behind() as behind:
            behind(fail)
            for _ in range(others):
                behind(lambda: None)

    with pytest.raises(OSError, match="no room"):
        work()


def test_what_goes_wrong_beside_it_is_raised_once_writing_has_ended(tmp_path: Path) -> None:
    def slow() -> None:
        time.sleep(0.2)
        files.write(tmp_path / "late", b"there")

    def stopped() -> None:
        with Behind() as behind:
            behind(slow)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert (tmp_path / "late").read_bytes() == b"there"


def test_files_and_folders_of_many_threads_have_the_permissions_that_the_process_gives(tmp_path: Path) -> None:
    """To ask for the umask is to set it."""
    before = os.umask(0o027)
    try:
        with Behind() as behind:
            for number in range(600):
                behind(partial(files.write, tmp_path / f"{number}" / "one", b""))
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*")} == {0o750}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("*/one")} == {0o640}
