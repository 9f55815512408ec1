"""The whole circuit ablated over the run's sample, as sparse_circuit_discovery's validation did: what then changes most
of the next token. A sequence is done after the other, and of all only the largest changes are held.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from circuitcli.core.evidence import examples
from circuitcli.core.evidence.joint import Changes, ablating, changes
from circuitcli.core.evidence.keeping import Instead
from circuitcli.core.sites import Site
from circuitcli.executors import Done
from circuitcli.stages.assembly import Say, unsaid
from circuitcli.stages.judging import Judge
from circuitcli.stages.portion_task import Court
from circuitcli.stages.sources import Sources

MOST = 100  # changes that are kept
AT_ONCE = 32  # sequences of a task
Replacing = Callable[[int, examples.Sequence], Mapping[Site, Instead]]


def zero(seq: int, sequence: examples.Sequence) -> Mapping[Site, Instead]:
    """Replaces features by 0."""
    return {}


def _uncounted(done: int) -> None:
    pass


def joint(
    judge: Judge,
    circuit: Mapping[Site, Int[np.ndarray, " n"]],
    sequences: Sequence[int],
    instead: Replacing = zero,
    *,
    most: int = MOST,
    done: Done = _uncounted,
) -> Changes | None:
    """Positions of the sample at which a token's probability changes most; None where none counts.

    Args:
        judge: With the run's model, dictionaries and sample.
        circuit: Features, by the site that their dictionary reads.
        sequences: Of the sample.
        instead: What features become in a sequence of the sample, by the same; its number is given, and its tokens.
        most: How many positions are kept, the largest change first.
        done: Told how many more sequences are done.
    """
    sample, model = judge.inputs.passes.sample, judge.model
    features = {site: torch.as_tensor(index, device=model.device) for site, index in circuit.items()}
    found: Changes | None = None
    for seq in sequences:
        length = int(sample.lengths[seq])
        tokens = torch.as_tensor(sample.tokens[seq, :length], device=model.device).long()
        counts = torch.as_tensor(sample.counted[seq, :length], device=model.device)
        if counts.any():
            sequence = examples.Sequence(tuple(tokens.tolist()), tuple(counts.tolist()), None)
            edits = ablating(judge.dictionaries, counts, features, instead(seq, sequence))
            clean, ablated = (
                model.run(tokens.unsqueeze(0), [], final=True, edits=some).final for some in (None, edits)
            )
            assert clean is not None
            assert ablated is not None
            here = changes(model, seq, tokens, counts, clean[0], ablated[0])
            found = (here if found is None else found.and_(here)).largest(most)
        done(1)
    return found


@dataclass(frozen=True, eq=False)
class JointTask:
    """The same of some sequences, as a value that any process computes to the same.

    What stands for a feature is the baseline's; 0 where that is a counterfactual's, which text has none of.

    Attributes:
        court: What judges.
        circuit: Features, by site.
        sequences: Of the sample.
        threads: Of torch, which decide the last bits.
        most: How many positions are kept.
    """

    court: Court
    circuit: Mapping[Site, Int[np.ndarray, " n"]]
    sequences: tuple[int, ...]
    threads: int
    most: int = MOST

    def __len__(self) -> int:
        return len(self.sequences)

    def compute(self, sources: Sources, *, done: Done = _uncounted, say: Say = unsaid) -> Changes | None:
        """Of these sequences."""
        judge = self.court.judge(sources)
        judge.inputs.passes.runtime.with_plan(batch_size=1, threads=self.threads)
        replaced = zero if judge.kind == "patch" else judge.instead
        return joint(judge, self.circuit, self.sequences, replaced, most=self.most, done=done)

    def halves(self) -> tuple[JointTask, ...]:
        """None: what a sequence takes is what is held."""
        return ()

    def joined(self, results: Sequence[Changes | None]) -> Changes | None:
        """The largest of all."""
        return largest(results, self.most)


def largest(parts: Sequence[Changes | None], most: int) -> Changes | None:
    """The largest changes of some parts of the sample."""
    found: Changes | None = None
    for part in parts:
        if part is not None:
            found = (part if found is None else found.and_(part)).largest(most)
    return found
