"""A whole circuit ablated at once: all its features, at every position that counts, and what then becomes likelier.

Each dictionary encodes the stream as it is by then, earlier sites' changes included; the features of the circuit take
their baseline, all others and the errors stay. Of each position the token counts whose probability changes most,

    argmax_v |p_ablated(v) − p_clean(v)|
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuitcli.core.dictionary import Dictionary
from circuitcli.core.edits import Edits
from circuitcli.core.evidence.keeping import ZERO, Instead, Keeping, keeping
from circuitcli.core.model import Model
from circuitcli.core.sites import Site

_VALUES = 2**24  # logits that are held at once


def ablating(
    dictionaries: Sequence[Dictionary],
    counts: Bool[Tensor, " t"],
    circuit: Mapping[Site, Int[Tensor, " n"]],
    instead: Mapping[Site, Instead],
) -> Edits:
    """The edits that take a circuit away, in a pass of one row.

    Args:
        dictionaries: Those of a run, with their decoders where the pass is.
        counts: The positions at which it is taken away.
        circuit: Its features, by the site that their dictionary reads.
        instead: What they are replaced by, by the same; 0 where it isn't said.
    """
    found = []
    for one in dictionaries:
        features = circuit.get(one.reads)
        if features is not None and len(features):
            keep = torch.ones(1, one.d_sae, dtype=torch.bool, device=counts.device)
            keep[0, features] = False
            errors = torch.ones(1, dtype=torch.bool, device=counts.device)
            found.append(Keeping(one, keep, errors, instead.get(one.reads, ZERO)))
    return keeping(found, counts)


@dataclass(frozen=True, eq=False)
class Changes:
    """Positions, each with the token whose probability changes most there.

    Attributes:
        seq, pos: Where the next token is said.
        token_id: The token.
        next_id: The token that really follows; −1 where none does.
        base, altered: Its probability in the clean pass, and in that without the circuit.
    """

    seq: Int[np.ndarray, " n"]
    pos: Int[np.ndarray, " n"]
    token_id: Int[np.ndarray, " n"]
    next_id: Int[np.ndarray, " n"]
    base: Float[np.ndarray, " n"]
    altered: Float[np.ndarray, " n"]

    def largest(self, most: int) -> Changes:
        """The largest changes, in their order; of equal ones the earlier position first."""
        order = np.lexsort((self.pos, self.seq, -np.abs(self.altered - self.base)))[:most]
        return Changes(*(getattr(self, column.name)[order] for column in fields(self)))

    def and_(self, other: Changes) -> Changes:
        """These and others."""
        return Changes(*(np.concatenate([getattr(each, c.name) for each in (self, other)]) for c in fields(self)))


def changes(
    model: Model,
    seq: int,
    tokens: Int[Tensor, " t"],
    counts: Bool[Tensor, " t"],
    clean: Float[Tensor, "t d"],
    ablated: Float[Tensor, "t d"],
) -> Changes:
    """The changes in one sequence, at the positions that count.

    Args:
        model: Whose head is asked.
        seq: The sequence's number.
        tokens: Its tokens.
        counts: The positions.
        clean: The stream after the last block, of the model as it is.
        ablated: The same without the circuit.
    """
    place = counts.nonzero().squeeze(1)
    parts = []
    for some in place.split(max(1, _VALUES // model.shape.d_vocab)):
        base, altered = (model.logits(stream[some]).softmax(-1) for stream in (clean, ablated))
        token = (altered - base).abs().argmax(-1, keepdim=True)
        parts.append((token, base.gather(-1, token), altered.gather(-1, token)))
    token_id, before, after = (_on_host(torch.cat(part).squeeze(-1)) for part in zip(*parts, strict=True))
    pos, following = _on_host(place), np.append(_on_host(tokens), -1)
    return Changes(np.full_like(pos, seq), pos, token_id, following[pos + 1], before, after)


def _on_host(values: Tensor) -> np.ndarray:
    return np.asarray(values.cpu().numpy())
