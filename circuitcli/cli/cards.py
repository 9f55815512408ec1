"""How cards of features, and the positions of a prompt, are shown.

A terminal sees one card after another; in a pipe each row begins with the name of its feature, so that grep finds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from circuitcli.cli import cut, tables
from circuitcli.cli.console import Terminal
from circuitcli.cli.layout import Column
from circuitcli.cli.tables import PROMOTED, SUPPRESSED, context_text, interval, token_text, tokens_text
from circuitcli.core.circuit import Context, Edge, Node, TokenEffect
from circuitcli.core.sites import span
from circuitcli.core.tokens import ELLIPSIS
from circuitcli.results.cards import Card
from circuitcli.results.next_tokens import FollowedToken
from circuitcli.results.positions import Firing, Prompt
from circuitcli.runtime.neuronpedia import Explained, Weight

if TYPE_CHECKING:
    from circuitcli.cli.console import Cell

_LABEL_WIDTH = 80
NOTHING = "–"
_LABELS = Column("label", cut.at_end)
_PLACE = ("prompt", "position", "token")


def card(found: Card, terminal: Terminal) -> None:
    """One feature: its facts, contexts, tokens, causes and consequences, and what Neuronpedia says of it."""
    node = found.feature
    _facts(found, terminal)
    _contexts(terminal, node, "Top contexts", node.contexts, node.max_activation)
    pairs = zip_longest(map(_effect, node.promoted), map(_effect, node.suppressed), fillvalue=("", "", ""))
    tokens = [(*lowered, *raised) for lowered, raised in pairs]
    columns = ("promoted", "nats", "Δp", "suppressed", "nats", "Δp")
    _table(terminal, node, "Next tokens (ablated − clean)", columns, tokens)
    rows = [row for ablation in found.next_tokens for row in tables.followed_rows(ablation)]
    _table(terminal, node, "The likeliest next tokens (ablated − clean)", tables.FOLLOWED, rows)
    _edges(terminal, found, "Causes (ablated − clean)", "cause", found.causes)
    _edges(terminal, found, "Consequences (ablated − clean)", "consequence", found.consequences or ())
    if found.explained:
        _explained(terminal, node, found.explained)
    if found.note:
        terminal.say(f"Note: {found.note}")


def _facts(found: Card, terminal: Terminal) -> None:
    node = found.feature
    facts = {
        "density": f"{node.density:.2%}",
        "max activation": f"{node.max_activation:.2f}",
        "n": str(node.n) if node.n else NOTHING,
        "KL": NOTHING if node.kl_mean is None else f"{node.kl_mean:.4f}",
        "in the plan": "pinned" if node.pinned and found.planned else "yes" if found.planned else "no",
    }
    if node.writes:
        facts = {"writes": span(node.writes)} | facts
    columns: tuple[str | Column, ...] = ("feature", *facts, _LABELS, "Neuronpedia")
    row = (node.id, *facts.values(), short(node.label), node.neuronpedia or NOTHING)
    terminal.table(f"Feature {node.id}", columns, [row])


def _contexts(terminal: Terminal, node: Node, title: str, contexts: Sequence[Context], largest: float) -> None:
    rows = [
        (f"{context.activations[context.firing]:.2f}", context_text(context, terminal.styled, largest))
        for context in contexts
    ]
    _table(terminal, node, title, ("activation", "context"), rows)


def _edges(terminal: Terminal, found: Card, title: str, end: str, edges: Sequence[Edge]) -> None:
    others = [edge.source if end == "cause" else edge.target for edge in edges]
    rows = [
        (other, f"{e.effect_mean:+.3f}", interval(e), str(e.n), short(found.labels.get(other)))
        for other, e in zip(others, edges, strict=True)
    ]
    _table(terminal, found.feature, title, (end, "mean effect", "95% interval", "n", _LABELS), rows)


def _explained(terminal: Terminal, node: Node, explained: Explained) -> None:
    """What others say: their explanations, contexts, and the tokens that the decoder direction writes for."""
    day = explained.fetched
    rows = [(short(text),) for text in explained.explanations]
    _table(terminal, node, f"Explanations on Neuronpedia ({day})", (Column("explanation", cut.at_end),), rows)
    largest = max((c.activations[c.firing] for c in explained.contexts), default=0.0)
    _contexts(terminal, node, f"Contexts on Neuronpedia ({day})", explained.contexts, largest)
    pairs = zip_longest(map(_weight, explained.promoted), map(_weight, explained.suppressed), fillvalue=("", ""))
    tokens = [(*raised, *lowered) for raised, lowered in pairs]
    columns = ("written for", "logit", "written against", "logit")
    _table(terminal, node, f"Tokens of its direction, on Neuronpedia ({day})", columns, tokens)


def _weight(weight: Weight) -> tuple[str, str]:
    return token_text(weight.token), f"{weight.value:+.2f}"


def _table(
    terminal: Terminal, node: Node, title: str, columns: Sequence[str | Column], rows: Sequence[Sequence[Cell]]
) -> None:
    """A table about one feature."""
    if not terminal.piped:
        terminal.table(title, columns, rows)
    else:
        terminal.table(title, ("feature", *columns), [(node.id, *row) for row in rows])


def _effect(effect: TokenEffect) -> tuple[str, str, str]:
    return token_text(effect.token), f"{effect.effect_mean:+.2f}", tables.delta_p(effect.prob_effect_mean)


def positions(prompts: Sequence[Prompt], terminal: Terminal) -> None:
    """What the model says next at each position; then what fires at each, on a terminal a table a position.

    Where nothing fires there is none: a line says where.
    """
    places = [
        ((str(prompt.seq), str(position.pos), token_text(position.token)), position)
        for prompt in prompts
        for position in prompt.positions
    ]
    terminal.table(
        "What the model itself says next",
        (*_PLACE, tables.SAID),
        [(*place, tables.said_text(at.next_tokens)) for place, at in places],
    )
    next_token = Column("likeliest next", cut.items)
    columns = ("feature", "activation", "KL", next_token, PROMOTED, SUPPRESSED, _LABELS)
    firing = [(place, [_firing(f) for f in at.features]) for place, at in places if at.features]
    if terminal.piped:
        rows = [(*place, *row) for place, found in firing for row in found]
        terminal.table(
            "What fires at each position, and what ablating it there does to the next token", (*_PLACE, *columns), rows
        )
    else:
        for (seq, pos, token), found in firing:
            terminal.table(f"What fires at position {pos} of prompt {seq}: {token}", columns, found)
    for prompt in prompts:
        empty = [str(position.pos) for position in prompt.positions[1:] if not position.features]
        if empty:
            terminal.say(f"Prompt {prompt.seq}: nothing that is shown fires at {', '.join(empty)}.")
    terminal.say("At position 0 nothing is counted.")


def _firing(firing: Firing) -> tuple[str, ...]:
    return (
        firing.feature,
        f"{firing.activation:.2f}",
        NOTHING if firing.kl is None else f"{firing.kl:.4f}",
        _likeliest(firing.next_tokens),
        tokens_text(firing.promoted, dp=True) or NOTHING,
        tokens_text(firing.suppressed, dp=True) or NOTHING,
        short(firing.label),
    )


def _likeliest(tokens: Sequence[FollowedToken]) -> str:
    if not tokens:
        return NOTHING
    return f"{token_text(tokens[0].token)} {tokens[0].effect:+.2f} ({tables.delta_p(tokens[0].prob_effect)})"


def short(label: str | None) -> str:
    """A label on one line of a table."""
    text = " ".join((label or NOTHING).split())
    return text if len(text) <= _LABEL_WIDTH else text[: _LABEL_WIDTH - len(ELLIPSIS)] + ELLIPSIS
