"""The user's own labels: a csv file with the header feature,label."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from circuitcli.core.sites import Site, parse_pin, resolve_pins
from circuitcli.errors import InputError, UsageError
from circuitcli.store import files

HEADER = ["feature", "label"]
MAX_BYTES = 64 << 20
_LONGEST_CELL = 128 << 10
_NAMED = 5


@dataclass(frozen=True)
class LabelFile:
    """What such a file says: the line, the feature as it is written there, and its label."""

    path: str
    sha256: str
    rows: tuple[tuple[int, str, str], ...]

    def resolve(self, widths: dict[Site, int]) -> tuple[dict[str, str], dict[str, str]]:
        """Labels by feature; and, by their names as written, those of features at no SAE of the run.

        Raises:
            InputError: A name could mean several features, lies outside its SAE, or means one that has a label.
        """
        labels: dict[str, str] = {}
        lines: dict[str, int] = {}
        unknown: dict[str, str] = {}
        for line, name, label in self.rows:
            layer, site, _ = parse_pin(name)
            if not any(at.layer == layer and site in (None, at.name) for at in widths):
                unknown[name] = label
                continue
            try:
                [feature] = map(str, resolve_pins([name], widths, word="feature"))
            except UsageError as error:
                raise InputError(f"{self.path}, line {line}: {error.message}", hint=error.hint) from None
            if feature in labels:
                raise _malformed(self.path, line, f"{feature} has a label already, in line {lines[feature]}")
            labels[feature], lines[feature] = label, line
        return labels, unknown


def read_labels(path: str) -> LabelFile:
    """The labels in a file. Lines without a label, and empty ones, say nothing.

    Raises:
        InputError: It can't be read, isn't UTF-8, too large, or malformed; which line says so.
    """
    data = _bytes(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}, line {line}: it is not UTF-8.", hint="Save it as UTF-8.") from None
    rows = list(_rows(path, text))
    return LabelFile(path, hashlib.sha256(data).hexdigest(), tuple(rows))


def _bytes(path: str) -> bytes:
    hint = "--labels takes the path of a csv file, neuronpedia, or none."
    data = files.content(Path(path), MAX_BYTES, what="The labels", hint=hint)
    if len(data) > MAX_BYTES:
        raise InputError(f"{path} has more than {MAX_BYTES >> 20} MiB.", hint="Leave features out of it.")
    return data


def _rows(path: str, text: str) -> Iterator[tuple[int, str, str]]:
    csv.field_size_limit(_LONGEST_CELL)  # one for all readers of a process: each that reads says its own
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    begun = False
    line = 1
    try:
        for cells in reader:
            if not begun and [cell.strip().lower() for cell in cells] != HEADER:
                raise _malformed(path, line, "the header isn't feature,label")
            if begun and cells:
                yield from _row(path, line, cells)
            begun, line = True, reader.line_num + 1
    except csv.Error as error:
        raise _malformed(path, line, str(error)) from None
    if not begun:
        raise _malformed(path, 1, "it is empty")


def _row(path: str, line: int, cells: list[str]) -> Iterator[tuple[int, str, str]]:
    if len(cells) != len(HEADER):
        raise _malformed(path, line, f"it has {len(cells)} cells, not 2")
    name, label = (cell.strip() for cell in cells)
    try:
        parse_pin(name)
    except UsageError as error:
        raise InputError(f"{path}, line {line}: {error.message}", hint=error.hint) from None
    if label:
        yield line, name, label


def _malformed(path: str, line: int, what: str) -> InputError:
    return InputError(
        f"{path}, line {line}: {what}.",
        hint='A header feature,label, then a feature and its label a line: 4:112,"a label, with a comma, in quotes".',
    )


def some(names: Sequence[str]) -> str:
    """The first few of them, and how many more there are."""
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
