"""What people wrote on nodes: labels and groups of an edited circuit.json, kept in the run (`graph/edits.json`).

Only these are taken from such a file. Numbers always come from the run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from circuitcli.core.circuit import Circuit
from circuitcli.core.strict import Mismatch, read
from circuitcli.errors import InputError
from circuitcli.stages.growth import require_same
from circuitcli.stages.stage import Job
from circuitcli.store import circuits, files

EDITS = "graph/edits.json"
_MEND = "Mend it, or delete it and load your edits again."


@dataclass(frozen=True)
class Edit:
    """What a person wrote on one node."""

    label: str | None = None
    group: str | None = None


Edits = dict[str, Edit]


def edits(job: Job, edited: Path | None) -> Edits:
    """The edits of a run, by the id of the node: those that it keeps, and over them those of an edited file, if any.

    A node of the file that has neither label nor group has no edits any more; nodes that aren't in it keep theirs.

    Raises:
        InputError: The file is damaged, or its features aren't the run's.
    """
    kept = _kept(job)
    if edited is None:
        return kept
    path = circuits.locate(edited)
    circuit = circuits.read(path)
    require_same(job, circuit, path, effects=False)
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


def applied(circuit: Circuit, found: Edits) -> Circuit:
    """The circuit with what people wrote on its nodes; an edit without a label, or a group, leaves the node's own."""
    nodes = [
        replace(node, label=found[node.id].label or node.label, group=found[node.id].group or node.group)
        if node.id in found
        else node
        for node in circuit.nodes
    ]
    return replace(circuit, nodes=tuple(nodes))


def _kept(job: Job) -> Edits:
    path = job.run.path(EDITS)
    try:
        if not path.exists():
            return {}
        nodes = json.loads(files.content(path, circuits.MAX_BYTES, hint=_MEND))["nodes"]
        return {name: read(Edit, value, name) for name, value in nodes.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, Mismatch):
        raise InputError(f"{path} is damaged.", hint=_MEND) from None
