"""Attributions on disk: what was asked of each prompt, and its nodes and edges with what they do to the metric.

Tables have a row per node or edge of each prompt; nodes are numbered within their prompt from 0, in topological order:
tokens, then the model's order, targets last. An effect is m(replaced) − m(clean), in the unit of the prompt's metric.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from circuitcli.core.untrusted import Count, Flag, Mismatch, Number, Text, read
from circuitcli.errors import InputError
from circuitcli.store import files, tables
from circuitcli.store.records import FileEntry
from circuitcli.store.run import Run

if TYPE_CHECKING or "jaxtyping" in sys.modules:  # its import takes 45 ms, which reading a run does without
    from jaxtyping import Float, Int

STAGE = "attribute"
QUESTIONS = "attribution/questions.json"
NODES = "attribution/nodes.parquet"
EDGES = "attribution/edges.parquet"
ROWS = "attribution/rows.parquet"
FILES = (QUESTIONS, NODES, EDGES, ROWS)


@dataclass(frozen=True)
class Target:
    """One of several next tokens that are explained together.

    Attributes:
        token, token_id: The token.
        prob: Its probability.
        weight: What it counts in m: its share of the probability of all of them.
    """

    token: Text
    token_id: Count
    prob: Number
    weight: Number


@dataclass(frozen=True)
class Prompt:
    """What was asked of one prompt, and what the metric m is there.

    Attributes:
        prompt: Its text.
        tokens: What each of its tokens adds to the text.
        ids: Their numbers.
        counts: Which of them are nodes: position ≥ 1, no special token.
        target, target_id: The token whose log-probability or logit m is of; of several the likeliest.
        against, against_id: The token whose logit is taken from it; None of a log-probability.
        counterfactual, counterfactual_tokens: The prompt whose activations replace its own, if one does.
        clean: m, unedited.
        prob: The target's probability; of several all of theirs.
        unit: Of m: `nats` or `logits`.
        baseline_metric: m where all nodes are replaced at once; None where that wasn't computed.
        targets: Several, the likeliest first, in the order of their nodes; empty where there is one.
    """

    prompt: Text
    tokens: tuple[Text, ...]
    ids: tuple[Count, ...]
    counts: tuple[Flag, ...]
    target: Text
    target_id: Count
    against: Text | None
    against_id: Count | None
    counterfactual: Text | None
    counterfactual_tokens: tuple[Text, ...] | None
    clean: Number
    prob: Number
    unit: Text
    baseline_metric: Number | None = None
    targets: tuple[Target, ...] = ()


def write(
    run: Run,
    asked: Sequence[Prompt],
    nodes: list[tables.Columns],
    edges: list[tables.Columns],
    rows: list[tables.Columns],
) -> dict[str, FileEntry]:
    """Write the files of all prompts; of each table a part a prompt, in the order of the prompts.

    Columns of a part are arrays, or one value for all its rows.

    Returns:
        What the stage's record says of the files.
    """
    path = run.path(QUESTIONS)
    text = json.dumps([asdict(prompt) for prompt in asked], indent=1)  # ASCII: a token may be half a character
    files.write(path, f"{text}\n".encode())
    entries = {QUESTIONS: run.entry(path)}
    for name, parts in ((NODES, nodes), (EDGES, edges), (ROWS, rows)):
        count = tables.write(run.path(name), name.removesuffix(".parquet"), parts)
        entries[name] = run.entry(run.path(name), count)
    return entries


def write_measured(
    run: Run, name: str, prompt: int, node: Int[np.ndarray, " n"], exact: Float[np.ndarray, " n"]
) -> None:
    """Write the measured effects of some nodes of a prompt, so that they needn't be measured again."""
    tables.write(run.path(name), "attribution/measured", [{"prompt": prompt, "node": node, "exact": exact}])


def write_wired(
    run: Run,
    name: str,
    prompt: int,
    source: Int[np.ndarray, " m"],
    target: Int[np.ndarray, " m"],
    exact: Float[np.ndarray, " m"],
) -> None:
    """Write the measured weights of some edges of a prompt."""
    columns = {"prompt": prompt, "source": source, "target": target, "exact": exact}
    tables.write(run.path(name), "attribution/wired", [columns])


def questions(run: Run) -> list[Prompt]:
    """What was asked, in order.

    Raises:
        InputError: The attribute stage isn't done, or the file isn't as it was written.
    """
    path = run.verified(STAGE, QUESTIONS)
    try:
        return [read(Prompt, one, f"[{i}]") for i, one in enumerate(json.loads(path.read_bytes()))]
    except (ValueError, TypeError, RecursionError, Mismatch) as error:
        raise InputError(
            f"{path} isn't as this version of circuit writes it: {error}.",
            hint="Run `circuit attribute --force` on this run.",
        ) from None
