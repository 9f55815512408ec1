"""One process at a time in a run: who waits for whom, and what happens where a file system has no locks."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from circuitcli.errors import InputError
from circuitcli.store import lock
from circuitcli.store.lock import HOLDER, LOCK, Holder
from circuitcli.store.run import Run

WITHOUT = [errno.ENOLCK, errno.EOPNOTSUPP, errno.EIO, errno.ENOSYS]


def refusing(number: int) -> Callable[[int, int], None]:
    """flock of a file system that has no locks."""

    def flock(handle: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


def quiet(line: str) -> None:
    raise AssertionError(f"nobody is to be waited for: {line}")


def a_dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def held(folder: Path, **changes: object) -> Path:
    """The file of another holder."""
    path = folder / HOLDER
    path.write_text(json.dumps(asdict(replace(Holder.me(), **changes))))
    return path


@pytest.mark.parametrize("number", WITHOUT, ids=errno.errorcode.get)
def test_a_file_system_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The run is held all the same, by name, and nothing of it stays."""
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    (tmp_path / "settings.toml").touch()
    with Run(tmp_path).locked(quiet):
        found = json.loads((tmp_path / HOLDER).read_text())
        assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
    assert not (tmp_path / HOLDER).exists()


def test_other_failures_of_a_lock_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EBADF))
    with pytest.raises(OSError, match="Bad file"), Run(tmp_path).locked(quiet):
        pass


def test_a_lock_file_of_before_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It stays behind every run, and goes with its folder to file systems without locks."""
    (tmp_path / LOCK).write_text("12345 elsewhere")
    (tmp_path / "settings.toml").touch()
    with Run(tmp_path).locked(quiet):
        pass
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    with Run(tmp_path).locked(quiet):
        pass


@pytest.mark.parametrize("gone", ["ended", "another's number"])
def test_a_process_that_has_ended_holds_nothing(gone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    if gone == "ended":
        held(tmp_path, pid=a_dead_process())
    else:
        held(tmp_path, born="1")
    with Run(tmp_path).locked(quiet):
        assert json.loads((tmp_path / HOLDER).read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("words", ["", "{", "[1]", '{"host": "h", "pid": "1", "born": "", "since": ""}', "elsewhere"])
def test_whom_nobody_here_can_ask_after_is_named(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Refused, and not waited for: whether a process of another machine runs can't be known here."""
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    monkeypatch.setattr(lock, "_UNWRITTEN_SECONDS", 0.5)
    path = held(tmp_path, host="elsewhere", pid=77)
    if words != "elsewhere":
        path.write_text(words)
    with pytest.raises(InputError) as error, Run(tmp_path).locked(quiet):
        pass
    assert str(path) in error.value.hint
    assert ("process 77 on elsewhere" if words == "elsewhere" else "isn't named") in error.value.message
    assert path.exists()


def test_a_living_holder_is_waited_for_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    path, lines = held(tmp_path), []
    threading.Timer(1, path.unlink).start()
    started = time.monotonic()
    with Run(tmp_path).locked(lines.append):
        assert time.monotonic() - started >= 0.9
    assert len(lines) == 1
    assert f"process {os.getpid()} on {socket.gethostname()}" in lines[0]


def test_who_holds_the_kernels_lock_is_named(tmp_path: Path):
    code = (
        "import sys, time; from pathlib import Path; from circuitcli.store.run import Run\n"
        "with Run(Path(sys.argv[1])).locked(print): print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        process.kill()  # which says nothing any more, and the kernel frees what it held

    with Run(tmp_path).locked(say):
        assert f"process {process.pid} on {socket.gethostname()}" in lines[0]
    process.wait()
    process.stdout.close()


def test_two_of_them_never_work_at_once_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    code = (
        "import errno, fcntl, os, sys, time; from pathlib import Path; from circuitcli.store.run import Run\n"
        "def flock(*args): raise OSError(errno.ENOLCK, '')\n"
        "fcntl.flock = flock; inside = Path(sys.argv[1], 'inside')\n"
        "for _ in range(5):\n"
        "    with Run(Path(sys.argv[1])).locked(lambda line: None):\n"
        "        inside.touch(exist_ok=False); time.sleep(0.02); inside.unlink()"
    )
    (tmp_path / "settings.toml").touch()
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
