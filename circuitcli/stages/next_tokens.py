"""The tables of next tokens of a run on prompts: which shards have them, and how they are reduced."""

from __future__ import annotations

import numpy as np

from circuitcli.core import rows
from circuitcli.results.next_tokens import on_prompts
from circuitcli.settings import Settings
from circuitcli.store import ablations, tables

# Next tokens that are kept at a position.
COUNT = 5


def kinds(settings: Settings) -> tuple[str, ...]:
    """The tables of a shard of ablations."""
    return ablations.kinds(logits=settings.ablate.logits, prompts=on_prompts(settings))


def last_readings(told: tables.Columns, clean: tables.Columns) -> tables.Columns:
    """Rows of ablations/next, of each ablation those of its last reading, with what acts/next says of their tokens."""
    if not len(told["token_id"]):
        return {}
    _, ablation = np.unique(np.stack([told["seq"], told["pos"]]), axis=1, return_inverse=True)
    ablation = ablation.reshape(-1)
    last = np.full(ablation.max() + 1, -1)
    np.maximum.at(last, ablation, told["down_pos"])
    kept = rows.pick(told, told["down_pos"] == last[ablation])
    read, said = ([table[name] for name in ("seq", pos, "rank")] for table, pos in ((kept, "down_pos"), (clean, "pos")))
    at = rows.match(read, said)
    assert (at >= 0).all()  # at each position of a prompt acts/next has all ranks
    return kept | {name: clean[name][at] for name in ("token", "logprob", "prob")}
