"""What identifies the text of a run, which is compared before it is read again."""

from __future__ import annotations

from collections.abc import Callable

from circuitcli.errors import HubError
from circuitcli.stages.sequences import source_of
from circuitcli.stages.stage import Job
from circuitcli.store import acts

_STAGE = "cache-acts"


def text_identity(job: Job, say: Callable[[str], None] = lambda line: None) -> str:
    """What identifies the text; a text that can't be read is refused.

    A dataset whose hub can't be asked is taken to be what it was when this run read it, if its tokens are there.
    """
    source, request = source_of(job.settings)
    try:
        return source.identity(request)
    except HubError:
        known = _identity_then(job)
        if known is None or job.force:
            raise
        say("The hub can't be asked for the dataset: going on with the text that this run has of it.")
        return known


def _identity_then(job: Job) -> str | None:
    """What identified the text when this run's tokens were made, if they were made of the text that is set now."""
    plan = job.run.plan(_STAGE)
    if plan is None or not job.run.path(acts.TOKENS).is_file():
        return None
    same = not job.changes(plan.inputs, ("texts.source", "texts.dataset", "texts.column"))
    return str(plan.inputs["text"]) if same and "text" in plan.inputs else None
