"""Circuits on disk: reading back what `circuit graph --format json` wrote, and what people made of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NoReturn

from circuitcli.core import document
from circuitcli.core.circuit import Circuit
from circuitcli.errors import InputError, quoted
from circuitcli.store import files

CIRCUIT = "graph/circuit.json"
MAX_BYTES = 512 * 2**20  # 20,000 edges take 10 MB


def locate(path: Path) -> Path:
    """The file of a circuit: that of a run folder, else the path itself.

    Raises:
        InputError: There is none.
    """
    if not os.path.isdir(path):  # also of what is no path at all
        return path
    found = path / CIRCUIT
    if not found.is_file():
        raise InputError(
            f"{path} has no {CIRCUIT}.",
            hint=f"Draw it: `circuit graph --run {quoted(path)} --format json --format svg`.",
        )
    return found


def read(path: Path) -> Circuit:
    """The circuit in a file.

    Raises:
        InputError: It can't be read, is too large, damaged, or of another version.
    """
    tree = _json(_text(path), str(path))
    return document.parse(tree, str(path))


def _text(path: Path) -> str:
    data = files.content(path, MAX_BYTES, hint="Name a circuit.json, or a run.")
    if len(data) > MAX_BYTES:
        raise InputError(
            f"{path} has more than {MAX_BYTES >> 20} MiB: too large for a circuit.json.",
            hint="Draw fewer edges: a smaller --max-edges.",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise document.damaged(str(path), "it is not UTF-8") from None


def _json(text: str, name: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):  # not JSON, a number beyond all bounds, or nested without end
        raise document.damaged(name, "it is not JSON") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)
