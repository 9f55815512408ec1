"""Circuits of prompts to draw and export: of any size, with groups, of hostile text, without positions."""

import random
from dataclasses import replace
from itertools import accumulate, cycle

from circuitcli.core.attributed import Attribution, Fidelity
from circuitcli.core.circuit import Circuit, Context, Edge, Node
from support.circuits import ASKED, METADATA, NASTY, QUESTION, edge, node

TEXT = (
    "In the beginning , God created the heavens and the earth . Now the earth was formless and void , and darkness was "
    "over the surface of the deep , and the Spirit of God was hovering over the waters . And God said , Let there be "
    "light , and there was light . And God saw that the light was good , and He separated the"
)
SITES = ("attn_out", "mlp_out", "resid_post")
LABELS = ("", "", "", "God as the one who acts", "beginnings of creation stories", "the word “the” before nouns")


def tokens(count: int) -> tuple[str, ...]:
    """The first of a text, as a tokenizer has them."""
    first, *others = TEXT.split()
    return ("<|endoftext|>", first, *(word if word in ",." else f" {word}" for word in others))[:count]


def prompt(
    nodes: int, length: int, *, layers: int = 6, groups: int = 0, measured: bool = True, seed: int = 0
) -> Circuit:
    """So many features and errors of a prompt of so many tokens; its tokens and target besides, and likely edges."""
    draw = random.Random(seed)
    texts = tokens(length)
    places = [
        (draw.randrange(layers), draw.choice(SITES), min(length - 1, 1 + int(length * draw.random() ** 0.5)))
        for _ in range(nodes)
    ]
    inner = [_inner(place, i, texts, draw, measured=measured) for i, place in enumerate(places)]
    inner = _named(sorted(inner, key=lambda n: (n.layer, SITES.index(n.site))), groups)
    below = [_told(f"token@{i}", "token", 0, i, texts[i], draw.gauss(-0.3, 0.4), measured) for i in range(1, length)]
    target = replace(ASKED.nodes[-1], layer=layers)
    edges = _edges([*below, *inner, target], draw)
    ends = {end for one in edges for end in (one.source, one.target)}
    whole = _influential([n for n in (*below, *inner) if n.id in ends])
    question = replace(
        QUESTION,
        tokens=texts,
        exact=900 if measured else 60,
        nodes=900,
        edges=21_000,
        method="auto" if measured else "atp",
    )
    facts = replace(METADATA, positions="prompt", prompts=("".join(texts[1:]),), attribution=question)
    return Circuit(facts, (*whole, target), tuple(edges), ASKED.calibration)


def _inner(place: tuple[int, str, int], i: int, texts: tuple[str, ...], draw: random.Random, *, measured: bool) -> Node:
    layer, site, pos = place
    kind = "error" if i % 7 == 3 else "feature"
    name = f"{layer}.{site}.{'error' if kind == 'error' else 1000 + 37 * i}@{pos}"
    found = _told(f"{name}", kind, layer, pos, texts[pos], draw.gauss(0, 1) ** 3 / 3, measured)
    context = Context((" and", texts[pos], " was"), (0.0, 4.0, 0.0), firing=1, seq=0, pos=4)
    contexts = (context,) if kind == "feature" else ()
    return replace(found, site=site, feature=1000 + 37 * i if kind == "feature" else 0, contexts=contexts)


def _told(name: str, kind: str, layer: int, pos: int, token: str, effect: float, measured: bool) -> Node:
    what = Attribution(token, 3.25, 0.0 if kind == "feature" else None, effect, "exact" if measured else "atp", 0.5)
    plain = replace(node("0.token.0"), contexts=(), promoted=(), suppressed=(), n=0, kl_mean=None)
    return replace(plain, id=name, kind=kind, layer=layer, site=kind, pos=pos, attribution=what)


