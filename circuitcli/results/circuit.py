"""The circuit of a run: its largest effects, and the features that they join."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from circuitcli import __version__
from circuitcli.core import rows
from circuitcli.core.circuit import Circuit, Edge, share_drawn
from circuitcli.core.metadata import SCHEMA_VERSION, Metadata, RunFacts
from circuitcli.core.sites import parse_feature
from circuitcli.core.tokens import visible
from circuitcli.results import edges, extend, labels, next_tokens, nodes
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
    found = labels.applied(build(reader, extend.earlier(reader)), labels.kept_annotations(reader.run))
    return labels.saved(reader.run).put_on(found)


def _metadata(reader: Reader, drawn: Sequence[Edge], measured: np.ndarray) -> Metadata:
    """Of one run."""
    settings, sites = reader.settings, [entry.at for entry in reader.saes]
    record, (name, finished) = reader.run.require("ablate"), reader.measured
    made = RunFacts(
        run=name,
        fingerprint=record.fingerprint,
        created=finished,
        release=settings.saes.release,
        num_sequences=reader.run.require("cache-acts").facts["sequences"],
        seed=settings.seed,
        edges_measured=len(measured),
        abs_effect_measured=float(measured.sum()),
        start=str(record.facts.get("start", "")),
    )
    return Metadata(
        **vars(extend.basis(reader)),
        schema_version=SCHEMA_VERSION,
        release=made.release,
        layers=tuple(sorted({site.layer for site in sites})),
        sites=tuple(sorted({site.name for site in sites})),
        num_sequences=made.num_sequences,
        seed=made.seed,
        min_effect=settings.graph.min_effect,
        edges_measured=made.edges_measured,
        share_drawn=share_drawn(drawn, made.abs_effect_measured),
        run=name,
        runs=(made,),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        version=__version__,
        start=made.start,
        prompts=settings.texts.prompt if settings.texts.source == "prompt" else (),
        answers=_answers(reader),
    )


def _answers(reader: Reader) -> tuple[str, ...]:
    """What the model itself says at the end of each prompt, in words; of none, if not all of them were read."""
    answers = next_tokens.answers(reader)
    said = tuple(", ".join(f"{visible(t.token, 16)} {t.prob:.1%}" for t in answer.tokens) for answer in answers)
    return said if len(said) == len(reader.settings.texts.prompt) else ()
