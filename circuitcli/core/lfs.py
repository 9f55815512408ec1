"""Pointers of Git LFS: the few lines that stand for a large file in a clone that was made without it."""

from __future__ import annotations

from circuitcli.errors import InputError

# By its specification a pointer begins so, and is smaller than this many bytes.
_FIRST_LINE, BOUND = b"version https://git-lfs.github.com/spec/v", 1024


def is_pointer(head: bytes) -> bool:
    """Whether a file is a pointer, by its first BOUND bytes."""
    return head.startswith(_FIRST_LINE) and len(head) < BOUND


def pointer(name: str) -> InputError:
    """The error for a pointer."""
    return InputError(
        f"{name} is a pointer of Git LFS, not the file itself.",
        hint="Fetch what it points to: run `git lfs pull` in that clone, or download the file.",
    )
