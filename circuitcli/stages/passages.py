"""The sampled sequences as text, token by token: kept beside the tokens, so that reading a run needs no tokenizer."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from circuitcli.core.sampling import Sample
from circuitcli.stages.stage import Job, Work
from circuitcli.store import acts, tables


def keep(job: Job, todo: Work, sample: Sample) -> None:
    """Write what each token of the sample adds to the text, once."""
    path = job.run.path(acts.TEXTS)
    if not todo.found(acts.TEXTS):
        parts = [
            {
                "seq": np.full(length, seq, np.int32),
                "pos": np.arange(length, dtype=np.int32),
                "text": np.asarray(job.tokenizer.pieces(sample.tokens[seq, :length].tolist()), dtype=object),
            }
            for seq, length in enumerate(sample.lengths.tolist())
        ]
        tables.write(path, acts.TEXTS.removesuffix(".parquet"), parts)
    todo.files[acts.TEXTS] = job.run.entry(path, int(sample.lengths.sum()))


def read(job: Job, sequences: Collection[int] | None = None) -> dict[int, list[str]]:
    """The texts of all tokens of some sequences, or of all; by the tokenizer where the run was made without them."""
    if acts.TEXTS not in job.run.require("cache-acts").files:
        sample = acts.read_sample(job.run.verified("cache-acts", acts.TOKENS))
        there = range(len(sample.lengths))
        wanted = there if sequences is None else set(there).intersection(sequences)
        return {seq: job.tokenizer.pieces(sample.tokens[seq, : sample.lengths[seq]].tolist()) for seq in wanted}
    path = job.run.verified("cache-acts", acts.TEXTS)
    table = tables.read(path) if sequences is None else tables.where(path, "seq", sequences)
    found: dict[int, list[str]] = {}
    for seq, text in zip(table["seq"].tolist(), table["text"], strict=True):
        found.setdefault(seq, []).append(text)
    return found
