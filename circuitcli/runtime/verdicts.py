"""What was found of a model that was compared with plain transformers, kept in the user's cache by its content."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from contextlib import suppress
from pathlib import Path

from circuitcli.runtime.caches import user_cache
from circuitcli.runtime.device import Runtime

LIBRARIES = ("torch", "transformer_lens", "transformers")


class Verdicts:
    """The verdict on one content at these versions, on this kind of device, in this dtype."""

    def __init__(self, content: str | None, runtime: Runtime) -> None:
        """With `content` None nothing is remembered."""
        versions = [importlib.metadata.version(library) for library in LIBRARIES]
        key = json.dumps([content, versions, _readers(), runtime.device.type, str(runtime.dtype)])
        name = f"{hashlib.sha256(key.encode()).hexdigest()}.json"
        folder = user_cache("models")
        self._path: Path | None = folder / name if folder and content is not None else None

    def read(self) -> str | None:
        """Why whole sequences are computed again, empty if they aren't; None where the model wasn't tried."""
        if self._path is None:
            return None
        try:
            found = json.loads(self._path.read_bytes())["whole_because"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if isinstance(found, str) else None

    def write(self, whole_because: str) -> None:
        """Keep it, if the cache can be written."""
        if self._path is None or self._path.exists():
            return
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            aside = self._path.with_suffix(f".{os.getpid()}")
            aside.write_text(json.dumps({"whole_because": whole_because}))
            aside.replace(self._path)


def _readers() -> str:
    """What identifies the code that reads models: a verdict is on what it does."""
    return code(Path(__file__).parents[1])


def code(package: Path) -> str:
    """sha256 over all of `runtime` and `core`, in which all that loading a model imports lies: none is forgotten."""
    digest = hashlib.sha256()
    for folder in ("core", "runtime"):
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(package).as_posix()}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
