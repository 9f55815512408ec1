"""Whether a run's circuit was validated, and a circuit that carries what was found; quick where none was."""

from __future__ import annotations

from circuitcli.core.circuit import Circuit
from circuitcli.results.reader import Reader
from circuitcli.store import circuits
from circuitcli.store.records import Record

STAGE = "validate"


def done(reader: Reader) -> str | None:
    """What identifies the run's validation; None if it hasn't one."""
    record: Record | None = reader.run.record(STAGE)
    return None if record is None else record.result


def carried(reader: Reader, circuit: Circuit) -> Circuit:
    """A circuit with the run's validation, if the run has one of just its features; else as it is."""
    if done(reader) is None:
        return circuit
    from circuitcli.results.validation import Validated  # most runs have none

    return Validated(reader).put_on(circuit)


def undrawn(reader: Reader) -> bool:
    """Whether the run's circuit.json has just the features that were validated, and not yet what was found of them.

    Raises:
        InputError: It can't be read.
    """
    path = reader.run.path(circuits.CIRCUIT)
    if not path.is_file():
        return False
    drawn = circuits.read(path)
    return carried(reader, drawn) != drawn
