"""What nodes are called in attribution graphs: their numbers, ids and columns, as Neuronpedia and circuit-tracer do."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from circuitcli.core.circuit import Circuit, Node
from circuitcli.core.sites import SITES

# Sets features apart that have one index at several sites of a layer; beyond the width of any SAE.
SITE_STEP = 10_000_000
NO_TOKEN = -1  # in place of an id of the vocabulary, of what stands for several tokens


def kind(node: Node) -> str:
    """`feature`, or in a circuit of a prompt also `error`, `token` or `target`."""
    return node.kind if node.attribution else "feature"


def features(circuit: Circuit) -> list[Node]:
    """The nodes that are latents of SAEs."""
    return [node for node in circuit.nodes if kind(node) == "feature"]


def numbers(circuit: Circuit) -> dict[str, int]:
    """The `feature` of each node.

    Of a feature it is Cantor's pairing of layer and index, from which the viewers read both back; of what has no page
    a number that sets it apart from its neighbours: below 0 of an error, the position of a token, a target's token.
    """
    sites, column = _sites(circuit.nodes), columns(circuit)
    found = {}
    for node in circuit.nodes:
        rank = sites[kind(node), node.layer].index(node.site) if kind(node) in ("feature", "error") else 0
        index = node.feature + SITE_STEP * rank
        found[node.id] = {
            "feature": (node.layer + index) * (node.layer + index + 1) // 2 + index,
            "error": -1 - rank,
            "token": column[node.id],
            "target": token_id(node),
        }[kind(node)]
    return found


def ids(circuit: Circuit) -> dict[str, str]:
    """`layer_index_column`, with the site inside where a layer has features, or errors, at several; −1 is of an error.

    `E_vocabulary_column` of a token, `layer_vocabulary_column` of a target.
    """
    sites, column = _sites(circuit.nodes), columns(circuit)
    found = {}
    for node in circuit.nodes:
        if kind(node) in ("feature", "error"):
            inside = [plain_name(node.site, "site")] if len(sites[kind(node), node.layer]) > 1 else []
            name = [*inside, node.feature if kind(node) == "feature" else -1]
        else:
            name = [token_id(node)]
        found[node.id] = "_".join(str(part) for part in (layer(node), *name, column[node.id]))
    return found


def layer(node: Node) -> str:
    """Where the viewers draw it: tokens in a layer of their own, targets two above the model's last."""
    return {"token": "E", "target": str(node.layer + 1)}.get(kind(node), str(node.layer))


def likeliest(circuit: Circuit) -> str:
    """The target that stands for all; empty where there is none."""
    targets = [node for node in circuit.nodes if kind(node) == "target"]
    return max(targets, key=_prob).id if targets else ""


def _prob(node: Node) -> float:
    return (node.attribution.prob if node.attribution else None) or 0.0


def token_id(node: Node) -> int:
    """Of a token or target."""
    known = node.attribution.token_id if node.attribution else None
    return NO_TOKEN if known is None else known


def columns(circuit: Circuit) -> dict[str, int]:
    """The position of each node, of a target the last; of those that stand for none, the one behind all positions."""
    last, question = behind(circuit), circuit.metadata.attribution
    end = len(question.tokens) - 1 if question and question.tokens else last
    none = {"target": end}
    return {node.id: none.get(kind(node), last) if node.pos is None else node.pos for node in circuit.nodes}


def behind(circuit: Circuit) -> int:
    """The column behind all positions; at least the second."""
    question = circuit.metadata.attribution
    highest = max((node.pos for node in circuit.nodes if node.pos is not None), default=0)
    return max(1 + highest, len(question.tokens) if question else 0)


def _sites(nodes: Sequence[Node]) -> dict[tuple[str, int], list[str]]:
    """The sites of each layer's features, and of its errors, in the model's order."""
    sites: dict[tuple[str, int], set[str]] = defaultdict(set)
    for node in nodes:
        if kind(node) in ("feature", "error"):
            sites[kind(node), node.layer].add(node.site)
    return {of: sorted(here, key=_rank) for of, here in sites.items()}


def _rank(site: str) -> tuple[int, str]:
    return (SITES.index(site) if site in SITES else len(SITES), site)


def plain_name(text: str, instead: str) -> str:
    """Text as the viewers take it for names: letters, digits, `_`, `.` and `-`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-")[:80] or instead
