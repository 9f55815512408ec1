"""The tour: its commands, run in order in one folder, and its output blocks, made from what they say.

    python tests/support/readme.py      # runs the tour, and writes its output into its pages

It begins in the README and goes on in pages of docs/, between the comments `<!-- tour -->` and `<!-- /tour -->`.
A block of output stands behind a comment that says what it shows: `<!-- made: Largest effects 5; ablate: 1 -->` are the
first five rows of the table whose title begins so, and one line on stderr that does. A block that begins with `$ ` runs
that command; one that doesn't shows more of the last one's output. Tables are those of a terminal without colours.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / name for name in ("README.md", "docs/commands.md", "docs/python.md")]
COLUMNS = 118
_TOUR = re.compile(r"^<!-- tour -->$.*?^<!-- /tour -->$", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(
    r"(?:<!-- made: (?P<shown>.*?) -->\n)?^```(?P<kind>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
_STYLE = re.compile("\x1b\\[[0-9;]*m")
MORE = "…"


@dataclass(frozen=True)
class Block:
    """A block of the tour: its language, what it shows, and its lines."""

    kind: str
    shown: str | None
    body: str

    @property
    def commands(self) -> list[str]:
        """What a user would type."""
        if self.kind == "sh":
            return self.body.splitlines()
        return [line[2:] for line in self.body.splitlines() if line.startswith("$ ")]


@dataclass(frozen=True)
class Said:
    """What a command said."""

    out: str
    err: str

    def shows(self, what: str) -> Iterator[str]:
        """The lines of a block that shows this: `Title 3; error line 1`."""
        for part in what.split(";"):
            title, _, count = part.strip().rpartition(" ")
            yield from self._lines(title, int(count))

    def _lines(self, title: str, count: int) -> Iterator[str]:
        lines = [line.rstrip() for line in self.out.splitlines()]
        start = next((i for i, line in enumerate(lines) if line.startswith(title)), None)
        if start is None:
            found = [line for line in self.err.splitlines() if line.startswith(title)]
            assert found, f"Nothing begins with {title!r} in:\n{self.out}\n{self.err}"
            yield from found[:count]
            return
        stop = next((i for i in range(start, len(lines)) if not lines[i]), len(lines))
        yield from lines[start : min(start + 2 + count, stop)]
        if start + 2 + count < stop:
            yield MORE


class Tour:
    """Someone who types the commands of the tour, in one folder, on a terminal without colours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        circuit = folder / "bin" / "circuit"
        circuit.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m circuitcli "$@"\n')
        circuit.chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if key not in ("CIRCUIT_RUN", "FORCE_COLOR")}
        path = f"{circuit.parent}:{Path(sys.executable).parent}:{kept['PATH']}"
        told = {"NO_COLOR": "1", "TERM": "xterm", "COLUMNS": str(COLUMNS), "HF_HUB_OFFLINE": "1"}
        self.environment = {**kept, **told, "PATH": path, "PYTHONPATH": str(ROOT)}

    def type(self, command: str) -> Said:
        """One line; what it exports stays."""
        if exported := re.fullmatch(r"export (\w+)=(\S+)", command.strip()):
            self.environment[exported[1]] = exported[2]
            return Said("", "")
        return self._run(["bash", "-ec", command])

    def script(self, text: str) -> Said:
        """A block of Python."""
        return self._run([sys.executable, "-c", text])

    def _run(self, args: list[str]) -> Said:
        ours, theirs = os.openpty()
        with tempfile.TemporaryFile() as err:
            done = subprocess.Popen(args, cwd=self.folder, env=self.environment, stdout=theirs, stderr=err)
            os.close(theirs)
            out = b"".join(_read(ours))
            os.close(ours)
            code = done.wait()
            err.seek(0)
            said = Said(_STYLE.sub("", out.decode().replace("\r\n", "\n")), err.read().decode())
        assert code == 0, f"{args}: {code}\n{said.out}\n{said.err}"
        return said


def _read(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # nobody has the other end any more
            return
        if not part:
            return
        yield part


def blocks(page: Path) -> list[Block]:
    """The blocks of the tour in a page."""
    parts = _TOUR.findall(page.read_text(encoding="utf-8"))
    assert parts, f"No part of the tour is in {page}"
    return [Block(found["kind"], found["shown"], found["body"]) for part in parts for found in _BLOCK.finditer(part)]


def made(folder: Path, watch: Callable[[Path, Block, str], None]) -> dict[Path, str]:
    """The pages with the tour's output as it is now; `watch` is told of every block and what it should be."""
    tour = Tour(folder)
    said = Said("", "")

    def anew(page: Path, found: re.Match[str]) -> str:
        nonlocal said
        block = Block(found["kind"], found["shown"], found["body"])
        for command in block.commands:
            said = tour.type(command)
        if block.kind == "python":
            tour.script(block.body)
        if block.shown is None:
            return found[0]
        typed = [f"$ {command}" for command in block.commands]
        body = "".join(f"{line}\n" for line in (*typed, *said.shows(block.shown)))
        watch(page, block, body)
        return f"<!-- made: {block.shown} -->\n```{block.kind}\n{body}```"

    def page_anew(page: Path) -> str:
        each = partial(anew, page)
        return _TOUR.sub(lambda part: _BLOCK.sub(each, part[0]), page.read_text(encoding="utf-8"))

    return {page: page_anew(page) for page in PAGES}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        pages = made(Path(scratch), lambda page, block, body: print(body, flush=True))
    for page, text in pages.items():
        page.write_text(text, encoding="utf-8")
