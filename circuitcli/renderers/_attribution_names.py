"""What nodes are called in attribution graphs: their numbers, ids and columns, as Neuronpedia and circuit-tracer do."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from circuitcli.core.circuit import Node
from circuitcli.core.sites import SITES

# Sets features apart that have one index at several sites of a layer; beyond the width of any SAE.
SITE_STEP = 10_000_000


def numbers(nodes: Sequence[Node]) -> dict[str, int]:
    """The number of each feature: Cantor's pairing of layer and index, from which the viewers read both back."""
    sites = _sites(nodes)
    found = {}
    for node in nodes:
        index = node.feature + SITE_STEP * sites[node.layer].index(node.site)
        found[node.id] = (node.layer + index) * (node.layer + index + 1) // 2 + index
    return found


def ids(nodes: Sequence[Node]) -> dict[str, str]:
    """`layer_index_column`, with the site inside where a layer has several."""
    sites, column = _sites(nodes), columns(nodes)
    found = {}
    for node in nodes:
        inside = [plain_name(node.site, "site")] if len(sites[node.layer]) > 1 else []
        found[node.id] = "_".join([str(node.layer), *inside, str(node.feature), str(column[node.id])])
    return found


def columns(nodes: Sequence[Node]) -> dict[str, int]:
    """The position of each node; of those that stand for none, the one behind all positions."""
    last = behind(nodes)
    return {node.id: last if node.pos is None else node.pos for node in nodes}


def behind(nodes: Sequence[Node]) -> int:
    """The column behind all positions; at least the second."""
    return 1 + max((node.pos for node in nodes if node.pos is not None), default=0)


def _sites(nodes: Sequence[Node]) -> dict[int, list[str]]:
    """The sites of each layer, in the model's order."""
    sites: dict[int, set[str]] = defaultdict(set)
    for node in nodes:
        sites[node.layer].add(node.site)
    return {layer: sorted(here, key=_rank) for layer, here in sites.items()}


def _rank(site: str) -> tuple[int, str]:
    return (SITES.index(site) if site in SITES else len(SITES), site)


def plain_name(text: str, instead: str) -> str:
    """Text as the viewers take it for names: letters, digits, `_`, `.` and `-`."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip(".-")[:80] or instead
