"""What of a circuit of a prompt stands on a slide: nodes, groups folded into one, and the arrows between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from heapq import heappop, heappush
from typing import NamedTuple

from circuitcli.core.circuit import Change, Circuit, Edge, Node

TARGETS = 10  # at most
ARROWS = 2  # for each box, about: the strongest, and of each box at least one

Ends = tuple[str, str]


class Part(NamedTuple):
    """What stands in one box: a node, or a group with the sum of its members' effects.

    `first` is the most influential member, at whose place it stands.
    """

    id: str
    first: Node
    members: tuple[Node, ...]
    effect: float | None
    estimated: bool

    @property
    def group(self) -> str | None:
        """The group's name; None of what is a node of its own."""
        return self.first.group if len(self.members) > 1 else None


class Arrow(NamedTuple):
    """All edges from one part to another: the sum of their weights."""

    source: str
    target: str
    weight: float
    edges: tuple[Edge, ...]

    @property
    def change(self) -> Change | None:
        """In the graph of a difference: what became of the strongest of them."""
        return max(self.edges, key=lambda edge: abs(edge.effect_mean)).change


class Choice(NamedTuple):
    """The parts and arrows that are drawn, in the order of their influence and strength."""

    parts: list[Part]
    arrows: list[Arrow]


def folded(circuit: Circuit) -> Choice:
    """All parts, the most influential first, and all arrows between two of them, the strongest first."""
    groups: dict[str, list[Node]] = defaultdict(list)
    for node in circuit.nodes:
        groups[node.group or ""].append(node)
    members = {node.id: [node] for name, many in groups.items() for node in many if not name or len(many) == 1}
    for name, many in groups.items():
        if name and len(many) > 1:
            members[_new(f"group {name}", {node.id for node in circuit.nodes})] = many
    parts = sorted((_part(name, many) for name, many in members.items()), key=_order)
    home = {node.id: name for name, many in members.items() for node in many}
    edges: dict[Ends, list[Edge]] = defaultdict(list)
    for edge in circuit.edges:
        if edge.source in home and edge.target in home and home[edge.source] != home[edge.target]:
            edges[home[edge.source], home[edge.target]].append(edge)
    arrows = [Arrow(*ends, sum(edge.effect_mean for edge in many), tuple(many)) for ends, many in edges.items()]
    return Choice(parts, sorted(arrows, key=lambda one: (-abs(one.weight), one.source, one.target)))


def chosen(whole: Choice, fits: Callable[[Sequence[Part]], bool], most: int) -> Choice:
    """As many parts as fit, at most `most` besides targets: from these downwards always the most influential next one.

    That is one with an arrow to what is drawn already, so that all that is drawn leads to a target.
    """
    targets = [part for part in whole.parts if part.first.kind == "target"][:TARGETS]
    order = _downwards(whole, targets) if targets else whole.parts
    counts = range(min(len(order), most), 0, -1)  # what is more may fit where less doesn't
    count = next((n for n in counts if fits([*targets, *order[:n]])), 0)
    drawn = [*targets, *order[:count]]
    return Choice(drawn, _strongest(whole.arrows, {part.id for part in drawn}, {part.id for part in targets}))


def _downwards(whole: Choice, targets: Sequence[Part]) -> list[Part]:
    """All parts that lead to a target but these, each with an arrow to one before it."""
    rank = {part.id: i for i, part in enumerate(whole.parts)}
    into: dict[str, list[str]] = defaultdict(list)
    for arrow in whole.arrows:
        into[arrow.target].append(arrow.source)
    seen = {part.id for part in whole.parts if part.first.kind == "target"}
    ahead, found = [part.id for part in targets], []
    waiting: list[int] = []
    while ahead or waiting:
        for source in into[ahead.pop()] if ahead else ():
            if source not in seen:
                seen.add(source)
                heappush(waiting, rank[source])
        if waiting and not ahead:
            found.append(whole.parts[heappop(waiting)])
            ahead.append(found[-1].id)
    return found


def _new(name: str, taken: Collection[str]) -> str:
    """A name that nothing else has."""
    while name in taken:
        name += "′"
    return name


def _part(name: str, members: Sequence[Node]) -> Part:
    ordered = sorted(members, key=lambda node: (_influence(node), node.id))
    known = [node.attribution for node in ordered if node.attribution and node.attribution.effect is not None]
    effects = [one.effect for one in known if one.effect is not None]
    estimated = any(one.method != "exact" for one in known)
    return Part(name, ordered[0], tuple(ordered), sum(effects) if effects else None, estimated)


def _order(part: Part) -> tuple[float, tuple[float, float, str]]:
    return (_influence(part.first), by_strength(part))


def by_strength(part: Part) -> tuple[float, float, str]:
    """Sorts parts of one place: the strongest first; of targets the likeliest."""
    asked = part.first.attribution
    return (-abs(part.effect or 0.0), -((asked.prob if asked else None) or 0.0), part.id)


def _influence(node: Node) -> float:
    return node.attribution.influence if node.attribution else 1.0


def _strongest(arrows: Sequence[Arrow], names: Collection[str], targets: Collection[str]) -> list[Arrow]:
    """The strongest arrows between the names; of each its strongest to anywhere, however weak that is.

    And of each target its strongest from anywhere.
    """
    between = [arrow for arrow in arrows if arrow.source in names and arrow.target in names]
    strongest: dict[str, Arrow] = {}
    for arrow in between:
        for end in (arrow.source, *([arrow.target] if arrow.target in targets else ())):
            strongest.setdefault(end, arrow)
    most = ARROWS * len(names)
    kept = {id(arrow) for arrow in strongest.values()}
    return [arrow for i, arrow in enumerate(between) if i < most or id(arrow) in kept]
