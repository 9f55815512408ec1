"""From the document of circuit.json back to a circuit; nothing in it is trusted.

`renderers/circuit.schema.json` says the same to other tools. What a schema can't say is checked here: that ids are
unique, that edges join nodes that are there, that the parts of a context are as long as each other.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import FailFast

from circuitcli.core.attributed import KINDS, Calibration
from circuitcli.core.circuit import Circuit, Edge, Node
from circuitcli.core.evidence.thresholds import CircuitTest
from circuitcli.core.evidence.validated import Validation
from circuitcli.core.metadata import SCHEMA_VERSION, Metadata
from circuitcli.core.sites import parse_written
from circuitcli.core.untrusted import Mismatch, read
from circuitcli.errors import InputError

# Lists as long as these are still made without trouble.
MAX_LAYER, MAX_POS = 2**15 - 1, 2**20 - 1


@dataclass(frozen=True)
class _Document:
    metadata: Metadata
    nodes: Annotated[tuple[Node, ...], FailFast()]
    edges: Annotated[tuple[Edge, ...], FailFast()]
    calibration: Annotated[tuple[Calibration, ...], FailFast()] = ()
    validation: Validation | None = None
    test: CircuitTest | None = None


def parse(tree: Any, name: str) -> Circuit:
    """The circuit of a document that JSON was read into.

    Args:
        tree: What was read.
        name: Where from, for messages.

    Raises:
        InputError: It is damaged, or of another version.
    """
    _require_version(tree, name)
    try:
        found = read(_Document, tree, "circuit")
    except Mismatch as error:
        raise damaged(name, f"{error.place.removeprefix('circuit.')} {error.wanted}") from None
    circuit = Circuit(found.metadata, found.nodes, found.edges, found.calibration, found.validation, found.test)
    _check_joints(circuit, name)
    _check_writes(circuit, name)
    _check_attribution(circuit, name)
    return circuit


def damaged(name: str, what: str) -> InputError:
    """A document that isn't a circuit, and the first thing that is wrong with it."""
    return InputError(f"{name} is no circuit.json: {what}.", hint="Draw it again with `circuit graph --format json`.")


def _require_version(tree: Any, name: str) -> None:
    metadata = tree.get("metadata") if isinstance(tree, dict) else None
    if not isinstance(metadata, dict):
        raise damaged(name, "it has no metadata")
    version = metadata.get("schema_version")
    if type(version) is not int or version != SCHEMA_VERSION:
        said = "has no schema version" if version is None else f"has schema version {str(version)[:20]}"
        raise InputError(
            f"{name} {said}; this circuit reads version {SCHEMA_VERSION}.",
            hint="It was made by another version of circuit: draw it again with `circuit graph --format json`.",
        )


def _check_attribution(circuit: Circuit, name: str) -> None:
    """Of a circuit of a prompt every node says what it does there, and no node of another."""
    asked = circuit.metadata.attribution is not None
    if circuit.calibration and not asked:
        raise damaged(name, "it has a calibration, and no attribution")
    for node in circuit.nodes:
        if (node.attribution is not None) != asked:
            raise damaged(name, f"{node.id} {'lacks an attribution' if asked else 'has an attribution'}")
        if asked and node.kind not in KINDS:
            raise damaged(name, f"{node.id} is of a kind that isn't known")


def _check_writes(circuit: Circuit, name: str) -> None:
    """What a feature writes are sites, each once and in the model's order, none before the layer that it reads."""
    for node in circuit.nodes:
        written = [parse_written(text) for text in node.writes]
        known = [site for site in written if site is not None and node.layer <= site.layer <= MAX_LAYER]
        order = [site.order for site in known]
        if len(known) < len(written) or order != sorted(set(order)):
            raise damaged(name, f"what {node.id} writes aren't sites behind it, in the model's order")
        if written and node.kind != "feature":
            raise damaged(name, f"{node.id} is no feature, and writes")


def _check_joints(circuit: Circuit, name: str) -> None:
    ids = Counter(node.id for node in circuit.nodes)
    pairs = Counter((edge.source, edge.target) for edge in circuit.edges)
    for what, counted in (("node", ids), ("edge", pairs)):
        twice = next((key for key, count in counted.items() if count > 1), None)
        if twice is not None:
            raise damaged(name, f"the {what} {twice if what == 'node' else ' → '.join(twice)} is there twice")
    loose = next((end for pair in pairs for end in pair if end not in ids), None)
    if loose is not None:
        raise damaged(name, f"an edge ends at {loose}, which is no node")
    for node in circuit.nodes:
        for context in node.contexts:
            if len(context.tokens) != len(context.activations) or not 0 <= context.firing < len(context.tokens):
                raise damaged(name, f"a context of {node.id} has parts of different lengths")
        if min(node.layer, node.feature, node.n, node.pos or 0) < 0:
            raise damaged(name, f"{node.id} has a negative number where there can't be one")
        if node.layer > MAX_LAYER or (node.pos or 0) > MAX_POS:
            raise damaged(name, f"{node.id} is at a layer or position that no model has")