def _named(nodes: list[Node], groups: int) -> list[Node]:
    """Some with labels; half of the features in groups, if there are any, and one of each id."""
    labels, names = cycle(LABELS), cycle([f"group {i}" for i in range(groups)] or [""])
    found = {one.id: replace(one, label=next(labels) or None) for one in nodes}
    chosen = [one.id for one in found.values() if groups and one.kind == "feature"][::2]
    return [replace(one, group=next(names) if one.id in chosen else None) for one in found.values()]


def _edges(nodes: list[Node], draw: random.Random) -> list[Edge]:
    """About three into each node, from before it in the model and no later in the prompt."""
    target = nodes[-1]
    pairs: set[tuple[str, str]] = set()
    for i, down in enumerate(nodes):
        pos = down.pos if down.pos is not None else 2**20
        up = [
            n
            for n in nodes[:i]
            if n.pos <= pos and (n.layer, n.site) != (down.layer, down.site) and down.kind != "token"
        ]
        pairs |= {(one.id, down.id) for one in draw.sample(up, min(len(up), 12 if down is target else 3))}
    fed = {source for source, _ in pairs}
    pairs |= {(one.id, target.id) for one in nodes[:-1] if one.id not in fed and one.kind != "token"}
    order = sorted(pairs)
    return [edge(*pair, draw.gauss(-0.1, 0.6) ** 3, None, None, n=1, method="relp") for pair in order]


def _influential(nodes: list[Node]) -> list[Node]:
    """Each with the cumulative share of |effect| at which it comes in."""
    effect = {one.id: abs(one.attribution.effect or 0.0) for one in nodes if one.attribution}
    order = sorted(effect, key=lambda name: -effect[name])
    shares = dict(zip(order, accumulate(effect[name] / sum(effect.values()) for name in order), strict=True))
    return [replace(one, attribution=replace(one.attribution, influence=min(1.0, shares[one.id]))) for one in nodes]


def of_characters(length: int) -> Circuit:
    """A prompt in a language without spaces."""
    circuit, texts = prompt(30, length), tuple("起初神創造天地地是空虛混沌淵面黑暗神的靈運行在水面上"[:length])
    nodes = [
        replace(one, attribution=replace(one.attribution, token=texts[one.pos])) if one.kind == "token" else one
        for one in circuit.nodes
    ]
    facts = replace(circuit.metadata, attribution=replace(QUESTION, tokens=texts))
    return replace(circuit, metadata=facts, nodes=tuple(nodes))


def replaced(*, across: bool, layers: int = 6) -> Circuit:
    """A graph of the local replacement model: features of transcoders, errors of MLPs; `across`: all later ones."""
    circuit = prompt(60, 12, layers=layers, seed=5)
    names: dict[str, str] = {}
    nodes = []
    for one in circuit.nodes:
        site = {"feature": "mlp_in", "error": "mlp_out"}.get(one.kind, one.site)
        last = layers if across else one.layer + 1
        writes = tuple(f"{layer}.mlp_out" for layer in range(one.layer, last)) if one.kind == "feature" else ()
        names[one.id] = one.id.replace(f".{one.site}.", f".{site}.")
        nodes.append(replace(one, id=names[one.id], site=site, writes=writes))
    kept = list({one.id: one for one in nodes}.values())
    ends = {(names[e.source], names[e.target]): e for e in circuit.edges}
    edges = [replace(e, source=a, target=b) for (a, b), e in ends.items()]
    far = Fidelity(kl_last=0.21, kl=0.34, top1=0.75, real=3.1, replacement=3.4)
    question = replace(
        circuit.metadata.attribution, metric="logit(␣heavens) − mean logit", unit="logits", method="atp",
        frozen=True, replaced=True, fidelity=far, replacement=0.61, completeness=0.83,
    )  # fmt: skip
    facts = replace(circuit.metadata, attribution=question, release="demo-clt" if across else "demo-transcoders")
    return replace(circuit, metadata=facts, nodes=tuple(kept), edges=tuple(edges))


