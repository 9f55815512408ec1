"""`circuit fetch-saes`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from circuitcli.cli.console import Terminal

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job

HELP = "Find, check and record the SAEs of a run."


def show(job: Job, terminal: Terminal) -> None:
    """The SAEs of the run."""
    from circuitcli.stages.fetch_saes import entries_of

    rows = [
        (str(e.at), e.architecture, str(e.d_in), str(e.d_sae), "yes" if e.prepend_bos else "no", e.source)
        for e in entries_of(job.run)
    ]
    terminal.table("SAEs", ("site", "architecture", "d_in", "d_sae", "BOS", "source"), rows)
