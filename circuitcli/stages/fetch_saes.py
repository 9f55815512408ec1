"""fetch-saes: find, fetch, check and record the SAEs of a run, and fetch its model."""

from __future__ import annotations

import json
from collections.abc import Sequence

from circuitcli.core.sites import resolve_pins
from circuitcli.results.dictionaries import SAES, entries_of
from circuitcli.runtime.checkpoint import unchanged
from circuitcli.saes import Offer, SaeEntry, offers, still_there
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.stages.subject import chosen
from circuitcli.store import files

NAME = "fetch-saes"


def run(job: Job) -> Outcome:
    """Record the SAEs that the settings choose, once each was read and found fit for the model.

    What comes from a hub is fetched here, all of it: the model as well, so that later stages need no network.
    """
    recorded = _unchanged(job)
    if recorded is not None:
        _check_pins(job, entries_of(job.run))
        return stage(job, NAME, recorded, lambda todo: None)
    subject = chosen(job, job.run, force=job.force)
    _check_pins(job, subject.entries)
    hashes = {str(entry.at): entry.facts.sha256 for entry in subject.entries}
    facts = {"model identity": subject.checkpoint.identity(), "saes": hashes}

    def work(todo: Work) -> None:
        path, tree = job.run.path(SAES), {"saes": [entry.document() for entry in subject.entries]}
        todo.expect({SAES: None})
        files.write(path, (json.dumps(tree, indent=1) + "\n").encode())
        todo.files[SAES] = job.run.entry(path, len(hashes))
        todo.facts.update(model=subject.checkpoint.name, release=job.settings.saes.release, saes=list(hashes))

    return stage(job, NAME, facts, work)


def _check_pins(job: Job, entries: Sequence[SaeEntry]) -> None:
    resolve_pins(job.settings.features.pinned, {entry.at: entry.facts.d_sae for entry in entries})


def _unchanged(job: Job) -> dict[str, str | dict[str, str]] | None:
    """What the run recorded of its model and SAEs, if that is what the settings choose, and still there; else None.

    Files of this machine are hashed. A commit of a hub doesn't change: what was fetched from there is checked when it
    is loaded. So neither the model nor a hub is asked, and no library of theirs is imported.
    """
    record = None if job.force else job.run.record(NAME)
    if record is None or not job.run.path(SAES).is_file():
        return None
    decides = job.stages[NAME].decides
    settings = job.chosen(decides)
    if job.changes(record.inputs, decides):
        return None
    model = record.inputs["model identity"]
    if not unchanged(job.settings.model, model) or not all(map(still_there, entries_of(job.run))):
        return None
    return {key: value for key, value in record.inputs.items() if key not in settings}


def known_releases() -> list[Offer]:
    """Every release that can be listed."""
    return offers()
