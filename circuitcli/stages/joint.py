"""The whole circuit ablated over the run's sample, as sparse_circuit_discovery's validation did: what then changes most
of the next token. A sequence is done after the other, and of all only the largest changes are held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.evidence import examples
from circuitcli.core.evidence.joint import Changes, ablating, changes
from circuitcli.core.evidence.keeping import Instead
from circuitcli.core.sites import Site
from circuitcli.stages.inputs import Inputs
from circuitcli.store.tables import Columns

MOST = 100  # changes that are kept
Replacing = Callable[[int, examples.Sequence], Mapping[Site, Instead]]


def zero(seq: int, sequence: examples.Sequence) -> Mapping[Site, Instead]:
    """Replaces features by 0."""
    return {}


def joint(
    inputs: Inputs,
    dictionaries: Sequence[Dictionary],
    circuit: Mapping[Site, Int[Tensor, " n"]],
    instead: Replacing = zero,
    most: int = MOST,
    sequences: Sequence[int] | None = None,
) -> Columns:
    """The columns of validation/joint.parquet: positions of the sample at which a token's probability changes most.

    Args:
        inputs: Of the run: its model and its sample.
        dictionaries: Its dictionaries, with their decoders where the model is.
        circuit: Features, by the site that their dictionary reads.
        instead: What features become in a sequence of the sample, by the same; its number is given, and its tokens.
        most: How many positions are kept, the largest change first.
        sequences: Of the sample; None: all.
    """
    sample, model = inputs.passes.sample, inputs.passes.model
    found: Changes | None = None
    numbers = range(len(sample.lengths)) if sequences is None else sequences
    with inputs.job.report.track("Ablating the circuit over text", len(numbers), "sequences") as done:
        for seq in numbers:
            length = int(sample.lengths[seq])
            tokens = torch.as_tensor(sample.tokens[seq, :length], device=model.device).long()
            counts = torch.as_tensor(sample.counted[seq, :length], device=model.device)
            if counts.any():
                sequence = examples.Sequence(tuple(tokens.tolist()), tuple(counts.tolist()), None)
                edits = ablating(dictionaries, counts, circuit, instead(seq, sequence))
                clean, ablated = (
                    model.run(tokens.unsqueeze(0), [], final=True, edits=some).final for some in (None, edits)
                )
                assert clean is not None
                assert ablated is not None
                here = changes(model, seq, tokens, counts, clean[0], ablated[0])
                found = (here if found is None else found.and_(here)).largest(most)
            done(1)
    assert found is not None  # every sequence of a sample has a position that counts
    text = inputs.job.subject.tokenizer.text
    return {**vars(found), "token": [text(token) for token in found.token_id.tolist()]}
