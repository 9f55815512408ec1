"""How cards of features, and the positions of a prompt, are shown.

A terminal sees one card after another; in a pipe each row begins with the name of its feature, so that grep finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from circuitcli.cli.console import Terminal
from circuitcli.cli.tables import context_text, interval, token_text, tokens_text
from circuitcli.core.circuit import Edge, Node, TokenEffect
from circuitcli.core.tokens import ELLIPSIS
from circuitcli.stages.cards import Card
from circuitcli.stages.positions import Prompt

if TYPE_CHECKING:
    from circuitcli.cli.console import Cell

_LABEL_WIDTH = 80
NOTHING = "–"


def card(found: Card, terminal: Terminal) -> None:
    """One feature: its facts, contexts, tokens, causes and consequences."""
    node = found.feature
    _facts(node, terminal)
    contexts = [
        (f"{c.activations[c.firing]:.2f}", context_text(c, terminal.styled, node.max_activation)) for c in node.contexts
    ]
    _table(terminal, node, "Top contexts", ("activation", "context"), contexts)
    pairs = zip_longest(node.promoted, node.suppressed)
    _table(
        terminal,
        node,
        "Next tokens (ablated − clean)",
        ("promoted", "nats", "suppressed", "nats"),
        [(*_effect(lowered), *_effect(raised)) for lowered, raised in pairs],
    )
    _edges(terminal, node, "Causes (ablated − clean)", "cause", found.causes)
    consequences = found.consequences or ()
    _edges(terminal, node, "Consequences (ablated − clean)", "consequence", consequences)
    if found.note:
        terminal.say(f"Note: {found.note}")


def _facts(node: Node, terminal: Terminal) -> None:
    facts = {
        "density": f"{node.density:.2%}",
        "max activation": f"{node.max_activation:.2f}",
        "n": str(node.n) if node.n else NOTHING,
        "KL": NOTHING if node.kl_mean is None else f"{node.kl_mean:.4f}",
        "pinned": "yes" if node.pinned else "no",
        "label": short(node.label),
        "Neuronpedia": node.neuronpedia or NOTHING,
    }
    terminal.table(f"Feature {node.id}", ("feature", *facts), [(node.id, *facts.values())])


def _edges(terminal: Terminal, node: Node, title: str, end: str, edges: Sequence[Edge]) -> None:
    others = [edge.source if end == "cause" else edge.target for edge in edges]
    rows = [(other, f"{e.effect_mean:+.3f}", interval(e), str(e.n)) for other, e in zip(others, edges, strict=True)]
    _table(terminal, node, title, (end, "mean effect", "95% interval", "n"), rows)


def _table(terminal: Terminal, node: Node, title: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A table about one feature."""
    if not terminal.piped:
        terminal.table(title, columns, rows)
    else:
        terminal.table(title, ("feature", *columns), [(node.id, *row) for row in rows])


def _effect(effect: TokenEffect | None) -> tuple[str, str]:
    return (token_text(effect.token), f"{effect.effect_mean:+.2f}") if effect else ("", "")


def positions(prompts: Sequence[Prompt], terminal: Terminal) -> None:
    """A row for each feature that fires at a position, and one for a position at which none does."""
    columns = ("prompt", "position", "token", "feature", "activation", "KL", "promoted", "suppressed")
    rows: list[tuple[str, ...]] = []
    for prompt in prompts:
        for position in prompt.positions:
            place = (str(prompt.seq), str(position.pos), token_text(position.token))
            rows += [
                (
                    *place,
                    firing.feature,
                    f"{firing.activation:.2f}",
                    NOTHING if firing.kl is None else f"{firing.kl:.4f}",
                    tokens_text(firing.promoted) or NOTHING,
                    tokens_text(firing.suppressed) or NOTHING,
                )
                for firing in position.features
            ] or [(*place, *[NOTHING] * 5)]
    terminal.table("What fires at each position", columns, rows)


def short(label: str | None) -> str:
    """A label on one line of a table."""
    text = " ".join((label or NOTHING).split())
    return text if len(text) <= _LABEL_WIDTH else text[: _LABEL_WIDTH - len(ELLIPSIS)] + ELLIPSIS
