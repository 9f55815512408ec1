"""HTML: one page that opens from disk in any browser, offline, and in which a circuit is explored and edited.

The page is `_page/page.html` with everything in it: styles, scripts (ours in `_page/*.js`, and Cytoscape.js, which
draws, zooms and finds what the pointer is on) and the circuit as JSON. A content security policy admits these very
scripts, by their hashes, and nothing else: no network, no inline handlers, no eval. Texts of the model, the user or the
network travel as JSON with `<`, `>` and `&` escaped, and the scripts show them as text only.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from typing import Any

from circuitcli.core.circuit import Circuit
from circuitcli.core.tokens import visible
from circuitcli.renderers import _dictionaries, _legend, _prompt_placement, _question, _survival, _validated
from circuitcli.renderers._html import words
from circuitcli.renderers._node import running
from circuitcli.renderers._placement import Placement, placement
from circuitcli.renderers._ranks import with_numbers

# In the order in which they build on each other; one script, so that they share their names.
SCRIPTS = (
    *("data", "fold", "dom", "theme", "asked", "card", "box", "compact", "graph", "route", "axis", "overlay", "shown"),
    *("panel", "pins", "keys", "main"),
)
LIBRARY = "vendor/cytoscape.min.js"
TOKEN_LIMIT = 40  # characters of a token in a card; boxes cut shorter
TEXT_LIMIT = 400  # of a name, label or group


@dataclass(frozen=True)
class Html:
    """One HTML document, UTF-8."""

    def files(self, circuit: Circuit) -> dict[str, bytes]:
        return {"circuit.html": page(circuit).encode()}


plugin = Html()


def page(circuit: Circuit) -> str:
    """The whole document."""
    library, own, style = _asset(LIBRARY), script(), _asset("page.css")
    parts = {
        "POLICY": html.escape(_policy((library, own), style)),
        "TITLE": html.escape(_legend.title(circuit)),
        "STYLE": style,
        "LIBRARY": library,
        "SCRIPT": own,
        "DATA": embedded(data(circuit)),
    }
    template = _asset("page.html").split("%%")  # text, NAME, text, NAME, … text
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(template))


def script() -> str:
    """Our own scripts, one after the other."""
    return '"use strict";\n' + "\n".join(_asset(f"{name}.js") for name in SCRIPTS)


def data(circuit: Circuit) -> dict[str, Any]:
    """What the page shows: circuit.json's document, where its boxes stand, and how its texts are shown."""
    placed = _placed(circuit)
    return {
        "document": circuit.to_dict(),
        "boxes": placed.boxes,
        "rows": placed.rows,
        "columns": placed.columns,
        "axis": placed.axis,
        "title": _legend.title(circuit),
        "settings": _legend.settings(circuit),
        "origin": _question.made(circuit)
        or _question.question(circuit)
        or " · ".join(_legend.origin(circuit.metadata)),
        "numbers": with_numbers(circuit),
        "share": " · ".join(filter(None, (_legend.share(circuit), _dictionaries.next_alone(circuit)))),
        "changes": _legend.changes(circuit),
        "calibration": _question.calibration(circuit),
        "warning": _question.warning(circuit),
        "validation": _validated.sentence(circuit),
        "survival": _survival.legend(circuit.metadata),
        "tokens": [[t, running(t, TOKEN_LIMIT), visible(t, TOKEN_LIMIT)] for t in sorted(set(_tokens(circuit)))],
        "texts": [[text, words(text, TEXT_LIMIT)] for text in sorted(set(_texts(circuit)))],
    }


def _placed(circuit: Circuit) -> Placement:
    asked = circuit.metadata.attribution
    return placement(circuit) if asked is None else _prompt_placement.placement(circuit, asked)


def embedded(value: object) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element, open a comment or turn text."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    escaped = {char for char in set(text) if char in "<>&" or not char.isprintable()}  # lone surrogates are among them
    return text.translate({ord(char): _as_escape(char) for char in escaped})


def _as_escape(char: str) -> str:
    """A character as JSON can write it in ASCII."""
    return f"\\u{ord(char):04x}" if char in "<>&" else json.dumps(char)[1:-1]


def _tokens(circuit: Circuit) -> Iterator[str]:
    for node in circuit.nodes:
        for context in node.contexts:
            yield from context.tokens
        yield from (effect.token for effect in (*node.promoted, *node.suppressed))
        if node.attribution is not None:
            yield node.attribution.token


def _texts(circuit: Circuit) -> Iterator[str]:
    """Names and labels, of which some may hold what a reader can't see."""
    for node in circuit.nodes:
        named = (node.id, node.kind, node.site, node.label, node.group, *node.writes)
        yield from (text for text in named if text is not None)
    for edge in circuit.edges:
        yield from (edge.source, edge.target)
        for measurement in edge.older:
            yield from (measurement.run, measurement.created)
    if circuit.metadata.attribution is not None:
        yield from (circuit.metadata.attribution.unit, circuit.metadata.attribution.metric)


def _asset(name: str) -> str:
    return resources.files("circuitcli.renderers").joinpath("_page", name).read_text(encoding="utf-8")


def _policy(scripts: tuple[str, ...], style: str) -> str:
    """Content Security Policy: these scripts and this style, and nothing from anywhere."""
    admitted = " ".join(_hash(text) for text in scripts)
    return f"default-src 'none'; script-src {admitted}; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
