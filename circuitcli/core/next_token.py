"""What ablations do to the next token: KL of each, and sums of the effects on every token.

With l the logits, p = softmax(l_clean) and d = l_ablated − l_clean, whatever is common to all of d drops out:

    s = d − max d        Z = Σ_v p·exp(s)        log p_ablated − log p_clean = s − log Z
    KL(clean ‖ ablated) = log Z − Σ_v p·s        p_ablated − p_clean = p·(exp(s)/Z − 1)

Written so, what didn't change is 0 but for the rounding of Σ_v p, and neither distribution is formed for its own sake.
All float32; sums over ablations are wider. A p below float32's smallest counts as that (e^−87), so that Z is never 0:
beyond that effects are cut, and stay finite.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from circuitcli.core.transfer import sent

_TINY = torch.finfo(torch.float32).tiny
# Logits that are worked on at once: on a CPU what stays in its caches, on a GPU what fills it.
_CHUNK_BYTES = {"cpu": 2**22, "mps": 2**28, "cuda": 2**27}


class Followed(NamedTuple):
    """What ablations do to k tokens each, whatever their rank: log p_ablated − log p_clean, and p_ablated − p_clean."""

    token_id: Int[Tensor, "n k"]
    logprob: Float[Tensor, "n k"]
    prob: Float[Tensor, "n k"]


class Extremes(NamedTuple):
    """Of each slot the tokens whose mean effect is the lowest and the highest; on the host.

    Attributes:
        slot: Ascending; in one by mean effect, then by id.
        token_id: Each once in a slot.
        logprob, prob: The mean of log p_ablated − log p_clean, by which they are chosen, and of p_ablated − p_clean.
    """

    slot: Int[np.ndarray, " m"]
    token_id: Int[np.ndarray, " m"]
    logprob: Float[np.ndarray, " m"]
    prob: Float[np.ndarray, " m"]


def likeliest(logits: Float[Tensor, "n v"], k: int) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
    """The k likeliest tokens, the likeliest first, and their log-probabilities, nats."""
    top, token = logits.topk(min(k, logits.shape[1]), dim=-1)
    return token, top - logits.logsumexp(-1, keepdim=True)


def follow(
    token_id: Int[Tensor, "n k"],
    context: Int[Tensor, " n"],
    clean: Float[Tensor, "m v"],
    ablated: Float[Tensor, "n v"],
) -> Followed:
    """The effects of ablations on some tokens of their own.

    Args:
        token_id: Of each row.
        context: Each row's row of `clean`.
        clean: Logits of each context.
        ablated: Logits of each row.
    """
    total = clean.logsumexp(-1)
    logprob = ablated.gather(1, token_id) - clean[context].gather(1, token_id)
    logprob = logprob - (ablated.logsumexp(-1) - total[context]).unsqueeze(1)
    p = (clean[context].gather(1, token_id) - total[context].unsqueeze(1)).exp()
    return Followed(token_id, logprob, p * logprob.expm1())


class TokenSums:
    """Sums of log p_ablated − log p_clean, and of p_ablated − p_clean, of every token, in slots: one a feature."""

    def __init__(self, slots: int, d_vocab: int, device: torch.device) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64  # mps has no float64
        self.logprob = torch.zeros(slots, d_vocab, dtype=wide, device=device)
        self.prob = torch.zeros(slots, d_vocab, dtype=wide, device=device)

    def extremes(self, counts: Int[Tensor, " s"], keep: int) -> Extremes:
        """The `keep` tokens of the lowest mean effects of each slot and the `keep` of the highest: all, if so few.

        Where they are only those that may be among them are sorted, and they alone come to the host.

        Args:
            counts: How many ablations each slot is a sum of.
            keep: How many at either end.
        """
        each = sent(counts.clamp(min=1), self.logprob.device).unsqueeze(1)
        mean, keep = self.logprob / each, min(keep, self.logprob.shape[1])
        low, high = (mean.topk(keep, largest=largest).values[:, -1:] for largest in (False, True))
        slot, token = ((mean <= low) | (mean >= high)).nonzero(as_tuple=True)
        columns = slot, token, mean[slot, token], self.prob[slot, token] / each[slot, 0]
        found = Extremes(*(column.cpu().numpy() for column in columns))
        order = np.lexsort((found.token_id, found.logprob, found.slot))
        first, stop = (np.searchsorted(found.slot[order], found.slot[order], side) for side in ("left", "right"))
        rank = np.arange(len(order))  # of what ties with the last there may be too much
        kept = order[(rank - first < keep) | (stop - rank <= keep)]
        return Extremes(*(column[kept] for column in found))

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Whatever is added within is added wholly or, if that fails, not at all: a batch may be tried again."""
        before = self.logprob.clone(), self.prob.clone()
        try:
            yield
        except BaseException:
            self.logprob, self.prob = before
            raise

    def add(
        self,
        slot: Int[Tensor, " n"],
        context: Int[Tensor, " n"],
        clean: Float[Tensor, "m v"],
        ablated: Float[Tensor, "n v"],
    ) -> Float[Tensor, " n"]:
        """Add to the sums, and give KL(clean ‖ ablated) of each row, nats.

        Args:
            slot: Where each row is added, in ascending order; on the CPU, so that nobody waits for a device.
            context: Each row's row of `clean`.
            clean: Logits of each context.
            ablated: Logits of each row; overwritten.
        """
        p = (clean - clean.amax(-1, keepdim=True)).exp_()
        p /= p.sum(-1, keepdim=True)  # pairwise, unlike softmax's own sum: an error here would be one of every KL
        p.clamp_(min=_TINY)
        size = max(1, _CHUNK_BYTES[clean.device.type] // (4 * clean.shape[1]))
        kl = []
        for start in range(0, len(slot), size):
            part = slice(start, start + size)
            slots, at = slot[part], context[part]
            low, high = int(slots[0]), int(slots[-1])
            of = sent(functional.one_hot(slots - low, high - low + 1).T.float(), clean.device)  # [slots, rows]
            kl.append(self._add(slice(low, high + 1), of, ablated[part], clean[at], p[at]))
        return torch.cat(kl)

    def _add(
        self,
        slots: slice,
        of: Float[Tensor, "s c"],
        ablated: Float[Tensor, "c v"],
        clean: Float[Tensor, "c v"],
        p: Float[Tensor, "c v"],
    ) -> Float[Tensor, " c"]:
        """A chunk of rows, with their contexts' logits and probabilities. No more memory is taken: it would be cold."""
        s = ablated.sub_(clean)
        s.sub_(s.amax(-1, keepdim=True))
        mean = torch.mul(p, s, out=clean).sum(-1)  # pairwise; a product would add 50,000 terms up one by one
        logprob = of @ s
        scaled = s.exp_().mul_(p)
        z = scaled.sum(-1)
        log_z = z.log()
        self.logprob[slots] += logprob.sub_((of @ log_z).unsqueeze(1))
        self.prob[slots] += torch.addmm(of @ p, of / z, scaled, beta=-1)
        return log_z - mean
