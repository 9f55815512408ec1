"""Passages as rows of tokens, and what a language model makes of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import GPT2LMHeadModel

from circuitcli.demo import corpus

_BATCH = 16


@dataclass(frozen=True)
class Rows:
    """Passages as rows: BOS, tokens, padding. `tokens` int64 [n, t], `lengths` int64 [n] with BOS counted."""

    tokens: Tensor
    lengths: Tensor

    def counted(self) -> Tensor:
        """The positions of text, bool [n, t]."""
        at = torch.arange(self.tokens.shape[1])
        return (at >= 1) & (at < self.lengths[:, None])

    def batches(self) -> list["Rows"]:
        """The same passages in batches of similar length."""
        order = self.lengths.argsort(stable=True)
        parts = [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]
        return [Rows(self.tokens[i, : int(self.lengths[i].max())], self.lengths[i]) for i in parts]


def rows_of(tokenizer: Tokenizer, documents: Sequence[corpus.Document], longest: int) -> Rows:
    """BOS and the tokens of each document, cut to `longest` and padded with BOS."""
    encoded = [[corpus.BOS_ID, *ids][:longest] for ids in corpus.encode(tokenizer, documents)]
    width = max(map(len, encoded))
    tokens = torch.tensor([ids + [corpus.BOS_ID] * (width - len(ids)) for ids in encoded])
    return Rows(tokens, torch.tensor([len(ids) for ids in encoded]))


@torch.no_grad()
def cross_entropy(model: GPT2LMHeadModel, rows: Rows) -> float:
    """Mean of −log p(next token) at positions ≥ 1. Nats."""
    total, count = 0.0, 0
    for batch in rows.batches():
        logits = model(batch.tokens, attention_mask=torch.ones_like(batch.tokens), use_cache=False).logits
        target = batch.counted()[:, 2:]
        losses = functional.cross_entropy(logits[:, 1:-1][target], batch.tokens[:, 2:][target], reduction="sum")
        total, count = total + losses.item(), count + int(target.sum())
    return total / count


@torch.no_grad()
def first_guesses(model: GPT2LMHeadModel, rows: Rows) -> Tensor:
    """The most likely next token at positions ≥ 1, int64 [all of them]."""
    found = []
    for batch in rows.batches():
        logits = model(batch.tokens, attention_mask=torch.ones_like(batch.tokens), use_cache=False).logits
        found.append(logits[batch.counted()].argmax(-1))
    return torch.cat(found)
