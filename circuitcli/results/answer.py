"""The circuit that answers a run's question: of its prompts' nodes those that matter, and the edges between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import numpy as np

from circuitcli.core.attributed import EXACT, Attribution, Fidelity, Method, Question
from circuitcli.core.circuit import Circuit, Edge, Node
from circuitcli.core.metadata import Metadata
from circuitcli.core.sites import FeatureId, Site
from circuitcli.core.tokens import visible
from circuitcli.core.untrusted import read
from circuitcli.results import extend, metadata
from circuitcli.results.attribution import Attributed, some
from circuitcli.results.nodes import described
from circuitcli.results.reader import Reader
from circuitcli.store.attributions import STAGE
from circuitcli.store.tables import Columns

# What `metadata.positions` says of effects within prompts.
POSITIONS = "prompt"
AUTO = "auto"
_TOKEN = 40


def build(reader: Reader, asked: Attributed | None = None, *, described: bool = True) -> Circuit:
    """The circuit of a run's prompts.

    Args:
        reader: Of the run.
        asked: What was read of the prompts already.
        described: Whether nodes have what is known of their features: contexts, and tokens that they promote.

    Raises:
        InputError: The attribute stage isn't done.
    """
    asked = asked or Attributed(reader)
    run, created = reader.run.title, reader.run.require(STAGE).finished
    nodes = tuple(replace(node, run=run, created=created) for node in _nodes(reader if described else None, asked))
    if reader.settings.graph.group == AUTO:
        nodes = _grouped(nodes, asked)
    edges = tuple(replace(edge, run=run, created=created) for edge in _edges(asked))
    return Circuit(_metadata(reader, asked), nodes, edges, asked.calibrations)


def question(asked: Attributed) -> Question:
    """What was asked, how it was answered, and how much of the answer is in the circuit."""
    first, pooled, kept = asked.prompts[0], asked.pooled, asked.selection
    inner = pooled.nodes["kind"] != "target"
    size, weight = np.abs(pooled.nodes["effect"][inner]), np.abs(pooled.edges["weight"])
    replaced = bool(asked.facts.get("replaced"))  # not of runs from before there was such a thing
    several = len({(prompt.target_id, prompt.against_id) for prompt in asked.prompts}) > 1
    against = [prompt.against for prompt in asked.prompts if prompt.against is not None]
    return Question(
        metric=_of_likeliest(len(asked.targets))
        if asked.targets
        else _metric(first.target, first.against, several=several, replaced=replaced),
        unit=first.unit,
        target=", ".join(some([one.token for one in asked.targets] or [prompt.target for prompt in asked.prompts])),
        against=", ".join(some(against)) if against else None,
        clean=asked.clean,
        prob=asked.prob,
        baseline=asked.facts["baseline"],
        method=asked.facts["method"],
        edge_method=asked.facts["edge_method"],
        frozen=asked.facts["frozen"],
        positions=asked.facts["positions"],
        tokens=first.tokens if asked.separate else (),
        counterfactual=(first.counterfactual_tokens or ()) if asked.separate else (),
        prompts=len(asked.prompts),
        nodes=len(size),
        exact=int((pooled.nodes["method"][inner] == EXACT).sum()),
        abs_effect=float(size.sum()),
        share=_share(size[kept.nodes[inner]], size),
        edges=len(weight),
        edge_share=_share(weight[kept.edges], weight),
        replacement=kept.replacement,
        completeness=kept.completeness,
        replaced=replaced,
        fidelity=_fidelity(asked.facts["fidelity"]) if replaced else None,
        targets=len(asked.targets) or 1,
    )


def _fidelity(rows: Sequence[dict[str, Any]]) -> Fidelity:
    """The mean over prompts."""

    def mean(name: str) -> float | None:
        values = [row[name] for row in rows if row[name] is not None]
        return float(np.mean(values)) if values else None

    return read(Fidelity, {field.name: mean(field.name) for field in fields(Fidelity)}, "fidelity")


def _of_likeliest(count: int) -> str:
    """In words; each token counts as likely as it is."""
    return f"logit({count} likeliest) − mean logit"


def _metric(target: str, against: str | None, *, several: bool, replaced: bool) -> str:
    """In words: `log p(␣heavens)`; of several prompts with targets of their own `log p(target)`.

    A replacement model's is linear in the logits.
    """
    first, other = ("target", "against") if several else (visible(target, _TOKEN), visible(against or "", _TOKEN))
    if replaced and against is None:
        return f"logit({first}) − mean logit"
    return f"log p({first})" if against is None else f"logit({first}) − logit({other})"


def _share(part: np.ndarray, whole: np.ndarray) -> float:
    return float(part.sum() / whole.sum()) if whole.sum() else 0.0


def _metadata(reader: Reader, asked: Attributed) -> Metadata:
    what, texts = question(asked), tuple(prompt.prompt for prompt in asked.prompts)
    basis = replace(extend.basis(reader), intervention=what.baseline, strength=None, positions=POSITIONS, horizon=0)
    return metadata.of_graph(
        reader,
        basis,
        metadata.of_run(reader, STAGE, np.abs(asked.pooled.edges["weight"])),
        min_effect=reader.settings.attribute.edge_threshold,
        share_drawn=what.edge_share,
        prompts=texts,
        answers=metadata.answers(reader) if texts == reader.settings.texts.prompt else (),
        attribution=what,
    )


def _nodes(reader: Reader | None, asked: Attributed) -> Iterator[Node]:
    """Those that are kept, in topological order; features are described where a reader can be asked."""
    table, kept = asked.pooled.nodes, np.flatnonzero(asked.selection.nodes)
    features = {
        i: FeatureId(Site(int(table["layer"][i]), str(table["site"][i])), int(table["feature"][i]))
        for i in kept.tolist()
        if table["kind"][i] == "feature"
    }
    wanted = sorted(set(features.values()), key=lambda feature: feature.order)
    known = {} if reader is None else dict(zip(wanted, described(reader, wanted), strict=True))
    for i in kept.tolist():
        plain = known[features[i]] if features.get(i) in known else _bare(table, i)
        pos = int(table["pos"][i])
        yield replace(plain, id=str(table["id"][i]), pos=None if pos < 0 else pos, attribution=_attribution(asked, i))


def _bare(table: Columns, i: int) -> Node:
    """A node of which nothing else is known."""
    return Node(
        id="",
        kind=str(table["kind"][i]),
        layer=int(table["layer"][i]),
        site=str(table["site"][i]),
        feature=int(table["feature"][i]) if table["kind"][i] == "feature" else 0,
        density=0.0,
        max_activation=0.0,
        kl_mean=None,
        n=0,
        pinned=False,
        contexts=(),
        promoted=(),
        suppressed=(),
    )


def _attribution(asked: Attributed, i: int) -> Attribution:
    """What a node is and does."""
    table, estimate = asked.pooled.nodes, str(asked.facts["estimate"])
    kind, method = table["kind"][i], str(table["method"][i])
    target = kind == "target"
    return Attribution(
        token=asked.tokens[i],
        activation=asked.clean if target and not asked.targets else float(table["activation"][i]),
        replacement=_number(table["replacement"][i]) if kind == "feature" else None,
        effect=None if target else _number(table["effect"][i]),
        method=None if target else _method(method),
        influence=float(asked.selection.influence[i]),
        estimate=_number(table[estimate][i]) if estimate and method == EXACT else None,
        prob=_prob(asked, i) if target else None,
        token_id=asked.token_ids[i] if kind in ("token", "target") else None,
    )


def _prob(asked: Attributed, i: int) -> float:
    """Of a target."""
    return asked.targets[int(asked.pooled.nodes["feature"][i])].prob if asked.targets else asked.prob


def _method(name: str) -> Method | None:
    return cast("Method", name) if name else None


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _edges(asked: Attributed) -> Iterator[Edge]:
    """Those that are kept, the largest first."""
    table, names = asked.pooled.edges, asked.pooled.nodes["id"]
    kept = np.flatnonzero(asked.selection.edges)
    for i in kept[np.argsort(-np.abs(table["weight"][kept]), kind="stable")].tolist():
        source, target = (str(names[table[end][i]]) for end in ("source", "target"))
        weight = float(table["weight"][i])
        yield Edge(source, target, weight, None, None, int(table["n"][i]), method=_method(table["method"][i]))


def _grouped(nodes: Sequence[Node], asked: Attributed) -> tuple[Node, ...]:
    """Nodes with like edges in one group, which is called by the token that most of them fire on."""
    members: dict[int, list[Node]] = {}
    kept = asked.selection
    for node, group in zip(nodes, kept.groups()[kept.nodes].tolist(), strict=True):
        if group >= 0:
            members.setdefault(group, []).append(node)
    names = {
        node.id: f"group {number}{_called(group)}" for number, group in enumerate(members.values(), 1) for node in group
    }
    return tuple(replace(node, group=names.get(node.id)) for node in nodes)


def _called(group: Sequence[Node]) -> str:
    """`: ␣God`, the token that most of them fire on; where they stand for all positions, where they fire most."""
    tokens = Counter(filter(None, map(_token, group)))
    return f": {visible(tokens.most_common(1)[0][0], _TOKEN)}" if tokens else ""


def _token(node: Node) -> str:
    if node.attribution and node.attribution.token:
        return node.attribution.token
    return node.contexts[0].tokens[node.contexts[0].firing] if node.contexts else ""
