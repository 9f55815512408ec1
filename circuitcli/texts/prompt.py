"""Texts typed on the command line."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

from circuitcli.texts import TextRequest, _columns


class Prompt:
    """Each prompt is one text."""

    def identity(self, request: TextRequest) -> str:
        """sha256 of the prompts."""
        for text in request.values:
            _columns.check(text, "A prompt")
        return hashlib.sha256(json.dumps({"whole": request.values}).encode()).hexdigest()

    def documents(self, request: TextRequest) -> Iterator[str]:
        """The prompts."""
        return (text for text in request.values if text.strip())


plugin = Prompt()
