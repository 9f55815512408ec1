"""What a stage says of itself: plan.json before it works, stage.json when it is done."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from circuitcli.errors import InputError
from circuitcli.store import files

SCHEMA_VERSION = 1

# Facts that earlier versions called otherwise: an old run's records say them by today's names.
_RENAMED = {"silent_share": "dead_share"}

R = TypeVar("R", "Plan", "Record")


@dataclass(frozen=True)
class FileEntry:
    """One file of a stage: its sha256, for tables and shards its rows, and its size (older records have none)."""

    sha256: str
    rows: int | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Plan:
    """What a stage set out to do.

    Attributes:
        shards: By the path of each file that it may write, what the file holds.
        reopened: The stage that was worked on again after this one was done, whose record it took back; else empty.
    """

    fingerprint: str
    inputs: dict[str, Any]
    batch_size: int
    threads: int
    shards: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    reopened: str = ""


@dataclass(frozen=True)
class Record:
    """What a stage did.

    Attributes:
        fingerprint: Hash of `inputs`.
        inputs: What decided the numbers.
        choice: What decided which of them were computed; no part of the fingerprint.
        files: Its files, by path in the run folder.
        facts: What the stage reports, for tables and --json.
        versions: Of this package and of the libraries that computed.
        device: Where it ran.
        seconds: How long it took.
        finished: When it was done, UTC.
    """

    fingerprint: str
    inputs: dict[str, Any]
    choice: dict[str, Any]
    files: dict[str, FileEntry]
    facts: dict[str, Any]
    versions: dict[str, str]
    device: str
    seconds: float
    schema_version: int = SCHEMA_VERSION
    finished: str = ""

    @property
    def result(self) -> str:
        """Identifies the numbers that later stages read: fingerprint and choice."""
        return fingerprint({"fingerprint": self.fingerprint, **self.choice})


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """sha256 over what decides the numbers, and the schema version."""
    text = json.dumps({"schema": SCHEMA_VERSION, **inputs}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(_utf8(text)).hexdigest()


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The names of the inputs that differ, each with its old and new value."""
    return [
        f"{name} ({_short(old.get(name))} → {_short(new.get(name))})"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def _short(value: Any) -> str:
    if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value):
        return value[:8]
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:19]}…{text[-20:]}"


def save(path: Path, record: Plan | Record) -> None:
    """Write a plan or record as JSON."""
    files.write(path, _utf8(json.dumps(vars(record), indent=1, ensure_ascii=False, default=asdict) + "\n"))


def _utf8(text: str) -> bytes:
    """JSON in UTF-8. Half a character (a lone surrogate), which UTF-8 can't hold, becomes JSON's escape for it."""
    return text.encode(errors="backslashreplace")


def load_plan(path: Path) -> Plan | None:
    """The plan at a path, if there is one."""
    return _load(path, Plan)


def load_record(path: Path) -> Record | None:
    """The record at a path, if there is one."""
    return _load(path, Record)


_CHECKS: dict[type, TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (Plan, Record)}


def _load(path: Path, kind: type[R]) -> R | None:
    try:
        tree = json.loads(path.read_bytes())
        if tree.get("schema_version") != SCHEMA_VERSION:
            raise InputError(
                f"{path} has schema version {tree.get('schema_version')}, not {SCHEMA_VERSION}.",
                hint="It was made by another version of circuit: make a new run.",
            )
        if kind is Record:
            tree["facts"] = {_RENAMED.get(name, name): value for name, value in tree["facts"].items()}
        found: R = _CHECKS[kind].validate_python(tree)
        return found
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, KeyError):
        raise InputError(f"{path} is corrupt.", hint="Delete it and run its stage again, or make a new run.") from None
