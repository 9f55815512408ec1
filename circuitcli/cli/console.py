"""The terminal: progress and tables on it, plain text in a pipe, one JSON document with --json.

rich is imported where it draws, so that `circuit --help` stays quick.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from circuitcli.errors import CheckFailed, CircuitError, ResourceError, Stopped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from circuitcli.cli.cut import Focused
    from circuitcli.cli.layout import Column
    from circuitcli.cli.progress import Bars

    Cell = str | Text | Focused


class Terminal:
    """Where a command speaks: data to stdout, the rest to stderr. It is a `stages.report.Report`."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._out = _console(sys.stdout)
        self._err = _console(sys.stderr)
        self._bars: Bars | None = None
        self._words: Callable[[], str] = str

    def say(self, line: str) -> None:
        """One line on stderr; on a terminal as many as it takes."""
        from rich.text import Text

        _print(self._err, Text(printable(line)))

    @contextmanager
    def track(self, what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        """A bar that counts, or a spinner with the time so far, on a terminal only."""
        if self.quiet or not self._err.is_terminal:
            yield lambda done: None
            return
        if self._bars is None:
            from circuitcli.cli.progress import Bars

            self._bars = Bars(self._err, lambda: printable(self._words()))
        with self._bars.track(printable(what), total, unit) as advance:
            yield advance

    @contextmanager
    def beside(self, words: Callable[[], str]) -> Iterator[None]:
        """Words beside what is tracked within it."""
        before, self._words = self._words, words
        try:
            yield
        finally:
            self._words = before

    def table(self, title: str, columns: Sequence[str | Column], rows: Sequence[Sequence[Cell]]) -> None:
        """A table that fits the terminal (see `layout`); in a pipe tab-separated and uncut, its title behind a #."""
        if self.quiet or self.as_json or not rows:
            return
        if self.piped:
            names = [column if isinstance(column, str) else column.name for column in columns]
            sys.stdout.write(f"# {printable(title)}\n")
            for row in (names, *rows):
                sys.stdout.write("\t".join(printable(str(cell)) for cell in row) + "\n")
            sys.stdout.flush()
            return
        from rich.text import Text

        from circuitcli.cli import cut, layout

        width = self._out.width
        shown = [[Text(printable(cell)) if isinstance(cell, str) else cell for cell in row] for row in rows]
        heading = cut.flow(cut.words(Text(printable(title))), width, indent=0)
        for line in (*(Text(part.plain, "bold") for part in heading), *layout.lines(columns, shown, width), Text()):
            self._out.print(line, soft_wrap=True)

    def notes(self, lines: Sequence[str]) -> None:
        """Sentences about the tables that follow: on a terminal on as many lines as they take, in a pipe behind a #."""
        if self.quiet or self.as_json:
            return
        if self.piped:
            sys.stdout.write("".join(f"# {printable(line)}\n" for line in lines))
            sys.stdout.flush()
            return
        from rich.text import Text

        for line in (*lines, ""):
            _print(self._out, Text(printable(line)))

    def line(self, text: str) -> None:
        """One line of data."""
        if not self.as_json:
            sys.stdout.write(f"{printable(text)}\n")
            sys.stdout.flush()

    def document(self, tree: dict[str, Any]) -> None:
        """The JSON document of a command."""
        if self.as_json:
            sys.stdout.write(json.dumps(tree) + "\n")
            sys.stdout.flush()

    @property
    def piped(self) -> bool:
        """Whether stdout is no terminal."""
        return not self._out.is_terminal

    @property
    def styled(self) -> bool:
        """Whether stdout shows colours; where not, tables mark things with characters."""
        return not self.piped and not self._out.no_color


def show_error(error: CircuitError, *, as_json: bool) -> None:
    """What is wrong, and what to do: two lines on stderr, with --json a document on stdout too."""
    if as_json:
        found = error.document if isinstance(error, CheckFailed) else {}
        document = {**found, "error": {"code": error.exit_code, "message": error.message, "hint": error.hint}}
        with suppress(ResourceError):  # where stdout can't be written, the lines that follow are all there is
            sys.stdout.write(json.dumps(document) + "\n")
            sys.stdout.flush()
    from rich.text import Text

    console = _console(sys.stderr)
    first = "" if isinstance(error, Stopped) else "Error: "  # nobody erred
    for style, word, text in (("bold red", first, error.message), ("bold", "Hint: ", error.hint)):
        line = printable(" ".join(text.split()))
        _print(console, Text.assemble((word, style), line))


def _print(console: Console, line: Text) -> None:
    """A line of words, on a terminal broken between them; a path, say, that is wider than it stays in one piece."""
    if not console.is_terminal:
        console.print(line, soft_wrap=True)
        return
    from circuitcli.cli import cut

    for part in cut.flow(cut.words(line), console.width, whole=True):
        console.print(part, soft_wrap=True)


def _console(stream: TextIO) -> Console:
    """A stream for rich, styled on a terminal only, whatever FORCE_COLOR says."""
    from rich.console import Console

    return Console(file=stream, force_terminal=stream.isatty(), highlight=False)


def printable(text: str) -> str:
    """Control characters shown as Python escapes, not sent."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
