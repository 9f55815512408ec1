"""Merging two circuits of one model into one, as --extend does.

Nodes are one where their feature is, of one SAE at one site; edges are one where both ends are. What the result holds
follows from sets of measurements, not from the order in which graphs were joined:

    edge        all measurements that either graph has of it; the newest counts, the others are `older`
    node        the newest measurement of those at which it was ablated, else the newest; pinned if it ever was
    runs        all; of one that measured the same when it was drawn twice, the later time
    share_drawn Σ|effect| of the edges over the sum, over runs, of Σ|effect| that each measured. What two runs both
                measured counts twice below the line, and so does what one run measured with other pins; so of several
                it is the *least* that the share can be

How often a part survives when its discovery is repeated is known of the whole discovery alone, and is left out.

Joining is associative and idempotent, up to what people write: a label or a group of the second graph goes before one
of the first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, replace
from itertools import zip_longest

from circuitcli.core.circuit import Circuit, Edge, Measurement, Node
from circuitcli.core.metadata import MEASURED, Basis, Metadata, RunFacts
from circuitcli.core.sites import SITES
from circuitcli.errors import InputError


def merge(first: Circuit, second: Circuit) -> Circuit:
    """One circuit of two.

    Raises:
        InputError: They are of different models, of different SAEs at one site, or measured in different ways; or one
            of them is of a prompt.
    """
    require_mean_effects(first.metadata, second.metadata)
    require_same_features(first.metadata, second.metadata)
    require_same_effects(first.metadata, second.metadata)
    edges = _edges((*first.edges, *second.edges))
    return Circuit(_metadata(first.metadata, second.metadata, edges), _nodes(first.nodes, second.nodes), edges)


def require_same_features(a: Basis, b: Basis) -> None:
    """Refuse two circuits in which one name may stand for two features.

    Raises:
        InputError: Of different models, or of different SAEs at one site; or one of them is a difference.
    """
    if a.diff or b.diff:
        raise InputError("One of the graphs is a difference.", hint="Name the graphs that it was made from.")
    if a.model_identity != b.model_identity:
        raise InputError(
            f"The graphs are of different models: {_named(a)} and {_named(b)}.",
            hint="Only graphs of one model, at one revision, have features in common.",
        )
    known = {(sae.layer, sae.site): sae for sae in a.saes}
    for sae in b.saes:
        other = known.get((sae.layer, sae.site), sae)
        if other.sha256 != sae.sha256:
            raise InputError(
                f"The graphs have different SAEs at {sae.layer}.{sae.site}: {other.source} "
                f"({other.sha256[:8]}) and {sae.source} ({sae.sha256[:8]}).",
                hint="Their features have nothing to do with each other: use graphs with the same SAEs at a site.",
            )


def require_mean_effects(*graphs: Metadata) -> None:
    """Refuse circuits of prompts: what is in them answers one question, and is no mean that others add to.

    Raises:
        InputError: One is of a prompt.
    """
    if any(graph.attribution for graph in graphs):
        raise InputError(
            "A graph that answers a question about a prompt can't be added to another.",
            hint="Draw both by themselves; `circuit diff` compares two that answer the same question.",
        )


def require_same_effects(a: Basis, b: Basis) -> None:
    """Refuse two circuits whose effects are different quantities.

    Raises:
        InputError: They were measured by different interventions, or at different positions.
    """
    for what in MEASURED:
        one, other = getattr(a, what), getattr(b, what)
        if one != other:
            raise InputError(
                f"The graphs were measured in different ways: {what} {one} and {other}.",
                hint=f"Their effects can't stand in one graph: run both with the same --{what}. "
                "`circuit diff` compares them.",
            )


def _named(basis: Basis) -> str:
    return f"{basis.model} ({basis.model_identity[:8]})"


def measurements(edge: Edge) -> tuple[Measurement, ...]:
    """All measurements of an edge, the newest first."""
    now = Measurement(edge.effect_mean, edge.ci_low, edge.ci_high, edge.n, edge.run, edge.created)
    return (now, *edge.older)


def _edges(edges: Sequence[Edge]) -> tuple[Edge, ...]:
    """Edges, each once, the largest first."""
    found: dict[tuple[str, str], list[Measurement]] = {}
    for edge in edges:
        found.setdefault((edge.source, edge.target), []).extend(measurements(edge))
    joined = (_edge(*ends, _newest_first(many)) for ends, many in found.items())
    return tuple(sorted(joined, key=lambda e: (-abs(e.effect_mean), e.source, e.target)))


def _edge(source: str, target: str, ordered: Sequence[Measurement]) -> Edge:
    now, *older = ordered
    return Edge(source, target, now.effect_mean, now.ci_low, now.ci_high, now.n, tuple(older), now.run, now.created)


def _newest_first(many: Iterable[Measurement]) -> list[Measurement]:
    """Each measurement once: the same numbers of the same run are one, made when they were first seen."""
    first_seen: dict[Measurement, str] = {}
    for one in many:
        same = replace(one, created="")
        first_seen[same] = min(first_seen.get(same, one.created), one.created)
    found = [replace(one, created=created) for one, created in first_seen.items()]
    return sorted(found, key=_age, reverse=True)


def _age(one: Measurement) -> tuple[str, str, float, int, list[float]]:
    bounds = [-math.inf if bound is None else bound for bound in (one.ci_low, one.ci_high)]
    return (one.created, one.run, one.effect_mean, one.n, bounds)


def _nodes(first: Sequence[Node], second: Sequence[Node]) -> tuple[Node, ...]:
    found = {node.id: node for node in first}
    for node in second:
        found[node.id] = _node(found[node.id], node) if node.id in found else node
    return tuple(replace(node, survival=None) for node in sorted(found.values(), key=_place))


def _node(first: Node, second: Node) -> Node:
    """One node of two: whole the newer one that was ablated; what people wrote from the second, else the first."""
    best = max(first, second, key=lambda node: (node.n > 0, node.created, node.run, repr(_bare(node))))
    return replace(
        best,
        pinned=first.pinned or second.pinned,
        label=first.label if second.label is None else second.label,
        group=first.group if second.group is None else second.group,
        neuronpedia=best.neuronpedia or first.neuronpedia or second.neuronpedia,
    )


def _bare(node: Node) -> Node:
    """A node without what is joined on its own."""
    return replace(node, pinned=False, label=None, group=None, neuronpedia=None)


def _place(node: Node) -> tuple[int, int, str, int, str]:
    """Sorts nodes by the order in which the model computes them."""
    return (node.layer, _order(node.site), node.site, node.feature, node.id)


def _order(site: str) -> int:
    return SITES.index(site) if site in SITES else len(SITES)


def _metadata(a: Metadata, b: Metadata, edges: Sequence[Edge]) -> Metadata:
    runs = _runs((*a.runs, *b.runs))
    total = math.fsum(run.abs_effect_measured for run in runs)
    drawn = math.fsum(abs(edge.effect_mean) for edge in edges)
    saes = {(sae.layer, _order(sae.site), sae.site): sae for sae in (*a.saes, *b.saes)}
    prompts = {
        prompt: answer for graph in (a, b) for prompt, answer in zip_longest(graph.prompts, graph.answers, fillvalue="")
    }
    return replace(  # the model, how effects were measured, the run and the version: the second's
        b,
        release=", ".join(sorted({run.release for run in runs})),
        layers=tuple(sorted({*a.layers, *b.layers})),
        sites=tuple(sorted({*a.sites, *b.sites})),
        saes=tuple(saes[key] for key in sorted(saes)),
        num_sequences=_agreed(run.num_sequences for run in runs),
        seed=_agreed(run.seed for run in runs),
        min_effect=min(a.min_effect, b.min_effect),
        edges_measured=sum(run.edges_measured for run in runs),
        share_drawn=min(1.0, drawn / total) if total else 0.0,
        runs=runs,
        created=max(a.created, b.created),
        start="; ".join(sorted({run.start for run in runs} - {""})),
        prompts=tuple(sorted(prompts)),
        answers=tuple(prompts[prompt] for prompt in sorted(prompts)),
        repeats=None,
    )


def _runs(runs: Iterable[RunFacts]) -> tuple[RunFacts, ...]:
    """Each run once: of one that measured the same when it was drawn twice, the later.

    Its fingerprint doesn't say which features it ablated: with other pins it measured other effects.
    """
    latest: dict[tuple[str, str, int, float], RunFacts] = {}
    for run in runs:
        key = run.run, run.fingerprint, run.edges_measured, run.abs_effect_measured
        latest[key] = max(latest.get(key, run), run, key=_age_of_run)
    return tuple(latest[key] for key in sorted(latest, key=lambda key: (latest[key].created, key)))


def _age_of_run(run: RunFacts) -> tuple[object, ...]:
    return (run.created, *astuple(run))


def _agreed(numbers: Iterable[int]) -> int | None:
    """What all say, or None."""
    said = set(numbers)
    return said.pop() if len(said) == 1 else None
