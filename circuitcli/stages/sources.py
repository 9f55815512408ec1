"""Where a process has what ablations read: found by content, where it was recorded or wherever else it is told to look.

- Files of a run by sha256: at their path in one of the folders, else anywhere below, whatever they are called there.
- SAEs and a model by what identifies their files: where they were recorded, else anywhere below the folders.
- Those of a hub at their commit, in the hub's cache or from the hub.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from jaxtyping import Int

from circuitcli.core.contexts import Firings, in_order
from circuitcli.core.dictionary import Dictionary
from circuitcli.core.model import Model
from circuitcli.core.sampling import Sample
from circuitcli.core.sites import Site
from circuitcli.errors import NotHere
from circuitcli.runtime import checkpoint, device
from circuitcli.runtime.configuration import CONFIG
from circuitcli.runtime.device import Runtime
from circuitcli.saes import SCHEME, SaeEntry, fitted, load, still_there
from circuitcli.stages.assembly import Baseline
from circuitcli.stages.contents import Chosen, Content, Contents
from circuitcli.stages.passes import Passes
from circuitcli.stages.report import Report, Silent
from circuitcli.store import acts, files, tables

if TYPE_CHECKING:
    from circuitcli.runtime.hub import Hub

T = TypeVar("T")


# Names folders to look in, on a machine that computes for another.
FOLDERS = "CIRCUIT_FOLDERS"


class Sources:
    """What this machine has. What was opened for one task is kept for the next of the same contents."""

    report: Report = Silent()

    def __init__(self, folders: Sequence[Path] = (), device_name: str = "auto") -> None:
        """Nothing is looked for yet.

        Args:
            folders: Where to look, beside where things were recorded.
            device_name: Where to compute.
        """
        self._folders, self._device_name = folders, device_name
        self._opened: Stored | None = None
        self._model: tuple[tuple[str, str, str], Model] | None = None
        self._kept: dict[type, tuple[Any, Any]] = {}

    def baseline(self, contents: Contents) -> Baseline:
        """What ablations start from.

        Raises:
            NotHere: Something isn't here.
        """
        return self.opened(contents).baseline

    def opened(self, contents: Contents) -> Stored:
        """The same, as it was read."""
        if self._opened is None or self._opened.contents != contents:
            if self._opened is not None:
                self._kept.clear()
            self._opened = None
            self._opened = Stored(contents, self)
        return self._opened

    def kept(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` makes of what is here, made once for all that ask with an equal key, one after the other."""
        found = self._kept.get(type(key))
        if found is None or found[0] != key:
            found = None  # nothing holds what was kept while something else is made
            self._kept.pop(type(key), None)
            found = self._kept[type(key)] = (key, make())
        made: T = found[1]
        return made

    @cached_property
    def _hub(self) -> Hub:
        from circuitcli.runtime.hub import Hub

        return Hub()

    def runtime(self, chosen: Chosen) -> Runtime:
        """The device."""
        return device.make(self._device_name, chosen.dtype, None, 0)

    def model(self, chosen: Chosen) -> Model:
        """The model, loaded once.

        Raises:
            NotHere: It isn't here.
        """
        key = (chosen.model, chosen.identity, chosen.dtype)
        if self._model is None or self._model[0] != key:
            if self._model is not None:
                self._model = self._opened = None  # two models may be too much
                self._kept.clear()
            self._model = (key, self._load(chosen))
        return self._model[1]

    def _load(self, chosen: Chosen) -> Model:
        from circuitcli.runtime import model

        beside = (str(path.parent) for path in self._below(CONFIG))
        name = next((n for n in (chosen.model, *beside) if checkpoint.unchanged(n, chosen.identity)), None)
        if name is None:
            raise _missing(f"The model {chosen.model}", chosen.identity)
        found = checkpoint.find(name, chosen.identity, self._hub)
        self._hub.fetch(found.files)
        return model.load(found, self.runtime(chosen))

    def note(self, model: Model, stored: Stored) -> None:
        """Told of a model that was loaded for what is stored."""

    def sae(self, chosen: Chosen, entry: SaeEntry, *, decoder: bool = False) -> Dictionary:
        """An SAE; without `decoder` that stays where its file is mapped.

        Raises:
            NotHere: It isn't here.
        """
        sae = fitted(load(self._there(entry), self._hub), entry, self.model(chosen))
        return sae.to(self.runtime(chosen).device, decoder=decoder)

    def _there(self, entry: SaeEntry) -> SaeEntry:
        """The entry with the paths that its files have here."""
        if still_there(entry):
            return entry
        for weights in self._below(Path(entry.source).name):
            moved = _moved(entry, weights)
            if still_there(moved):
                return moved
        raise _missing(f"The SAE at {entry.at}, {entry.source}", entry.facts.sha256)

    def file(self, content: Content) -> Path:
        """The path of a file here.

        Raises:
            NotHere: It isn't here.
        """
        there = (path for folder in self._folders if (path := folder / content.name).is_file())
        sized = (path for path in self._below("*") if path.stat().st_size == content.bytes)
        named = self._below(Path(content.name).name)  # records of old say no sizes
        for path in chain(there, sized, named):
            if content.bytes in (None, path.stat().st_size) and files.digest(path) == content.sha256:
                return path
        raise _missing(content.name, content.sha256)

    def _below(self, pattern: str) -> Iterator[Path]:
        """Files of such a name anywhere in the folders."""
        for folder in self._folders:
            yield from (path for path in sorted(folder.rglob(pattern)) if path.is_file())


