"""The sampled sequences as text, token by token."""

from __future__ import annotations

from collections.abc import Collection

from circuitcli.errors import InputError
from circuitcli.results.reader import Reader
from circuitcli.store import acts, tables


def read(reader: Reader, sequences: Collection[int] | None = None) -> dict[int, list[str]]:
    """The texts of all tokens of some sequences, or of all; by the tokenizer where the run was made without them.

    Raises:
        InputError: It was, and the reader has no tokenizer.
    """
    run = reader.run
    if acts.TEXTS not in run.require("cache-acts").files:
        if reader.pieces is None:
            raise InputError(f"{run.root} keeps no text.", hint="Run `circuit cache-acts --force` on this run.")
        sample = acts.read_sample(run.verified("cache-acts", acts.TOKENS))
        there = range(len(sample.lengths))
        wanted = there if sequences is None else set(there).intersection(sequences)
        return {seq: reader.pieces(sample.tokens[seq, : sample.lengths[seq]].tolist()) for seq in wanted}
    path = run.verified("cache-acts", acts.TEXTS)
    table = tables.read(path) if sequences is None else tables.where(path, "seq", sequences)
    found: dict[int, list[str]] = {}
    for seq, text in zip(table["seq"].tolist(), table["text"], strict=True):
        found.setdefault(seq, []).append(text)
    return found
