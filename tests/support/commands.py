"""The command line as a test sees it: what it said, its exit code, and what it did to a folder."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The last line of stdout as JSON."""
        return json.loads(self.out.splitlines()[-1])

    def refused(self, code: int, *words: str) -> None:
        """The command ended with two lines on stderr and this code; the two say all of these words."""
        assert self.code == code, (self.code, self.err)
        *before, error, hint = self.err.splitlines()
        assert error.startswith("Error: "), self.err
        assert hint.startswith("Hint: "), self.err
        assert len(error) > 15, self.err
        assert len(hint) > 10, self.err
        assert not [line for line in before if line.startswith(("Error", "Hint", "Traceback"))], self.err
        for word in words:
            assert word in f"{error}\n{hint}", (word, self.err)

    def refused_in_json(self, code: int) -> None:
        """The same two lines lie in a document on stdout."""
        found = self.document["error"]
        *_, error, hint = self.err.splitlines()
        assert set(self.document) == {"error"}
        assert found == {"code": code, "message": found["message"], "hint": found["hint"]}
        assert (f"Error: {found['message']}", f"Hint: {found['hint']}") == (error, hint)


def tsv(out: str) -> list[list[str]]:
    """The rows of tables in a pipe, headers among them, without the lines that are titles."""
    return [line.split("\t") for line in out.splitlines() if not line.startswith("# ")]


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file in a folder by path, and its folders and links; not of the locks."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or path.is_dir():
            found[name] = "link" if path.is_symlink() else "folder"
        elif path.name != ".lock":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def tables_of(run: Path) -> dict[str, str]:
    """sha256 of every table and tensor of a run: what an interruption must not change."""
    return {name: digest for name, digest in contents(run).items() if name.endswith((".parquet", ".safetensors"))}


def environment(**more: str) -> dict[str, str]:
    """What a subprocess runs in: the threads of this process, no hub, no terminal settings, no run.

    Its modules are kept compiled, as those of an installed package are: times are told of it. Its streams are buffered.
    """
    dropped = (
        "CIRCUIT_RUN",
        "FORCE_COLOR",
        "NO_COLOR",
        "COLUMNS",
        "TERM",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONUNBUFFERED",
    )
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2]), **more}


def command(*args: str | Path) -> list[str]:
    """`circuit …` with this Python."""
    return [sys.executable, "-m", "circuitcli", *map(str, args)]


def spawn(*args: str | Path, **more: Any) -> Result:
    """Run a command in a process of its own."""
    more = {"env": environment(), "timeout": 300, **more}
    done = subprocess.run(command(*args), capture_output=True, text=True, check=False, **more)
    return Result(done.returncode, done.stdout, done.stderr)