def _moved(entry: SaeEntry, weights: Path) -> SaeEntry:
    """The entry with its weights there, and its other files where they would lie beside them; a hub's stay."""

    def beside(path: str) -> str:
        if path.startswith(SCHEME):
            return path
        return os.path.normpath(weights.parent / os.path.relpath(path, Path(entry.source).parent))

    config = None if entry.config is None else beside(entry.config)
    return replace(entry, source=str(weights), config=config, more=tuple(map(beside, entry.more)))


def on_worker(folders: Sequence[Path], device_name: str) -> Sources:
    """What another machine has, in the coordinator's folders or in those that its own CIRCUIT_FOLDERS names."""
    own = (Path(path) for path in os.environ.get(FOLDERS, "").split(os.pathsep) if path)
    return Sources((*folders, *own), device_name)


class Stored(Passes):
    """Sequences and what fires in them, from files of a run."""

    def __init__(self, contents: Contents, sources: Sources) -> None:
        super().__init__(contents.saes)
        self.contents, self._sources = contents, sources
        self._firings: dict[Site, Firings] = {}

    @cached_property
    def runtime(self) -> Runtime:
        """The device."""
        return self._sources.runtime(self.contents)

    @cached_property
    def model(self) -> Model:
        """The model."""
        model = self._sources.model(self.contents)
        self._sources.note(model, self)
        return model

    def load(self, entry: SaeEntry) -> Dictionary:
        """An SAE."""
        return self._sources.sae(self.contents, entry)

    @cached_property
    def sample(self) -> Sample:
        """The sequences that count."""
        return acts.read_sample(self._sources.file(self.contents.sample)).first(self.contents.sequences)

    def firings(self, site: Site) -> Firings:
        """All that fires at a site in the sequences that count, in order of sequence and position."""
        if site not in self._firings:
            shards = self.contents.firings[site]
            whole = Firings.concat([acts.read_firings(self._sources.file(shard)) for shard in shards])
            whole = whole.where(whole.seq < len(self.sample.lengths))
            self._firings[site] = in_order(whole)
        return self._firings[site]

    @cached_property
    def next_tokens(self) -> Int[np.ndarray, "n t k"] | None:
        """The likeliest next tokens, in a run on prompts."""
        if self.contents.next_tokens is None:
            return None
        table = tables.read(self._sources.file(self.contents.next_tokens), ["seq", "pos", "rank", "token_id"])
        found = np.zeros((*self.sample.tokens.shape, int(table["rank"].max())), np.int64)
        counted = table["seq"] < len(found)
        seq, pos, rank, token = (table[name][counted] for name in ("seq", "pos", "rank", "token_id"))
        found[seq, pos, rank - 1] = token
        return found


def _missing(what: str, digest: str) -> NotHere:
    return NotHere(
        f"{what} isn't here as it was recorded ({digest[:12]}…).",
        hint=f"Put it where it was, or name a folder that holds it, on a worker in {FOLDERS}.",
    )
