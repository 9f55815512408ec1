"""What people wrote on nodes: labels and groups of an edited circuit.json, kept in the run (`graph/edits.json`).

Only these are taken from such a file. Numbers always come from the run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from circuitcli.results import labels
from circuitcli.results.extend import require_same
from circuitcli.results.labels import ANNOTATIONS, Annotation, Annotations
from circuitcli.stages.stage import Job
from circuitcli.store import circuits, files


def of_run(job: Job, edited: Path | None) -> Annotations:
    """What was written on nodes, by their ids: what the run keeps, and over it what an edited file has, if any.

    A node of the file that has neither label nor group has no annotation any more; nodes that aren't in it keep theirs.

    Raises:
        InputError: The file is damaged, or its features aren't the run's.
    """
    kept = labels.kept_annotations(job.run)
    if edited is None:
        return kept
    path = circuits.locate(edited)
    circuit = circuits.read(path)
    require_same(job.results(), circuit, path, effects=False)
    kept |= {node.id: Annotation(node.label or None, node.group or None) for node in circuit.nodes}
    return {name: one for name, one in kept.items() if one != Annotation()}


def document(found: Annotations) -> dict[str, Any]:
    """As they are kept."""
    return {name: {"label": one.label, "group": one.group} for name, one in sorted(found.items())}


def keep(job: Job, found: Annotations) -> None:
    """Write them into the run."""
    path = job.run.path(ANNOTATIONS)
    if found:
        files.write(path, (json.dumps({"nodes": document(found)}, indent=1) + "\n").encode())
    else:
        path.unlink(missing_ok=True)
