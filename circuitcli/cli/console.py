"""The terminal: progress and tables on it, plain text in a pipe, one JSON document with --json."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from circuitcli.errors import CircuitError

Cell = str | Text


class Terminal:
    """Where a command speaks: data to stdout, the rest to stderr. It is a `stages.report.Report`."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._out = Console(highlight=False)
        self._err = Console(stderr=True, highlight=False)

    def say(self, line: str) -> None:
        """One line on stderr."""
        self._err.print(Text(line), soft_wrap=True)

    @contextmanager
    def track(self, what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """A bar with counts, rate and time left, on a terminal only."""
        if self.quiet or not self._err.is_terminal:
            yield lambda done: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        rate = TextColumn("{task.fields[rate]}")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        with Progress(*columns, console=self._err, transient=True) as progress:
            task = progress.add_task(what, total=total or None, rate=unit)

            def advance(done: int) -> None:
                progress.advance(task, done)
                speed = progress.tasks[0].speed
                progress.update(task, rate=f"{speed:.3g} {unit}/s" if speed else unit)

            yield advance

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table; tab-separated and uncut in a pipe."""
        if self.quiet or self.as_json or not rows:
            return
        if not self._out.is_terminal:
            for row in (columns, *rows):
                sys.stdout.write("\t".join(str(cell) for cell in row) + "\n")
            sys.stdout.flush()
            return
        drawn = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for column in columns:
            drawn.add_column(column, overflow="ellipsis", no_wrap=True)
        for row in rows:
            drawn.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
        self._out.print(drawn)
        self._out.print()

    def line(self, text: str) -> None:
        """One line of data."""
        if not self.as_json:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()

    def document(self, tree: dict[str, Any]) -> None:
        """The JSON document of a command."""
        if self.as_json:
            sys.stdout.write(json.dumps(tree, ensure_ascii=False) + "\n")
            sys.stdout.flush()

    @property
    def styled(self) -> bool:
        """Whether stdout shows colours; where not, tables mark things with characters."""
        return self._out.is_terminal and not self._out.no_color


def show_error(error: CircuitError, *, as_json: bool) -> None:
    """What is wrong, and what to do: two lines on stderr, with --json a document on stdout too."""
    if as_json:
        document = {"error": {"code": error.exit_code, "message": error.message, "hint": error.hint}}
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    console = Console(stderr=True, highlight=False)
    for style, word, text in (("bold red", "Error", error.message), ("bold", "Hint", error.hint)):
        line = " ".join(_printable(text).split())
        console.print(Text.assemble((f"{word}: ", style), line), soft_wrap=True)


def _printable(text: str) -> str:
    """Control characters shown, not sent."""
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
