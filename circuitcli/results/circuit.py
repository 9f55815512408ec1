"""The circuit of a run: its largest effects, and the features that they join."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from circuitcli.core import rows
from circuitcli.core.circuit import Circuit, Edge, share_drawn
from circuitcli.core.metadata import Metadata
from circuitcli.core.sites import parse_feature
from circuitcli.results import answer, carried, edges, extend, labels, metadata, nodes
from circuitcli.results.drawn import drawn_of
from circuitcli.results.reader import Reader
from circuitcli.store import reduced


def build(reader: Reader, earlier: list[Circuit]) -> Circuit:
    """The circuit of a run's plan: its largest effects, and the features at their ends; added to earlier circuits.

    Of an edge that an earlier one has, the run's own measurement is taken as well, however small it is.
    """
    table = rows.pick(reader.table(reduced.EFFECTS), reader.in_plan(reduced.EFFECTS))
    measured = np.abs(table["effect_mean"], dtype=np.float64)
    drawn = [
        edge
        for edge in edges.largest(table, reader.settings.graph.max_edges)
        if abs(edge.effect_mean) >= reader.settings.graph.min_effect and edge.effect_mean != 0
    ]
    known = {(edge.source, edge.target) for edge in drawn}
    wanted = {(edge.source, edge.target) for circuit in earlier for edge in circuit.edges} - known
    drawn += edges.between(table, wanted)
    run, created = reader.measured
    drawn = [replace(edge, run=run, created=created) for edge in drawn]
    features = sorted({parse_feature(name) for e in drawn for name in (e.source, e.target)}, key=lambda f: f.order)
    own = Circuit(_metadata(reader, drawn, measured), tuple(nodes.nodes(reader, features)), tuple(drawn))
    return extend.extended(earlier, own)


def of_run(reader: Reader) -> Circuit:
    """The circuit as it was last drawn, with what people wrote on it and the labels that were found for it then."""
    if drawn_of(reader.settings, reader.run) == "attribution":
        found = answer.build(reader)
    else:
        found = build(reader, extend.earlier(reader))
    found = carried.carried(reader, found)
    return labels.saved(reader.run).put_on(labels.applied(found, labels.kept_annotations(reader.run)))


def _metadata(reader: Reader, drawn: Sequence[Edge], measured: np.ndarray) -> Metadata:
    """Of one run."""
    settings, start = reader.settings, str(reader.run.require("ablate").facts.get("start", ""))
    made = metadata.of_run(reader, "ablate", measured, start=start)
    return metadata.of_graph(
        reader,
        extend.basis(reader),
        made,
        min_effect=settings.graph.min_effect,
        share_drawn=share_drawn(drawn, made.abs_effect_measured),
        prompts=settings.texts.prompt if settings.texts.source == "prompt" else (),
        answers=metadata.answers(reader),
    )
