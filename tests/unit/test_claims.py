"""Claims: one process at a time, those of the dead taken over once, nobody's work lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from circuitcli.errors import InputError
from circuitcli.store import claims
from circuitcli.store.claims import Claims
from circuitcli.store.holder import Holder


def held_by(path: Path, seconds_ago: float = 0.0, **other: object) -> Holder:
    """A claim of somebody else's, renewed so long ago."""
    holder = replace(Holder.me(), **other)
    path.write_text(json.dumps(asdict(holder)))
    os.utime(path, (time.time() - seconds_ago,) * 2)
    return holder


def test_one_alone_has_a_claim_as_long_as_it_works(tmp_path: Path) -> None:
    ours, theirs = Claims(tmp_path), Claims(tmp_path)
    with ours.taken("a") as mine, theirs.taken("a") as also, theirs.taken("b") as another:
        assert (mine, also, another) == (True, False, True)
        assert ours.alive().keys() == {"a", "b"}
    assert not ours.alive()
    with theirs.taken("a") as mine:
        assert mine


def test_a_claim_goes_when_its_work_fails(tmp_path: Path) -> None:
    ours = Claims(tmp_path)
    with pytest.raises(ZeroDivisionError), ours.taken("a"):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_the_claim_of_a_process_that_has_ended_is_taken_over(tmp_path: Path) -> None:
    held_by(tmp_path / "a", born="another")
    ours = Claims(tmp_path)
    assert not ours.alive()
    with ours.taken("a") as mine:
        assert mine


@pytest.mark.parametrize(("seconds", "taken"), [(5.0, False), (100.0, True)])
def test_another_machines_stands_while_it_is_renewed(tmp_path: Path, seconds: float, taken: bool) -> None:
    held_by(tmp_path / "a", seconds, host="elsewhere", pid=1)
    ours = Claims(tmp_path)
    assert bool(ours.alive()) != taken
    with ours.taken("a") as mine:
        assert mine == taken


@pytest.mark.parametrize(("seconds", "taken"), [(5.0, False), (100.0, True)])
def test_one_that_names_nobody_is_being_written(tmp_path: Path, seconds: float, taken: bool) -> None:
    (tmp_path / "a").write_bytes(b"")
    os.utime(tmp_path / "a", (time.time() - seconds,) * 2)
    with Claims(tmp_path).taken("a") as mine:
        assert mine == taken


def test_it_is_renewed(tmp_path: Path) -> None:
    ours = Claims(tmp_path, patience=0.3)
    with ours.taken("a") as mine:
        assert mine
        time.sleep(1.0)
        assert time.time() - (tmp_path / "a").stat().st_mtime < 0.3
        held = json.loads((tmp_path / "a").read_text())
        (tmp_path / "a").write_text(json.dumps(held | {"host": "elsewhere"}))  # somebody took it over
    assert (tmp_path / "a").exists(), "it isn't ours to give up"


def count(folder: Path, rounds: int) -> None:
    ours = Claims(folder)
    for _ in range(rounds):
        with ours.alone("counting"):
            number = int((folder / ".number").read_text())
            time.sleep(0.001)
            (folder / ".number").write_text(str(number + 1))


def test_processes_that_race_never_work_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_POLL_SECONDS", 0.002)
    (tmp_path / ".number").write_text("0")
    held_by(tmp_path / "counting", born="another")
    several = [multiprocessing.get_context("fork").Process(target=count, args=(tmp_path, 40)) for _ in range(4)]
    for process in several:
        process.start()
    for process in several:
        process.join(60)
        assert process.exitcode == 0
    assert int((tmp_path / ".number").read_text()) == 160


def test_a_folder_that_cant_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(InputError, match="can't be written") as error:
        Claims(tmp_path / "a" / "claims")
    assert "all processes may write" in error.value.hint


def test_all_are_swept(tmp_path: Path) -> None:
    folder = tmp_path / "claims"
    Claims(folder)
    held_by(folder / "a", born="another")
    for _ in range(2):
        claims.sweep(folder)
        assert not folder.exists()


def take(folder: Path, number: int, ready: Any, found: Any) -> None:
    ours = Claims(folder)
    for name in map(str, range(number)):
        ready.wait()
        with ours.taken(name) as mine:
            found.put((name, mine))
            ready.wait()


def test_of_many_that_meet_at_a_dead_claim_one_has_it(tmp_path: Path) -> None:
    spawning, number, count = multiprocessing.get_context("fork"), 60, 4
    for name in range(number):
        held_by(tmp_path / str(name), born="another")
    ready, found = spawning.Barrier(count, timeout=60), spawning.Queue()
    several = [spawning.Process(target=take, args=(tmp_path, number, ready, found)) for _ in range(count)]
    for process in several:
        process.start()
    said = [found.get(timeout=60) for _ in range(number * count)]
    for process in several:
        process.join(60)
    had = [name for name, mine in said if mine]
    assert len(had) == len(set(had)), "by one at a time"
    assert len(had) > number / 2, "and mostly at once"
