"""What people wrote on nodes: labels and groups of an edited circuit.json, kept in the run (`graph/edits.json`).

Only these are taken from such a file. Numbers always come from the run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from circuitcli.results import labels
from circuitcli.results.extend import require_same
from circuitcli.results.labels import EDITS, Edit, Edits
from circuitcli.stages.stage import Job
from circuitcli.store import circuits, files


def edits(job: Job, edited: Path | None) -> Edits:
    """The edits of a run, by the id of the node: those that it keeps, and over them those of an edited file, if any.

    A node of the file that has neither label nor group has no edits any more; nodes that aren't in it keep theirs.

    Raises:
        InputError: The file is damaged, or its features aren't the run's.
    """
    kept = labels.edits(job.run)
    if edited is None:
        return kept
    path = circuits.locate(edited)
    circuit = circuits.read(path)
    require_same(job.results(), circuit, path, effects=False)
    kept |= {node.id: Edit(node.label or None, node.group or None) for node in circuit.nodes}
    return {name: edit for name, edit in kept.items() if edit != Edit()}


def document(found: Edits) -> dict[str, Any]:
    """As they are kept."""
    return {name: {"label": edit.label, "group": edit.group} for name, edit in sorted(found.items())}


def keep(job: Job, found: Edits) -> None:
    """Write them into the run."""
    path = job.run.path(EDITS)
    if found:
        files.write(path, (json.dumps({"nodes": document(found)}, indent=1) + "\n").encode())
    else:
        path.unlink(missing_ok=True)
