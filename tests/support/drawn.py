"""Circuits to draw, made by hand."""

import random
from dataclasses import replace

from circuitcli.core.circuit import Circuit, Context, Edge, Measurement, Node, TokenEffect
from support import circuits

METADATA = replace(circuits.METADATA, saes=(), runs=(), run="", share_drawn=0.412, created="2025-11-23")
HOSTILE = (
    "[/b]",
    "</script><script>window.broken = 1</script>",
    "<!--<script>",
    "<img src=x onerror='window.broken = 1'>",
    "\"'`",
    "&lt;",
    "${broken}",
    "__proto__",
    "😀👩\u200d👧",
    "שלום",
    "\u202eevil",
    "\u0000",
    "\ud800",
    "\u2028\u2029",
    "\x1b[31m",
    "%%DATA%%",
    "\n",
    "",
    "x" * 10_000,
)


def node(name: str, word: str = " cat", **changes: object) -> Node:
    """A feature that fires on a word."""
    layer, site, feature = name.split(".")
    given: dict[str, object] = {
        "kind": "feature",
        "density": 0.0123,
        "max_activation": 8.0,
        "kl_mean": 0.021,
        "n": 40,
        "pinned": False,
        "contexts": (
            Context((" the", word, "\n", " sat"), (0.0, 8.0, 2.0, 0.5), firing=1, seq=3, pos=7),
            Context(("A", " big", word), (0.0, 0.0, 6.5), firing=2, seq=5, pos=2),
        ),
        "promoted": (TokenEffect(" dog", 1, -0.5), TokenEffect("\n", 2, -0.25)),
        "suppressed": (TokenEffect(" fish", 3, 0.5),),
    }
    return Node(id=name, layer=int(layer), site=site, feature=int(feature), **{**given, **changes})  # type: ignore[arg-type]


OLDER = (Measurement(-0.7, -0.8, -0.6, 12, "monday", "2025-11-01"),)
SMALL = Circuit(
    METADATA,
    (
        node("1.mlp_out.5", " tree"),
        node("1.resid_post.6", label="cats and dogs"),
        node("2.resid_post.7", " house", neuronpedia="https://www.neuronpedia.org/gpt2-small/2-res-jb/7", pinned=True),
        node("2.resid_post.9", " bird", group="animals", kl_mean=None, neuronpedia="https://evil.example/7"),
        node("3.resid_post.8", " river", neuronpedia="javascript:window.broken=1"),
    ),
    (
        Edge("1.mlp_out.5", "1.resid_post.6", 0.42, 0.33, 0.51, 40),
        Edge("1.resid_post.6", "2.resid_post.7", -0.21, -0.3, -0.1, 30),
        Edge("1.mlp_out.5", "2.resid_post.7", -0.84, -0.9, -0.8, 40, OLDER),
        Edge("1.resid_post.6", "2.resid_post.9", 0.1, 0.05, 0.2, 20),
        Edge("2.resid_post.7", "3.resid_post.8", 0.05, None, None, 1),
    ),
)


def hostile() -> Circuit:
    """Every text that could break or script a page, wherever a circuit holds text."""
    effects = tuple(TokenEffect(token, i, -0.1) for i, token in enumerate(HOSTILE))
    context = Context(HOSTILE, tuple(float(i) for i in range(len(HOSTILE))), firing=1, seq=0, pos=3)
    nodes = tuple(
        node(
            f"{i % 3}.resid_post.{i}",
            contexts=(context,),
            promoted=effects,
            suppressed=effects,
            label=token,
            group=token,
            neuronpedia=token,
        )
        for i, token in enumerate(HOSTILE)
    )
    older = tuple(Measurement(0.5, None, None, 2, token, token) for token in HOSTILE)
    edges = tuple(Edge(a.id, b.id, -0.1, -0.2, 0.0, 9, older) for a in nodes for b in nodes if a.layer + 1 == b.layer)
    metadata = replace(METADATA, model='evil"/]><script>window.broken = 1</script>\x00', release="<b>&\ud800")
    return Circuit(metadata, nodes, edges)


def large(nodes: int = 2000, edges: int = 20_000, layers: int = 4) -> Circuit:
    """As many features and effects, from each layer to the next."""
    draw = random.Random(0)
    per = nodes // layers
    features = [node(f"{i // per}.resid_post.{i}", f" w{i % 97}") for i in range(per * layers)]
    pairs: set[tuple[int, int]] = set()
    while len(pairs) < edges:
        up = draw.randrange(per * (layers - 1))
        pairs.add((up, per * (up // per + 1) + draw.randrange(per)))
    effects = (Edge(features[a].id, features[b].id, draw.gauss(0, 1) ** 3, -1.0, 1.0, 9) for a, b in sorted(pairs))
    return Circuit(METADATA, tuple(features), tuple(effects))
