"""The unit of work of doctor: how dictionaries that are judged together fit, as a value that any process computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from circuitcli.core.fit import Fit
from circuitcli.core.sites import Site
from circuitcli.stages.assembly import Say, unsaid
from circuitcli.stages.contents import Chosen
from circuitcli.stages.fit import Passage, examined
from circuitcli.stages.sources import Sources


def _uncounted(done: int) -> None:
    pass


@dataclass(frozen=True, eq=False)
class FitTask:
    """How some dictionaries fit, by all changes and with the next token measured for each of them.

    Attributes:
        chosen: The model and all dictionaries.
        sites: That those read which are judged.
        passage: On what.
        threads: Of torch, which decide the last bits.
    """

    chosen: Chosen
    sites: tuple[Site, ...]
    passage: Passage
    threads: int

    def __len__(self) -> int:
        return len(self.sites)

    def compute(self, sources: Sources, *, done: Callable[[int], None] = _uncounted, say: Say = unsaid) -> list[Fit]:
        """Of each; of several the decoders stay in their files, but for rows that fire.

        Raises:
            InputError: Something isn't there.
        """
        sources.runtime(self.chosen).with_plan(batch_size=0, threads=self.threads)
        entries = [entry for site in self.sites for entry in self.chosen.saes if entry.at == site]
        saes = [sources.sae(self.chosen, entry, decoder=len(entries) == 1) for entry in entries]
        found = examined(sources.model(self.chosen), saes, self.passage, sources.report, full=True)
        done(len(self))
        return found

    def halves(self) -> tuple[FitTask, ...]:
        """None: they are judged together."""
        return ()

    def joined(self, results: Sequence[list[Fit]]) -> list[Fit]:
        """All."""
        return [fit for found in results for fit in found]