def hostile() -> Circuit:
    """Text that breaks things wherever a circuit of a prompt has text."""
    texts = cycle(NASTY)
    nodes = tuple(
        replace(
            one,
            label=next(texts) if i % 2 else None,
            group=next(texts) if i < 4 else None,
            attribution=replace(one.attribution, token=next(texts)),
        )
        for i, one in enumerate(ASKED.nodes)
    )
    question = replace(
        QUESTION,
        metric=f"log p({NASTY[1]})",
        target=NASTY[2],
        baseline="<b>",
        tokens=tuple(NASTY),
        counterfactual=tuple(NASTY),
    )
    facts = replace(
        ASKED.metadata, prompts=("</script>(p=\x00\ud800",), attribution=question, model="<\x00", run="../=1"
    )
    return replace(ASKED, metadata=facts, nodes=nodes)


def summed() -> Circuit:
    """Of several prompts: nodes stand for all positions."""
    nodes = {one.id: one.id.partition("@")[0] for one in ASKED.nodes if one.id != "token@6"}
    kept = [replace(one, id=nodes[one.id], pos=None) for one in ASKED.nodes if one.id in nodes]
    told = [replace(one, attribution=replace(one.attribution, token="", token_id=None)) for one in kept]
    edges = [replace(e, source=nodes[e.source], target=nodes[e.target]) for e in ASKED.edges if e.source in nodes]
    question = replace(QUESTION, positions="sum", tokens=(), prompts=3)
    facts = replace(ASKED.metadata, prompts=("One", "Two", "Three"), attribution=question)
    return replace(ASKED, metadata=facts, nodes=tuple(told), edges=tuple(edges))


TARGETS = {"target.7": (" heavens", 0.5), "target.12": (" earth", 0.25), "target.3": (" man", 0.125)}
WRITES = {1: ("1.mlp_out", "2.mlp_out", "3.mlp_out"), 2: ("2.mlp_out",)}


def several() -> Circuit:
    """Of a replacement model: features of transcoders, one of them across layers, and three targets."""
    names = {one.id: _transcoded(one) for one in ASKED.nodes[:-1]}
    targets = [_target(name, *said) for name, said in TARGETS.items()]
    edges = [replace(e, source=names[e.source].id, method="atp") for e in ASKED.edges]
    inner = [replace(e, target=names[e.target].id) for e in edges if e.target != "target"]
    outer = [
        replace(e, target=one.id, effect_mean=e.effect_mean * (0.6, 0.3, -0.1)[i])
        for e in edges
        for i, one in enumerate(targets)
        if e.target == "target"
    ]
    question = replace(
        QUESTION,
        metric="logit(3 likeliest) − mean logit",
        unit="logits",
        target=" heavens,  earth,  man",
        prob=0.875,
        clean=9.5,
        method="atp",
        edge_method="atp",
        frozen=True,
        replaced=True,
        fidelity=Fidelity(kl_last=0.5, kl=0.25, top1=0.75, real=2.0, replacement=2.5),
        targets=3,
    )
    facts = replace(ASKED.metadata, attribution=question)
    calibration = tuple(replace(row, method="atp") for row in ASKED.calibration if row.of == "nodes")
    return replace(
        ASKED, metadata=facts, nodes=(*names.values(), *targets), edges=(*inner, *outer), calibration=calibration
    )


def _transcoded(one: Node) -> Node:
    """A feature reads an MLP's input, and an error is of its output."""
    site = {"feature": "mlp_in", "error": "mlp_out"}.get(one.kind, one.site)
    writes = WRITES[one.layer] if one.kind == "feature" else ()
    what = replace(one.attribution, method="atp")
    return replace(one, id=one.id.replace("resid_post", site), site=site, writes=writes, attribution=what)


def _target(name: str, token: str, prob: float) -> Node:
    what = replace(ASKED.nodes[-1].attribution, token=token, prob=prob, token_id=int(name.partition(".")[2]))
    return replace(ASKED.nodes[-1], id=name, attribution=what)
