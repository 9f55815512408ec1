"""Texts typed on the command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence


class Prompt:
    """Each prompt is one text."""

    def identity(self, value: Sequence[str]) -> str:
        """sha256 of the prompts."""
        return hashlib.sha256(json.dumps(list(value)).encode()).hexdigest()

    def documents(self, value: Sequence[str]) -> Iterator[str]:
        """The prompts."""
        return iter(value)


plugin = Prompt()
