"""What changed between two circuits of one model: nodes and edges that came, went, or have another effect now.

An edge of both has changed where its two 95% intervals don't overlap. Where one of them is missing nobody can tell,
unless both measurements are the same; such edges are told apart.

Circuits of prompts are compared where they answer the same question. What they say of a prompt has no interval: a node
has changed where its effect is another number, and an edge where its weight is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from circuitcli.core.circuit import Change, Circuit, Edge, Node
from circuitcli.core.merge import measurements, require_same_features
from circuitcli.core.metadata import DiffFacts, Metadata
from circuitcli.errors import InputError

Pair = tuple[Edge, Edge]
# What two circuits of prompts must share, besides the prompts.
_QUESTION = ("metric", "unit", "positions", "prompts", "tokens")
# Of a number, relatively: more than the size of batches can change.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Difference:
    """Two circuits compared; pairs are the same edge before and after. All are sorted, the largest effects first.

    Attributes:
        nodes_gained, nodes_lost: In the second only, in the first only.
        nodes_changed: Of both, before and after, of circuits of prompts: they have another effect.
        gained, lost: Edges of the second only, of the first only.
        changed: Edges of both whose intervals don't overlap; of circuits of prompts, whose weights are others.
        untold: Edges of both that have other numbers, of which one has no interval.
        same: How many edges of both are as they were, as far as their intervals can tell.
    """

    nodes_gained: tuple[Node, ...]
    nodes_lost: tuple[Node, ...]
    nodes_changed: tuple[tuple[Node, Node], ...]
    gained: tuple[Edge, ...]
    lost: tuple[Edge, ...]
    changed: tuple[Pair, ...]
    untold: tuple[Pair, ...]
    same: int

    @property
    def empty(self) -> bool:
        """Whether nothing is known to differ, and nothing is untold."""
        nodes = self.nodes_gained or self.nodes_lost or self.nodes_changed
        return not (nodes or self.gained or self.lost or self.changed or self.untold)


def compare(before: Circuit, after: Circuit) -> Difference:
    """What changed from the first circuit to the second.

    Raises:
        InputError: They are of different models, or of different SAEs at one site, or answer different questions.
    """
    require_same_features(before.metadata, after.metadata)
    require_same_question(before.metadata, after.metadata)
    asked = after.metadata.attribution is not None
    old, new = ({(edge.source, edge.target): edge for edge in circuit.edges} for circuit in (before, after))
    both = _largest(edge for ends, edge in new.items() if ends in old)
    pairs = [(old[edge.source, edge.target], edge) for edge in both]
    changed = tuple(pair for pair in pairs if (_reweighted if asked else _apart)(*pair))
    untold = tuple(pair for pair in pairs if not asked and _untold(*pair))
    old_ids, new_ids = ({node.id: node for node in circuit.nodes} for circuit in (before, after))
    nodes = [(old_ids[node.id], node) for node in after.nodes if node.id in old_ids]
    turned = [(one, other) for one, other in nodes if _other(_says(one), _says(other))]
    return Difference(
        nodes_gained=tuple(node for node in after.nodes if node.id not in old_ids),
        nodes_lost=tuple(node for node in before.nodes if node.id not in new_ids),
        nodes_changed=tuple(sorted(turned, key=lambda pair: -abs(_says(pair[1])))),
        gained=_largest(edge for ends, edge in new.items() if ends not in old),
        lost=_largest(edge for ends, edge in old.items() if ends not in new),
        changed=changed,
        untold=untold,
        same=len(pairs) - len(changed) - len(untold),
    )


def require_same_question(a: Metadata, b: Metadata) -> None:
    """Refuse to compare two circuits in which one name may stand for two things, or numbers for two quantities.

    Raises:
        InputError: One of them is of mean effects, or they are of different prompts or metrics.
    """
    one, other = a.attribution, b.attribution
    if one is None and other is None:
        return
    if one is None or other is None:
        raise InputError(
            "One of the graphs answers a question about a prompt, the other has mean effects.",
            hint="Compare two that were made alike: draw the other one with `circuit graph --of attribution`.",
        )
    pairs = [(getattr(one, what), getattr(other, what)) for what in _QUESTION]
    differ = [(first, second) for first, second in pairs if first != second]
    if not differ and a.prompts == b.prompts:
        return
    told = next((f"{first} and {second}" for first, second in differ if isinstance(first, str)), "of different prompts")
    raise InputError(
        f"The graphs answer different questions: {told}.",
        hint="Ask both the same: the same prompts, --target, --targets, --against and --node-positions.",
    )


def _says(node: Node) -> float:
    """What a node of a prompt does; of a target, what the metric is."""
    asked = node.attribution
    if asked is None:
        return 0.0
    return asked.activation if asked.effect is None else asked.effect


def _reweighted(a: Edge, b: Edge) -> bool:
    return _other(a.effect_mean, b.effect_mean)


def _other(a: float, b: float) -> bool:
    return abs(a - b) > _TOLERANCE * max(abs(a), abs(b))


def _largest(edges: Iterable[Edge]) -> tuple[Edge, ...]:
    return tuple(sorted(edges, key=lambda e: (-abs(e.effect_mean), e.source, e.target)))


def _apart(a: Edge, b: Edge) -> bool:
    """Whether two 95% intervals don't overlap."""
    if a.ci_low is None or a.ci_high is None or b.ci_low is None or b.ci_high is None:
        return False
    return a.ci_high < b.ci_low or b.ci_high < a.ci_low


def _untold(a: Edge, b: Edge) -> bool:
    numbers = [(e.effect_mean, e.ci_low, e.ci_high, e.n) for e in (a, b)]
    return any(low is None or high is None for _, low, high, _ in numbers) and numbers[0] != numbers[1]


def drawn(before: Circuit, after: Circuit, names: tuple[str, str]) -> Circuit:
    """The difference as one circuit: all nodes and edges of both, each with what became of it.

    What the first measured of an edge that has changed, or may have, is among the `older` of the second's.

    Args:
        before: The first.
        after: The second; what both have is drawn with its numbers.
        names: Of the two, for the title.
    """
    found = compare(before, after)
    turned: dict[str, Change] = {
        **{node.id: "gained" for node in found.nodes_gained},
        **{node.id: "changed" for _, node in found.nodes_changed},
    }
    nodes = [replace(node, change=turned.get(node.id)) for node in after.nodes]
    became: dict[tuple[str, str], Change] = {
        **{(edge.source, edge.target): "gained" for edge in found.gained},
        **{(edge.source, edge.target): "changed" for _, edge in found.changed},
    }
    old = {(edge.source, edge.target): edge for edge, _ in (*found.changed, *found.untold)}
    edges = [
        replace(_after(old.get((edge.source, edge.target)), edge), change=became.get((edge.source, edge.target)))
        for edge in after.edges
    ]
    diff = DiffFacts(names[0], names[1], found.same, len(found.untold))
    return Circuit(
        replace(after.metadata, diff=diff, repeats=None),
        (*nodes, *(replace(node, change="lost") for node in found.nodes_lost)),
        (*edges, *(replace(edge, change="lost") for edge in found.lost)),
        after.calibration,
    )


def _after(before: Edge | None, edge: Edge) -> Edge:
    """An edge that remembers what another measured of it."""
    known = measurements(edge)
    more = [one for one in measurements(before) if one not in known] if before else []
    return replace(edge, older=tuple(sorted((*more, *edge.older), key=lambda one: one.created, reverse=True)))
