"""What features are called, as a run keeps it: what was found, and what people wrote.

`graph/labels.json` has the labels that its graph was drawn with, `graph/edits.json` the annotations: labels and groups
that a person wrote on nodes. That file has the name that every version gave it, so that older runs keep theirs.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from circuitcli.core.circuit import Circuit, Node
from circuitcli.core.untrusted import Mismatch, Text, read
from circuitcli.errors import InputError
from circuitcli.runtime.neuronpedia import Explained
from circuitcli.store import circuits, files
from circuitcli.store.run import Run

SAVED = "graph/labels.json"
ANNOTATIONS = "graph/edits.json"
# The source of a graph that is drawn without labels.
NONE = "none"
_MEND = "Mend it, or delete it and load your labels and groups again."


@dataclass(frozen=True)
class Labels:
    """What features are called.

    Attributes:
        source: `neuronpedia`, or the file.
        labels: By feature, `layer.site.index`.
        explained: All that Neuronpedia says of them.
        failure: Why some are missing, if the service failed.
    """

    source: str
    labels: dict[str, str] = field(default_factory=dict)
    explained: dict[str, Explained] = field(default_factory=dict)
    failure: str | None = None

    def put_on(self, circuit: Circuit) -> Circuit:
        """The same circuit with labels on the nodes that have none; a feature at several positions has one."""
        nodes = (replace(node, label=node.label or self.labels.get(feature_of(node))) for node in circuit.nodes)
        return replace(circuit, nodes=tuple(nodes))


def feature_of(node: Node) -> str:
    """`layer.site.index` of the feature that a node is, wherever it is; of others their id."""
    return f"{node.layer}.{node.site}.{node.feature}" if node.kind == "feature" else node.id


def saved(run: Run) -> Labels:
    """The labels that the run's graph was drawn with; none if it wasn't drawn yet, or without.

    Raises:
        InputError: They aren't as they were written.
    """
    record = run.record("graph")
    if record is None or SAVED not in record.files:
        return Labels(NONE)
    path = run.verified("graph", SAVED)
    try:
        labels: Labels = _saved().validate_json(path.read_bytes())
        return labels
    except ValidationError:
        raise InputError(
            f"{path} isn't as this version of circuit writes it.", hint="Run `circuit graph` on this run."
        ) from None


@cache
def _saved() -> Any:
    """Made when labels are first read: it takes milliseconds, and most runs have none."""
    return TypeAdapter(Labels)


@dataclass(frozen=True)
class Annotation:
    """What a person wrote on one node."""

    label: Text | None = None
    group: Text | None = None


Annotations = dict[str, Annotation]


def kept_annotations(run: Run) -> Annotations:
    """What people wrote, as the run keeps it, by the id of the node.

    Raises:
        InputError: It is damaged.
    """
    path = run.path(ANNOTATIONS)
    try:
        if not path.exists():
            return {}
        nodes = json.loads(files.content(path, circuits.MAX_BYTES, hint=_MEND))["nodes"]
        return {name: read(Annotation, value, name) for name, value in nodes.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, Mismatch):
        raise InputError(f"{path} is damaged.", hint=_MEND) from None


def applied(circuit: Circuit, found: Annotations) -> Circuit:
    """The circuit with what people wrote on its nodes; where they wrote no label or group the node keeps its own."""
    nodes = [
        replace(node, label=found[node.id].label or node.label, group=found[node.id].group or node.group)
        if node.id in found
        else node
        for node in circuit.nodes
    ]
    return replace(circuit, nodes=tuple(nodes))


def labelled(run: Run) -> Labels:
    """What the run's features are called: as people wrote it, else as it was found when the graph was drawn."""
    found = saved(run)
    typed = {name: one.label for name, one in kept_annotations(run).items() if one.label}
    return replace(found, labels=found.labels | typed)
