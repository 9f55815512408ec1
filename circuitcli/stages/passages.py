"""The sampled sequences as text, token by token: kept beside the tokens, so that reading a run needs no tokenizer."""

from __future__ import annotations

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
                "text": np.asarray(job.subject.tokenizer.pieces(sample.tokens[seq, :length].tolist()), dtype=object),
            }
            for seq, length in enumerate(sample.lengths.tolist())
        ]
        tables.write(path, acts.TEXTS.removesuffix(".parquet"), parts)
    todo.files[acts.TEXTS] = job.run.entry(path, int(sample.lengths.sum()))
