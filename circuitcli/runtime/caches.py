"""Where this tool remembers what it could find again: folders in the user's cache."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path


def user_cache(name: str) -> Path | None:
    """A folder of the user's cache; None for a user without a home, such as a container's that has only a number."""
    try:
        return user_cache_path("circuitcli", appauthor=False) / name
    except RuntimeError:  # newer versions say so; older ones gave a folder that is called `~`
        return None
