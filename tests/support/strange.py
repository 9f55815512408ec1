"""Files and values that nobody means, to be refused in words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from circuitcli.errors import InputError

NASTY: list[Any] = [
    "", " ", "\0", "\ud800", "a\nb", "x" * 100_000, 0, -1, 1.5, 1e308, float("nan"), float("inf"), 2**63, 10**400, True,
    False, [], {}, [[]], {"": None}, ["\ud800"], {"\0": 1},
]  # fmt: skip


def nested(depth: int) -> Any:
    made: Any = 1
    for _ in range(depth):
        made = [made]
    return made


def said_by(action: Callable[[], object]) -> str:
    """What is said where it is refused; anything but a refusal is raised."""
    try:
        action()
    except InputError as error:
        return error.message + error.hint
    return ""


def pointer(path: Path) -> None:
    """What Git leaves in the place of a large file."""
    path.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 300123\n")


def folder(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def safetensors(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data
