"""Validations on disk: what the metric m of each example is where the model keeps some features alone, or lacks some.

`validation.parquet` has a row for each m that was measured:

    half      discovery or evaluation: which part of the examples it is of
    example   its number in examples.json
    curve     what chose the features: circuit, exact, atp, activation, random, neurons, dimensions; "" of all or none
              of the dictionaries' features, which no curve chooses
    draw      which draw of random; 0 of others
    errors    what of the dictionaries' errors stays: kept, sites, removed
    part      circuit (C alone is kept), complement (all but C), without (C but one node), alone (one node), nothing,
              everything
    n         features in C
    node      of without and alone: which node, by its number in nodes.parquet; else −1
    m         in the unit of the example

`nodes.parquet` has what each curve chooses, the highest rank first.

`joint.parquet` has the positions of the run's sample at which a token's probability changes most where the whole
circuit is ablated, the largest change first: `base` and `altered` are that probability, `next_id` is the token that
really follows, −1 where none does.

Where features are audited, `audit.parquet` has a row for each of them and each example: `m` of the whole model,
`without` of all but that feature, `alone` of that feature alone, errors kept; at how many of the positions that count
it `fires`, and the sum of its `activation` there. `ranks.parquet` has its rank by |mean effect| on some random halves
of all examples, among `n` features whose effect was measured, and that mean effect, `exact`: `draw` 1 and 2 are both
halves of one cut, 3 and 4 of the next, and so on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from circuitcli.core.untrusted import Mismatch, Text, read
from circuitcli.errors import InputError
from circuitcli.store import files, tables
from circuitcli.store.records import FileEntry
from circuitcli.store.run import Run

STAGE = "validate"
EXAMPLES = "validation/examples.json"
MEASURED = "validation/validation.parquet"
NODES = "validation/nodes.parquet"
JOINT = "validation/joint.parquet"
AUDIT = "validation/audit.parquet"
RANKS = "validation/ranks.parquet"
FILES = (EXAMPLES, MEASURED, NODES)


@dataclass(frozen=True)
class Example:
    """One example, as it is told.

    Attributes:
        name: What it is called: its prompt, or its question.
        half: discovery or evaluation.
        sequences: The tokens of each sequence that was read; of choices one a choice, the right one first.
        unit: Of m: nats or logits.
    """

    name: Text
    half: Text
    sequences: tuple[tuple[Text, ...], ...]
    unit: Text


def write(
    run: Run, told: Sequence[Example], measured: Iterable[tables.Columns], nodes: list[tables.Columns]
) -> dict[str, FileEntry]:
    """Write the files of a validation; of each table its parts, one after another.

    Columns of a part are arrays, or one value for all its rows.

    Returns:
        What the stage's record says of the files.
    """
    path = run.path(EXAMPLES)
    text = json.dumps([asdict(example) for example in told], indent=1)  # ASCII: a token may be half a character
    files.write(path, f"{text}\n".encode())
    return {EXAMPLES: run.entry(path), **_written(run, {MEASURED: measured, NODES: nodes})}


def write_joint(run: Run, columns: tables.Columns) -> FileEntry:
    """Write what ablating the whole circuit changes most; returns what the stage's record says of the file."""
    return _written(run, {JOINT: [columns]})[JOINT]


def write_audit(run: Run, audit: Iterable[tables.Columns], ranks: list[tables.Columns]) -> dict[str, FileEntry]:
    """Write what was measured of audited features, and their ranks.

    Returns:
        What the stage's record says of the files.
    """
    return _written(run, {AUDIT: audit, RANKS: ranks})


def _written(run: Run, found: Mapping[str, Iterable[tables.Columns]]) -> dict[str, FileEntry]:
    """Tables by name, each of its parts."""
    entries = {}
    for name, parts in found.items():
        path = run.path(name)
        entries[name] = run.entry(path, tables.write(path, name.removesuffix(".parquet"), parts))
    return entries


def examples(run: Run) -> list[Example]:
    """What m was measured on, in order.

    Raises:
        InputError: The validate stage isn't done, or the file isn't as it was written.
    """
    path = run.verified(STAGE, EXAMPLES)
    try:
        return [read(Example, one, f"[{i}]") for i, one in enumerate(json.loads(path.read_bytes()))]
    except (ValueError, TypeError, RecursionError, Mismatch) as error:
        raise InputError(
            f"{path} isn't as this version of circuit writes it: {error}.",
            hint="Run `circuit validate --force` on this run.",
        ) from None
