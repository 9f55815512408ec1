"""`circuit diff`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli.console import Terminal
from circuitcli.core.words import amount

if TYPE_CHECKING:
    from circuitcli.core.circuit import Edge, Node
    from circuitcli.stages.diff import Compared

HELP = "Show what changed between two graphs. Nodes and edges gained, lost, and changed beyond their 95% intervals."
EXAMPLES = "circuit diff before-run after-run --output changes.svg"

_BEFORE = typer.Argument(help="The graph before: a run, or a circuit.json.", metavar="BEFORE", show_default=False)
_AFTER = typer.Argument(help="The graph after, likewise.", metavar="AFTER", show_default=False)


def command(
    before: Annotated[Path, _BEFORE],
    after: Annotated[Path, _AFTER],
    output: Annotated[
        Path | None,
        typer.Option("--output", help="Draw it too, as .svg, .png, .html, .dot, .json or .graphml.", metavar="FILE"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No tables.")] = False,
) -> None:
    """Compare, show, and draw if a file is named."""
    from circuitcli.stages import diff

    terminal = Terminal(as_json=as_json, quiet=quiet)
    if output is not None:
        diff.check_output(output, (before, after))
    found = diff.run(before, after)
    if output is not None:
        diff.draw(found, (_name(before), _name(after)), output)
    for what in found.different:
        terminal.say(f"Note: they were measured in different ways: {what}.")
    _show(found, terminal)
    if output is not None:
        terminal.line(str(output))
    terminal.document(_document(found, (str(before), str(after)), output))


def _name(path: Path) -> str:
    """A short name: of a run its folder's, of a file in a run's graph folder that run's."""
    whole = path.resolve()
    return whole.parents[1].name if whole.name == "circuit.json" and whole.parent.name == "graph" else whole.name


def _show(found: Compared, terminal: Terminal) -> None:
    difference, asked = found.difference, found.after.metadata.attribution
    terminal.table("Nodes", ("nodes", "feature", "label", *(("before", "after") if asked else ())), list(_nodes(found)))
    edges = ("edges", "from", "to")
    if asked:
        rows = [(change, *_ends(a, b), _number(a), _number(b)) for change, a, b in _edges(found)]
        terminal.table(f"Edges (replaced − clean, {asked.unit})", (*edges, "before", "after"), rows)
    else:
        columns = (*edges, "before", "95% interval", "after", "95% interval")
        terminal.table("Edges (ablated − clean)", columns, [_row(*row) for row in _edges(found)])
    if difference.empty:
        terminal.say(f"Nothing changed: {amount(len(found.after.nodes), 'node')}, {amount(difference.same, 'edge')}.")
        return
    other = f", {len(difference.nodes_changed)} changed" if asked else ""
    untold = "" if asked else f"{len(difference.untold)} can't be told (without intervals), "
    terminal.say(
        f"Nodes: {len(difference.nodes_gained)} gained, {len(difference.nodes_lost)} lost{other}. Edges: "
        f"{len(difference.gained)} gained, {len(difference.lost)} lost, {len(difference.changed)} changed, "
        f"{untold}{difference.same} as they were."
    )


def _nodes(found: Compared) -> Iterator[tuple[str, ...]]:
    """What became of a node, and of a prompt's what it did before and does after."""
    difference, asked = found.difference, found.after.metadata.attribution is not None
    pairs: list[tuple[str, Node | None, Node | None]] = [
        *(("gained", None, node) for node in difference.nodes_gained),
        *(("lost", node, None) for node in difference.nodes_lost),
        *(("changed", *pair) for pair in difference.nodes_changed),
    ]
    for change, before, after in pairs:
        one = after or before
        assert one is not None
        yield (change, one.id, one.label or "–", *((_effect_of(before), _effect_of(after)) if asked else ()))


def _edges(found: Compared) -> Iterator[tuple[str, Edge | None, Edge | None]]:
    """What became of an edge, and the edge before and after."""
    difference = found.difference
    yield from (("gained", None, edge) for edge in difference.gained)
    yield from (("lost", edge, None) for edge in difference.lost)
    yield from (("changed", a, b) for a, b in difference.changed)
    yield from (("untold", a, b) for a, b in difference.untold)


def _row(change: str, before: Edge | None, after: Edge | None) -> tuple[str, ...]:
    return (change, *_ends(before, after), *_numbers(before), *_numbers(after))


def _ends(before: Edge | None, after: Edge | None) -> tuple[str, str]:
    one = after or before
    assert one is not None
    return one.source, one.target


def _number(edge: Edge | None) -> str:
    return "–" if edge is None else f"{edge.effect_mean:+.3f}"


def _effect_of(node: Node | None) -> str:
    asked = node.attribution if node else None
    return "–" if asked is None or asked.effect is None else f"{asked.effect:+.3f}"


def _numbers(edge: Edge | None) -> tuple[str, str]:
    from circuitcli.cli import tables

    return _number(edge), "–" if edge is None else tables.interval(edge)


def _document(found: Compared, paths: tuple[str, str], output: Path | None) -> dict[str, Any]:
    difference = found.difference
    edges: dict[str, list[dict[str, Any]]] = {"gained": [], "lost": [], "changed": [], "untold": []}
    for change, before, after in _edges(found):
        source, target = _ends(before, after)
        edges[change].append({"source": source, "target": target, "before": _effect(before), "after": _effect(after)})
    nodes: dict[str, list[Any]] = {
        "gained": [node.id for node in difference.nodes_gained],
        "lost": [node.id for node in difference.nodes_lost],
    }
    if found.after.metadata.attribution:
        nodes["changed"] = [
            {"id": after.id, "before": _does(before), "after": _does(after)}
            for before, after in difference.nodes_changed
        ]
    return {
        "before": paths[0],
        "after": paths[1],
        "different": list(found.different),
        "nodes": nodes,
        "edges": {**edges, "same": difference.same},
        "files": [] if output is None else [str(output)],
    }


def _does(node: Node) -> dict[str, Any] | None:
    asked = node.attribution
    return None if asked is None else {"effect": asked.effect, "method": asked.method, "activation": asked.activation}


def _effect(edge: Edge | None) -> dict[str, Any] | None:
    if edge is None:
        return None
    names = ("effect_mean", "ci_low", "ci_high", "n", "run", "created")
    return {name: getattr(edge, name) for name in names}
