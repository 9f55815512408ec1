"""A run in a notebook: `show("my-run")` as the last line of a cell draws its graph and cards of features.

Nothing here needs Jupyter: what `show` returns has the `_repr_html_` that notebooks look for. The graph is the page of
`circuit graph --format html` in a frame that can reach neither the notebook nor the network. Every text of the model,
the user or the network is escaped.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from circuitcli import plugins
from circuitcli.core.tokens import running, visible
from circuitcli.core.words import amount

if TYPE_CHECKING:
    from circuitcli.core.circuit import Circuit, Context, Edge
    from circuitcli.renderers import Renderer
    from circuitcli.results.cards import Card

# What the frame of the page may do: to save edits, and to open Neuronpedia.
_ALLOWED = "allow-scripts allow-downloads allow-popups"
# Characters of a token, and of a label.
_TOKEN, _SENTENCE = 40, 400
_CARDS = 3
_CELL = "text-align:left;vertical-align:top;padding:1px 10px 1px 0;white-space:pre-wrap"


@dataclass(frozen=True)
class Shown:
    """A graph and cards, as notebooks draw them."""

    name: str
    circuit: Circuit
    cards: tuple[Card, ...]
    height: int

    def __repr__(self) -> str:
        counts = {"feature": self.circuit.nodes, "edge": self.circuit.edges, "card": self.cards}
        parts = ", ".join(amount(len(things), one) for one, things in counts.items())
        return f"<the run {self.name}: {parts}; the last line of a cell draws it>"

    def _repr_html_(self) -> str:
        return "\n".join([_frame(self.circuit, self.height), *(_card(card) for card in self.cards)])


def show(run: str | PathLike[str], *features: str, height: int = 720) -> Shown:
    """The graph of a run, and a card for each of these features.

    Args:
        run: The folder of a run whose effects, or attribution, are done.
        features: Such as `4:112`. None: the pinned ones, else the three that matter most to the next token; no cards
            with the graph of an attribution.
        height: Of the graph, in pixels.

    Raises:
        CircuitError: There is no such run, stage or feature; a note on it says what to do.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other libraries, some when they are imported; the notebook's own stay
        return _shown(Path(run), features, height)


def _shown(path: Path, features: Sequence[str], height: int) -> Shown:
    from circuitcli.api import recorded
    from circuitcli.results import circuit
    from circuitcli.results.cards import cards, foremost

    job = recorded(path)
    job.parents("graph")
    results = job.results()
    drawn = circuit.of_run(results)
    if drawn.metadata.attribution is not None and not features:
        return Shown(job.run.title, drawn, (), height)  # cards are of mean effects, which such a run needn't have
    chosen = results.named(features) if features else foremost(results, _CARDS)
    return Shown(job.run.title, drawn, tuple(cards(results, chosen)), height)


def _frame(circuit: Circuit, height: int) -> str:
    """The page of a graph in a frame of its own."""
    renderer: Renderer = plugins.load("renderers", "html")
    [page] = renderer.files(circuit).values()
    return (
        f'<iframe title="The graph" srcdoc="{escape(page.decode())}" sandbox="{_ALLOWED}" referrerpolicy="no-referrer" '
        f'style="width:100%;height:{int(height)}px;border:1px solid #8c8c8c;background:white"></iframe>'
    )


def _card(card: Card) -> str:
    """One feature as tables in a box that opens and closes."""
    node = card.feature
    facts = [
        f"fires at {node.density:.2%} of positions",
        f"largest activation {node.max_activation:.2f}",
        f"ablated at {amount(node.n, 'context')}" if node.n else "not ablated",
        *([] if node.kl_mean is None else [f"mean KL {node.kl_mean:.4f} nats"]),
        *(["pinned"] if node.pinned else []),
        *(["kept, not in the present plan"] if node.n and not card.planned else []),
    ]
    label = f" · {_words(node.label)}" if node.label else ""
    tokens = [
        ("promotes", "  ".join(f"{_text(e.token)} {e.effect_mean:+.2f}" for e in node.promoted)),
        ("suppresses", "  ".join(f"{_text(e.token)} {e.effect_mean:+.2f}" for e in node.suppressed)),
    ]
    parts = [
        f"<p>{escape(' · '.join(facts))}</p>",
        _table(("activation", "context"), _contexts(node.contexts, node.max_activation)),
        _table(("next tokens", "nats, ablated − clean"), (row for row in tokens if row[1])),
        _beside(_edges(card, "cause", card.causes), _edges(card, "consequence", card.consequences or ())),
    ]
    if card.explained:
        others = card.explained.contexts
        largest = max((c.activations[c.firing] for c in others), default=0.0)
        says = [(_words(text),) for text in card.explained.explanations]
        parts.append(
            _beside(_table(("on Neuronpedia",), says), _table(("there", "context"), _contexts(others, largest)))
        )
    if card.note:
        parts.append(f"<p>{_words(card.note)}</p>")
    return f"<details open><summary><b>{_text(node.id)}</b>{label}</summary>{''.join(parts)}</details>"


def _contexts(contexts: Sequence[Context], largest: float) -> Iterator[tuple[str, str]]:
    for context in contexts:
        shares = [value / largest if largest else 0.0 for value in context.activations]
        tokens = zip(context.tokens, shares, strict=True)
        text = "".join(_token(token, share, i == context.firing) for i, (token, share) in enumerate(tokens))
        yield f"{context.activations[context.firing]:.2f}", text


def _token(token: str, share: float, firing: bool) -> str:
    """Shaded by its share of the largest activation; each is isolated, so that right-to-left ones turn no others."""
    shade = f"background:rgba(245,166,35,{min(share, 1):.2f});" if share > 0 else ""
    weight = "font-weight:bold;text-decoration:underline" if firing else ""
    style = f' style="{shade}{weight}"' if shade or weight else ""
    return f"<bdi{style}>{escape(running(token, _TOKEN, firing=firing))}</bdi>"


def _edges(card: Card, end: str, edges: Sequence[Edge]) -> str:
    """A table of causes or consequences; labels only if one of them has one."""
    others = [edge.source if end == "cause" else edge.target for edge in edges]
    rows = []
    for other, edge in zip(others, edges, strict=True):
        bounds = "–" if edge.ci_low is None or edge.ci_high is None else f"[{edge.ci_low:+.3f}, {edge.ci_high:+.3f}]"
        label = [_words(card.labels.get(other, "–"))] if card.labels else []
        rows.append((_text(other), f"{edge.effect_mean:+.3f}", bounds, str(edge.n), *label))
    columns = (end, "mean effect", "95% interval", "n", *(["label"] if card.labels else []))
    return _table(columns, rows)


def _beside(*parts: str) -> str:
    """Beside one another, as far as there is room."""
    return f'<div style="display:flex;flex-wrap:wrap;align-items:flex-start;gap:0 40px">{"".join(parts)}</div>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already; none without rows."""
    head = _row("th", map(escape, columns))
    body = "".join(_row("td", row) for row in rows)
    return f'<table style="margin:0 0 12px"><thead>{head}</thead><tbody>{body}</tbody></table>' if body else ""


def _row(kind: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f'<{kind} style="{_CELL}">{cell}</{kind}>' for cell in cells) + "</tr>"


def _text(token: str) -> str:
    """A token or a name: every character visible, cut, escaped."""
    return escape(visible(token, _TOKEN))


def _words(text: str) -> str:
    """A label or a sentence: the same, but its spaces are spaces."""
    return escape(visible(text, _SENTENCE).replace("␣", " "))
