"""Extending graphs: the earlier ones that a run's graph goes on from (`graph.extend`)."""

from __future__ import annotations

import os
from pathlib import Path

from circuitcli import interventions
from circuitcli.core.circuit import Circuit
from circuitcli.core.merge import merge, require_mean_effects, require_same_effects, require_same_features
from circuitcli.core.metadata import Basis, SaeFacts
from circuitcli.errors import InputError, UsageError, quoted
from circuitcli.results.reader import Reader
from circuitcli.store import circuits, files


def basis(reader: Reader) -> Basis:
    """What the run's features are features of, and how their effects are measured."""
    settings = reader.settings.ablate
    taken = interventions.options(settings.intervention, settings)
    return Basis(
        model=reader.settings.model,
        model_identity=reader.run.require("fetch-saes").inputs["model identity"],
        saes=tuple(SaeFacts(*e.at, e.source, e.facts.sha256, e.facts.neuronpedia) for e in reader.saes),
        intervention=settings.intervention,
        strength=settings.strength if "strength" in taken else None,
        positions=settings.positions,
        horizon=settings.horizon,
    )


def require_same(reader: Reader, circuit: Circuit, path: Path, *, effects: bool) -> None:
    """Refuse a file whose features, or also whose effects, aren't the run's.

    Raises:
        InputError: Of another model, or of another SAE at a site; or measured in another way.
    """
    own = basis(reader)
    try:
        require_same_features(circuit.metadata, own)
        if effects:
            require_mean_effects(circuit.metadata)
            require_same_effects(circuit.metadata, own)
    except InputError as error:
        hint = f"{error.hint} {_drop(reader)}" if effects else error.hint
        raise InputError(f"{path} doesn't go with {reader.run.root}. {error.message}", hint=hint) from None


def read(reader: Reader) -> dict[Path, Circuit]:
    """The graphs that the run's own goes on from by their files, in the order in which they were named.

    Raises:
        InputError: One is missing or damaged.
        UsageError: One is the run's own graph.
    """
    found = {}
    for path in _paths(reader):
        try:
            found[path] = circuits.read(path)
        except InputError as error:
            raise InputError(error.message, hint=f"{error.hint} {_drop(reader)}") from None
    return found


def earlier(reader: Reader) -> list[Circuit]:
    """The same, once they were found to be of the run's features, and measured as it measures.

    Raises:
        InputError: One is missing or damaged, or of another model or SAE than the run has recorded, or measured in
            another way.
        UsageError: One is the run's own graph.
    """
    found = read(reader)
    for path, circuit in found.items():
        require_same(reader, circuit, path, effects=True)
    return list(found.values())


def digests(reader: Reader) -> list[str]:
    """sha256 of each."""
    return [files.digest(path) for path in _paths(reader)]


def extended(first: list[Circuit], circuit: Circuit) -> Circuit:
    """The earlier circuits, if any, with one more added."""
    whole: Circuit | None = None
    for part in (*first, circuit):
        whole = part if whole is None else merge(whole, part)
    return whole or circuit


def _drop(reader: Reader) -> str:
    """How a run's graph goes on without earlier ones, which its settings keep."""
    return f"To go on without: `circuit graph --run {quoted(reader.run.root)} --extend none`."


def _paths(reader: Reader) -> list[Path]:
    gone = next((name for name in reader.settings.graph.extend if not os.path.exists(name)), None)
    if gone is not None:
        raise InputError(
            f"The graph to extend isn't there: {gone}.",
            hint=f"Say where it is with --extend. {_drop(reader)}",
        )
    paths = [circuits.locate(Path(name)) for name in reader.settings.graph.extend]
    own = reader.run.path(circuits.CIRCUIT).resolve()
    if own in (path.resolve() for path in paths):
        raise UsageError(
            f"{reader.run.root} can't extend its own graph.", hint="Name an earlier run's circuit.json with --extend."
        )
    return paths
