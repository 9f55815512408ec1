"""How a dictionary is read: as its files state it, or with one thing changed.

Of a cross-layer transcoder all dictionaries are changed alike, and each is judged where it writes first, together with
what the others say there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.sites import Site
from circuitcli.core.surroundings import Make, Surroundings


@dataclass(frozen=True)
class Change:
    """One thing that may be wrong with how a dictionary is read.

    Attributes:
        name: What it is called in tables and documents.
        words: The end of the sentence “it would fit better …”.
        make: The dictionary read so, or None where that is nothing new.
        flips_bos: Whether the text gets BOS, or loses it.
        moves: Whether it is read in another layer; what would be in none goes.
        fits: Whether a skip connection is then fitted to what it lacks; see `core.left_out`.
        unheard: Whether the model makes the same of what is written so, and the next token says nothing.
    """

    name: str
    words: str
    make: Make
    flips_bos: bool = False
    moves: bool = False
    fits: bool = False
    unheard: bool = False


@dataclass(frozen=True)
class Reading:
    """How dictionaries are read by one change, each in its own surroundings."""

    change: Change
    around: Callable[[Dictionary], Surroundings]

    def __call__(self, stated: Dictionary) -> Dictionary | None:
        """One of them, so read; None if it is in no layer then."""
        made = self.change.make(stated, self.around(stated))
        return stated if made is None and not self.change.moves else made

    def new(self, judged: Dictionary, others: tuple[Dictionary, ...]) -> bool:
        """Whether the change makes sense for one that is judged with others."""
        if self.change.make(judged, self.around(judged)) is not None:
            return True
        return not self.change.moves and any(self.change.make(o, self.around(o)) is not None for o in others)


def as_stated(sae: Dictionary) -> Dictionary | None:
    """As its files state it."""
    return sae


@dataclass(frozen=True, eq=False)
class Variant:
    """A dictionary as stated, or with one change: read otherwise, at another site, or on text with BOS flipped.

    Attributes:
        name, words: Of the change.
        stated: The dictionary that is judged.
        others: Those that write where it writes first: of a cross-layer transcoder those of earlier layers.
        reading: What each of them becomes. It is asked each time, so that no weights that differ are kept.
        flips_bos: Whether the text gets BOS, or loses it.
        lacking: The variant to whose error a skip connection is fitted; None: nothing is fitted.
        unheard: Whether the next token says nothing of the change.
    """

    name: str
    words: str
    stated: Dictionary
    others: tuple[Dictionary, ...] = ()
    reading: Callable[[Dictionary], Dictionary | None] = as_stated
    flips_bos: bool = False
    lacking: Variant | None = None
    unheard: bool = False

    @property
    def sae(self) -> Dictionary:
        """The dictionary that is judged, so read."""
        found = self.reading(self.stated)
        assert found is not None, "a change that moves it out of the model makes no variant"
        return found

    @cached_property
    def _at(self) -> tuple[Site, Site]:
        sae = self.sae
        return sae.reads, sae.writes

    @property
    def reads(self) -> Site:
        """Where it reads."""
        return self._at[0]

    @property
    def writes(self) -> Site:
        """Where it is judged."""
        return self._at[1]

    @property
    def across(self) -> bool:
        """Whether it is of a cross-layer transcoder."""
        return bool(self.others or self.stated.further)

    @property
    def missing(self) -> list[int]:
        """Layers before its own whose dictionaries write here too, and aren't among the others."""
        here = {one.writes.layer for one in self.others}
        return [layer for layer in range(self.stated.writes.layer) if layer not in here] if self.across else []

    @property
    def kind(self) -> str:
        """What such a dictionary is called."""
        return "cross-layer transcoder" if self.across else "transcoder" if self.stated.elsewhere else "SAE"

    def beside(self) -> Iterator[tuple[Dictionary, Dictionary]]:
        """The others as stated and so read, one at a time, as far as they write here."""
        for stated in self.others:
            read = self.reading(stated)
            if read is not None and self.writes in read.written:
                yield stated, read
