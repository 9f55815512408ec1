"""Dictionaries that would say twice what one site holds, of which reconstructions and errors can't be told apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from circuitcli.core.sites import Site
from circuitcli.errors import InputError
from circuitcli.results.dictionaries import entries_of
from circuitcli.saes import SaeEntry
from circuitcli.store.run import Run


def check(run: Run) -> None:
    """Refuse a run in which an SAE and a transcoder, or two transcoders of one layer, reconstruct one site.

    The dictionaries of a cross-layer transcoder say together what a site holds: only the first that each writes is its
    own.

    Raises:
        InputError: There are such two.
    """
    found = clash(entries_of(run))
    if found is not None:
        first, second, site = found
        raise InputError(
            f"The {_word(first)} at {first.at} and the {_word(second)} at {second.at} both reconstruct {site}: what is "
            "left of it as its error would be counted twice.",
            hint="Choose one of the two with --site in a run of its own. To ablate them side by side is fine.",
        )


def clash(entries: Sequence[SaeEntry]) -> tuple[SaeEntry, SaeEntry, Site] | None:
    """The first two that do, and the site."""
    for first, second in combinations(entries, 2):
        for site in first.written:
            same_kind = first.facts.elsewhere == second.facts.elsewhere
            if site in second.written and (not same_kind or first.written[0] == second.written[0]):
                return first, second, site
    return None


def _word(entry: SaeEntry) -> str:
    return "transcoder" if entry.facts.elsewhere else "SAE"
