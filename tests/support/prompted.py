"""Circuits of prompts to draw, made by a generator: as many nodes and edges as are wanted, most near the end."""

import random
from dataclasses import replace

from circuitcli.core.attributed import Attribution
from circuitcli.core.circuit import Circuit, Edge, Node
from support import circuits, drawn

WORDS = ("<|endoftext|>", "When", " Mary", " and", " John", " went", " to", " the", " store", ",", " John", " gave")
SITES = ("attn_out", "mlp_out", "resid_post")


def of_prompt(nodes: int = 60, edges: int = 140, layers: int = 6, tokens: tuple[str, ...] = WORDS) -> Circuit:
    """Tokens, features and errors, and a target; every node lies on a path to it."""
    draw = random.Random(1)
    last = len(tokens) - 1
    ends = [_node("token", 0, "token", pos, draw, tokens) for pos in range(1, len(tokens))]
    inner: dict[str, Node] = {}
    while len(inner) < nodes - len(ends):
        pos = max(1, last - int(draw.expovariate(0.35)))
        kind = "error" if draw.random() < 0.12 else "feature"
        one = _node(kind, draw.randrange(layers), draw.choice(SITES), pos, draw, tokens)
        inner[one.id] = one
    target = _node("target", layers, "target", None, draw, tokens)
    ordered = sorted(inner.values(), key=lambda n: (n.layer, SITES.index(n.site)))
    found = [*ends, *ordered, target]
    ranked = sorted(found[:-1], key=lambda n: -abs(n.attribution.effect or 0) if n.attribution else 0)
    share = {node.id: (i + 1) / len(ranked) for i, node in enumerate(ranked)}
    found = [_influential(node, share.get(node.id, 0.0)) for node in found]
    question = replace(
        circuits.QUESTION,
        tokens=tokens,
        nodes=4 * nodes,
        exact=4 * nodes,
        edges=9 * edges,
        target=" to",
        metric="log p(␣to)",
    )
    metadata = replace(circuits.ASKED.metadata, prompts=("".join(tokens[1:]),), attribution=question)
    return Circuit(metadata, tuple(found), _edges(found, edges, draw), circuits.ASKED.calibration)


def _node(kind: str, layer: int, site: str, pos: int | None, draw: random.Random, tokens: tuple[str, ...]) -> Node:
    feature = draw.randrange(24576) if kind == "feature" else 0
    inside = {"feature": str(feature), "error": "error"}.get(kind)
    name = f"{layer}.{site}.{inside}" if inside else kind
    told = Attribution(
        token=" to" if pos is None else tokens[pos],
        activation=draw.uniform(0.5, 30),
        replacement=0.0 if kind == "feature" else None,
        effect=None if kind == "target" else draw.gauss(-0.15, 0.5) ** 3,
        method=None if kind == "target" else "exact",
        influence=0.0,
        prob=0.4966 if kind == "target" else None,
        token_id=7 if kind in ("token", "target") else None,
    )
    bare = drawn.node("0.x.0", contexts=(), promoted=(), suppressed=())
    base = drawn.node("1.resid_post.6") if kind == "feature" else bare
    place = {"id": name if pos is None else f"{name}@{pos}", "kind": kind, "layer": layer, "site": site}
    return replace(base, **place, feature=feature, pos=pos, kl_mean=None, attribution=told)


def _influential(node: Node, influence: float) -> Node:
    assert node.attribution is not None
    return replace(node, attribution=replace(node.attribution, influence=influence))


def _edges(nodes: list[Node], count: int, draw: random.Random) -> tuple[Edge, ...]:
    """One from each node to a later one at its position or behind it, and as many more as are wanted."""
    place = {node.id: (i, 10**6 if node.pos is None else node.pos) for i, node in enumerate(nodes)}

    def after(node: Node) -> list[Node]:
        i, pos = place[node.id]
        later = (other for other in nodes[i + 1 :] if other.kind != "token" and place[other.id][1] >= pos)
        return [other for other in later if (other.layer, other.site) != (node.layer, node.site)]

    pairs: dict[tuple[str, str], None] = {}
    for node in nodes[:-1]:
        later = after(node)
        pairs[(node.id, later[min(len(later) - 1, int(draw.expovariate(0.15)))].id)] = None
    while len(pairs) < count:
        node = draw.choice(nodes[:-1])
        pairs[(node.id, draw.choice(after(node)).id)] = None
    return tuple(Edge(a, b, draw.gauss(-0.1, 0.5) ** 3, None, None, 1, method="relp") for a, b in pairs)
