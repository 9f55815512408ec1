"""What a run's graph was made from: the metadata of its circuit."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np

from circuitcli import __version__
from circuitcli.core.metadata import SCHEMA_VERSION, Basis, Metadata, RunFacts
from circuitcli.core.tokens import visible
from circuitcli.results import next_tokens
from circuitcli.results.reader import Reader


def of_run(reader: Reader, stage: str, sizes: np.ndarray, **more: Any) -> RunFacts:
    """A run, by what decided the numbers of a stage.

    Args:
        reader: Of the run.
        stage: Whose numbers they are.
        sizes: |effect| of all that the graph could draw.
        more: Other facts.
    """
    record = reader.run.require(stage)
    return RunFacts(
        run=reader.run.title,
        fingerprint=record.fingerprint,
        created=record.finished,
        release=reader.settings.saes.release,
        num_sequences=reader.run.require("cache-acts").facts["sequences"],
        seed=reader.settings.seed,
        edges_measured=len(sizes),
        abs_effect_measured=float(sizes.sum()),
        **more,
    )


def of_graph(reader: Reader, basis: Basis, made: RunFacts, **more: Any) -> Metadata:
    """Of a graph of one run.

    Args:
        reader: Of the run.
        basis: What features and effects are.
        made: The run.
        more: What was drawn.
    """
    sites = [entry.at for entry in reader.saes]
    return Metadata(
        **vars(basis),
        schema_version=SCHEMA_VERSION,
        release=made.release,
        layers=tuple(sorted({site.layer for site in sites})),
        sites=tuple(sorted({site.name for site in sites})),
        num_sequences=made.num_sequences,
        seed=made.seed,
        edges_measured=made.edges_measured,
        run=made.run,
        runs=(made,),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        version=__version__,
        start=made.start,
        **more,
    )


def answers(reader: Reader) -> tuple[str, ...]:
    """What the model itself says at the end of each prompt, in words; of none, if not all of them were read."""
    found = next_tokens.answers(reader)
    said = tuple(", ".join(f"{visible(t.token, 16)} {t.prob:.1%}" for t in answer.tokens) for answer in found)
    return said if len(said) == len(reader.settings.texts.prompt) else ()
