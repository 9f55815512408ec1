"""Which examples features are ranked on, and which a circuit is then judged on."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import numpy as np

from circuitcli.core.evidence.examples import Example, Half
from circuitcli.core.seeding import PURPOSE_HALVES
from circuitcli.core.words import amount
from circuitcli.errors import InputError


def halves(examples: Sequence[Example], split: float, seed: int, found_on: Collection[str] = ()) -> list[Half]:
    """The half of each example: discovery or evaluation.

    Each draws a lot by its text, so that others change nothing of it, and the same text is never in both; the lowest
    ones are of discovery. What a circuit was found on is of discovery, whatever it draws.

    Args:
        examples: All of them.
        split: The share of texts that is of discovery, as nearly as there is one in each.
        seed: Decides the lots.
        found_on: The texts of prompts that the circuit was found on.

    Raises:
        InputError: None is left in a half.
    """
    names = sorted({one.name for one in examples}, key=lambda name: (name not in found_on, _lot(seed, name)))
    found = sum(name in found_on for name in names)
    if len(names) < 2:
        raise InputError(
            f"There is {amount(len(examples), 'example')}, and no other text: none is left to judge a circuit on.",
            hint="Give a file of more with --prompts FILE.",
        )
    if found == len(names):
        raise InputError(
            f"The circuit was found on all of the {amount(found, 'example')}: none is left to judge it on.",
            hint="Give others with --prompts FILE, or --circuit none to judge what some of these find.",
        )
    count = min(max(round(split * len(names)), found, 1), len(names) - 1)
    discovery = set(names[:count])
    return ["discovery" if one.name in discovery else "evaluation" for one in examples]


def _lot(seed: int, name: str) -> float:
    words = np.frombuffer(hashlib.sha256(name.encode()).digest(), "<u4")
    return float(np.random.default_rng([seed, PURPOSE_HALVES, *words.tolist()]).random())
