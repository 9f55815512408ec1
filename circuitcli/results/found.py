"""The features that a run's validation judged as a circuit of nodes alone: what measuring found, or what was named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from circuitcli.core.circuit import Circuit
from circuitcli.results import extend, metadata
from circuitcli.results.nodes import described
from circuitcli.results.reader import Reader
from circuitcli.results.validation import Validated
from circuitcli.store import validations

# `metadata.positions` of features that are kept, or replaced, wherever they are.
_POSITIONS = "all"


def build(reader: Reader) -> Circuit:
    """The circuit, with its validation; its prompts are the examples that had a part in finding it.

    Raises:
        InputError: The validate stage isn't done.
    """
    validated, record = Validated(reader), reader.run.require(validations.STAGE)
    features = sorted(validated.features, key=lambda one: one.order)
    nodes = (replace(node, run=reader.run.title, created=record.finished) for node in described(reader, features))
    basis = extend.basis(reader)
    about = metadata.of_graph(
        reader,
        replace(basis, intervention=validated.record.baseline, strength=None, positions=_POSITIONS, horizon=0),
        metadata.of_run(reader, validations.STAGE, np.zeros(0), start=str(record.facts.get("circuit", ""))),
        min_effect=0.0,
        share_drawn=0.0,
        prompts=tuple(dict.fromkeys(one.name for one in validated.told if one.half == "discovery")),
    )
    return validated.put_on(Circuit(about, tuple(nodes), ()))
