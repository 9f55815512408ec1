"""What stands over a picture: what it shows, how it was made, and what its colours mean, in words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

from circuitcli.core.circuit import Circuit
from circuitcli.renderers import _change
from circuitcli.renderers._html import (
    BLUE_TINT,
    FACTS,
    INK,
    LOWERS,
    RAISES,
    RED_TINT,
    SHADE,
    blend,
    cell,
    font,
    table,
    width,
    words,
)
from circuitcli.renderers._node import number, percent

TITLE_SIZE = 30
SIZE = 17
SCALE = (0.1, 0.4, 0.7, 1.0)  # magnitudes, relative to the largest drawn
FAINTEST = 0.3
PROMPT_LIMIT = 100  # characters of a prompt


def opacity(magnitude: float, largest: float) -> float:
    """Of an arrow: from `FAINTEST` at no effect to 1 at the largest drawn."""
    return FAINTEST + (1 - FAINTEST) * (magnitude / largest if largest > 0 else 0.0)


def title(circuit: Circuit) -> str:
    """One line: what the picture shows."""
    if diff := circuit.metadata.get("diff"):
        return _words(_change.title(diff))
    return f"Feature circuit of {_words(circuit.metadata.get('model', 'a model'))}"


def settings(metadata: dict[str, Any]) -> str:
    """One line: the SAEs, how features were ablated and read, on what sample, when and with which version."""
    made = [
        f"SAEs {_words(metadata.get('release', 'unknown'))} ({_list(metadata.get('sites'), 'site')}, "
        f"{_list(metadata.get('layers'), 'layer')})",
        f"{_words(metadata.get('intervention', 'unknown'))}{_strength(metadata.get('strength'))} ablation",
        f"positions {_words(metadata.get('positions', 'unknown'))}{_horizon(metadata.get('horizon'))}",
        _sequences(metadata.get("num_sequences")),
        _words(metadata.get("created", ""))[:10],
        f"circuit {_words(metadata.get('version', ''))}".strip(),
    ]
    return " · ".join(part for part in made if part)


def origin(metadata: dict[str, Any]) -> list[str]:
    """A line each: the prompts that were read and what the model says next, and how the start was chosen, if known."""
    prompts = [
        words(textwrap.shorten(str(prompt), PROMPT_LIMIT, placeholder=" …")) for prompt in metadata.get("prompts", ())
    ]
    many = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
    answer = next((f" → {words(str(said))}" for said in metadata.get("answers", ()) if said), "")
    read = f"prompt “{prompts[0]}”{answer}{many}" if prompts else ""
    start = _words(metadata.get("start", ""))
    return [line for line in (read, start and f"start: {start}") if line]


def share(circuit: Circuit) -> str:
    """One line: how much of what was measured is in the picture."""
    if diff := circuit.metadata.get("diff"):
        return _change.summary(diff, [edge.change for edge in circuit.edges])
    measured = _count(circuit.metadata.get("edges_measured"))
    drawn = circuit.metadata.get("share_drawn")
    least = "at least " if len(circuit.metadata.get("runs", ())) > 1 else ""
    of_total = f": {least}{percent(drawn)} of the total |effect|" if isinstance(drawn, (int, float)) else ""
    return f"{len(circuit.edges):,} of {measured} measured effects drawn{of_total}"


def changes(circuit: Circuit) -> list[tuple[str, str]]:
    """What the colours of a difference are called, and what they mean in words; none of another circuit."""
    return [*_change.WORDS.items(), ("unchanged", _change.AS_IT_WAS)] if circuit.metadata.get("diff") else []


def header(circuit: Circuit, zoom: float) -> str:
    """Title, settings, share drawn and legend, as one HTML-like table; `zoom` times as large as in a small picture."""
    size = round(SIZE * zoom)
    rows = [
        [_line(title(circuit), round(TITLE_SIZE * zoom), bold=True)],
        [_line(settings(circuit.metadata), size, color=FACTS)],
        *([_line(line, size, color=FACTS)] for line in origin(circuit.metadata)),
        [_line(share(circuit), size, bold=True)],
        [cell(_legend(circuit, size), align="LEFT")],
        [cell(height=round(8 * zoom))],
    ]
    return table(rows, cellpadding=3)


def _legend(circuit: Circuit, size: int) -> str:
    """Two columns: arrows on the left, boxes on the right."""
    magnitudes = [abs(edge.effect_mean) for edge in circuit.edges if math.isfinite(edge.effect_mean)]
    blue, red = ("".join(_arrow(blend(color, opacity(s, 1.0)), size) for s in SCALE) for color in (RAISES, LOWERS))
    shades = "".join(_tokens(" ", size, INK, blend(SHADE, s)) for s in SCALE)
    left = [
        (blue, "blue arrow: ablating the source raises the target"),
        (red, "red arrow: ablating the source lowers the target"),
        ("", "opacity: |effect| relative to the largest drawn"),
        ("", _range(magnitudes)),
    ]
    if circuit.metadata.get("diff"):
        left = [(_arrow(_change.COLORS[change], size), text) for change, text in _change.WORDS.items()]
        left += [(_arrow(_change.UNCHANGED, size), _change.AS_IT_WAS), ("", _range(magnitudes))]
    right = [
        (_tokens("tokens", size, RAISES, BLUE_TINT), "blue tokens: promoted (ablation lowers them)"),
        (_tokens("tokens", size, LOWERS, RED_TINT), "red tokens: suppressed (ablation raises them)"),
        (shades, "shade: activation, relative to the feature's largest"),
        (_tokens("token", size, INK, blend(SHADE, 1.0)), "bold: the firing token · ␣ space · ⏎ newline · ⇥ tab"),
    ]
    if circuit.metadata.get("prompts"):
        right.append(("", "numbers of tokens: change in nats, and of the probability (Δp)"))
    columns = [cell(table([_entry(s, text, size) for s, text in entries]), align="LEFT") for entries in (left, right)]
    return table([[columns[0], cell(width=2 * size), columns[1]]])


def _entry(samples: str, text: str, size: int) -> list[str]:
    """Samples on the left (a table of their own), and what they mean."""
    return [
        cell(table([[samples]]) if samples else "", align="LEFT"),
        cell(width=size // 2),
        cell(font(text, size=size), align="LEFT", width=width(text, size)),
    ]


def _arrow(color: str, size: int) -> str:
    return cell(font("→", size=round(1.5 * size), color=color, bold=True), width=round(1.6 * size), align="LEFT")


def _tokens(text: str, size: int, color: str, background: str) -> str:
    run = font(text, size=size, color=color, bold=color == INK)
    return cell(run, bgcolor=background, width=width(text, size, bold=True) + 6, align="CENTER")


def _range(magnitudes: Sequence[float]) -> str:
    if not magnitudes:
        return "no effect is drawn"
    low, high = number(min(magnitudes)), number(max(magnitudes))
    return f"|effect| from {low} to {high}, in SAE units of the target"


def _line(text: str, size: int, *, color: str = INK, bold: bool = False) -> str:
    return cell(font(text, size=size, color=color, bold=bold), align="LEFT", width=width(text, size, bold=bold))


def _words(value: object) -> str:
    return words(str(value))


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "?"


def _strength(value: object) -> str:
    return f" (maximum × {value:g})" if isinstance(value, (int, float)) else ""


def _horizon(value: object) -> str:
    return f" (at most {_count(value)} behind)" if value else ""


def _sequences(value: object) -> str:
    return "1 sequence" if value == 1 else f"{_count(value)} sequences"


def _list(value: object, word: str) -> str:
    """`layer 4`, `layers 4–6` of consecutive ones, `sites attn_out, mlp_out`."""
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(items) == 1:
        return f"{word} {_words(items[0])}"
    numbers = [item for item in items if isinstance(item, int)]
    if numbers and numbers == list(range(numbers[0], numbers[0] + len(items))):
        return f"{word}s {numbers[0]}–{numbers[-1]}"
    return f"{word}s {', '.join(_words(item) for item in items)}"
