"""Answers on disk, in the user's cache folder: one small file each, which appears only when it is whole."""

from __future__ import annotations

import json
import os
import re
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from circuitcli.runtime.neuronpedia.answer import Explained, NoFeature, restore
from circuitcli.runtime.neuronpedia.names import Address

_SCHEMA = 1


class Cache:
    """The answers of one endpoint. A cache that can't be read or written is as good as none."""

    def __init__(self, folder: Path | None, endpoint: str) -> None:
        self._folder = folder and folder / re.sub(r"[^\w.-]", "_", endpoint.partition("://")[2], flags=re.ASCII)

    def get(self, address: Address) -> tuple[bool, Explained | None]:
        """Whether there is an answer, and what it was; None: that there is no such feature."""
        path = self._path(address)
        if path is None:
            return False, None
        try:
            tree = json.loads(path.read_bytes())
            if tree["schema"] != _SCHEMA:
                return False, None
            return True, None if tree["explained"] is None else restore(tree["explained"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError, NoFeature):
            return False, None

    def put(self, address: Address, explained: Explained | None) -> None:
        """Remember an answer; of two processes that do the later one wins, and neither is read half."""
        path = self._path(address)
        if path is None:
            return
        data = json.dumps({"schema": _SCHEMA, "explained": asdict(explained) if explained else None}).encode()
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
            part = Path(name)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)

    def _path(self, address: Address) -> Path | None:
        return self._folder and self._folder / address.model / address.source / f"{address.feature}.json"
