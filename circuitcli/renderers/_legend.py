"""What stands over a picture: what it shows, how it was made, and what its colours mean, in words."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from circuitcli.core.circuit import Circuit
from circuitcli.core.metadata import Metadata
from circuitcli.renderers import _change, _dictionaries, _question, _survival, _validated
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
    if diff := circuit.metadata.diff:
        return words(_change.title(diff))
    if circuit.metadata.attribution is not None:
        return _question.question(circuit)
    return f"Feature circuit of {words(circuit.metadata.model)}"


def settings(circuit: Circuit) -> str:
    """One line: the dictionaries, how features were ablated and read, on what sample, when and with which version."""
    metadata, noun = circuit.metadata, _dictionaries.noun(circuit)
    asked = metadata.attribution is not None  # which says itself where, and of how many prompts
    made = [
        f"{noun} {words(metadata.release)} ({_list(metadata.sites, 'site')}, {_list(metadata.layers, 'layer')})",
        f"{words(metadata.intervention)}{_strength(metadata.strength)} ablation",
        "" if asked else f"positions {words(metadata.positions)}{_horizon(metadata.horizon)}",
        "" if asked else _sequences(metadata.num_sequences),
        words(metadata.created)[:10],
        f"circuit {words(metadata.version)}".strip(),
    ]
    return " · ".join(part for part in made if part)


def origin(metadata: Metadata) -> list[str]:
    """A line each: the prompts that were read and what the model says next, and how the start was chosen, if known."""
    prompts = [words(textwrap.shorten(prompt, PROMPT_LIMIT, placeholder=" …")) for prompt in metadata.prompts]
    many = f" and {len(prompts) - 1} more" if len(prompts) > 1 else ""
    answer = next((f" → {words(said)}" for said in metadata.answers if said), "")
    read = f"prompt “{prompts[0]}”{answer}{many}" if prompts else ""
    start = words(metadata.start)
    return [line for line in (read, start and f"start: {start}") if line]


def share(circuit: Circuit) -> str:
    """One line: how much of what was measured is in the picture."""
    if diff := circuit.metadata.diff:
        return _change.summary(diff, [edge.change for edge in circuit.edges])
    if circuit.metadata.attribution is not None:
        return _question.shown(circuit)
    facts, least = circuit.metadata, "at least " if len(circuit.metadata.runs) > 1 else ""
    return (
        f"{len(circuit.edges):,} of {facts.edges_measured:,} measured effects drawn: "
        f"{least}{percent(facts.share_drawn)} of the total |effect|"
    )


def changes(circuit: Circuit) -> list[tuple[str, str]]:
    """What the colours of a difference are called, and what they mean in words; none of another circuit."""
    if not circuit.metadata.diff:
        return []
    told = _change.WORDS_OF_PROMPTS if circuit.metadata.attribution else _change.WORDS
    return [*told.items(), ("unchanged", _change.AS_IT_WAS)]


def header(circuit: Circuit, zoom: float) -> str:
    """Title, settings, share drawn and legend, as one HTML-like table; `zoom` times as large as in a small picture."""
    size = round(SIZE * zoom)
    rows = [
        [_line(title(circuit), round(TITLE_SIZE * zoom), bold=True)],
        [_line(settings(circuit), size, color=FACTS)],
        *([_line(line, size, color=FACTS)] for line in origin(circuit.metadata)),
        [_line(share(circuit), size, bold=True)],
        *([_line(line, size, color=FACTS)] for line in (_dictionaries.next_alone(circuit),) if line),
        *([_line(line, size)] for line in (_validated.sentence(circuit),) if line),
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
        ("", _survival.legend(circuit.metadata) or "opacity: |effect| relative to the largest drawn"),
        ("", _range(magnitudes)),
    ]
    if circuit.metadata.diff:
        left = [(_arrow(_change.COLORS[change], size), text) for change, text in _change.WORDS.items()]
        left += [(_arrow(_change.UNCHANGED, size), _change.AS_IT_WAS), ("", _range(magnitudes))]
    right = [
        (_tokens("tokens", size, RAISES, BLUE_TINT), "blue tokens: promoted (ablation lowers them)"),
        (_tokens("tokens", size, LOWERS, RED_TINT), "red tokens: suppressed (ablation raises them)"),
        (shades, "shade: activation, relative to the feature's largest"),
        (_tokens("token", size, INK, blend(SHADE, 1.0)), "bold: the firing token · ␣ space · ⏎ newline · ⇥ tab"),
    ]
    if circuit.metadata.prompts:
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


def _strength(strength: float | None) -> str:
    return "" if strength is None else f" (maximum × {strength:g})"


def _horizon(horizon: int) -> str:
    return f" (at most {horizon:,} behind)" if horizon else ""


def _sequences(count: int | None) -> str:
    return "1 sequence" if count == 1 else f"{'?' if count is None else f'{count:,}'} sequences"


def _list(items: Sequence[int] | Sequence[str], word: str) -> str:
    """`layer 4`, `layers 4–6` of consecutive ones, `sites attn_out, mlp_out`."""
    if len(items) == 1:
        return f"{word} {words(str(items[0]))}"
    numbers = [item for item in items if isinstance(item, int)]
    if numbers and numbers == list(range(numbers[0], numbers[0] + len(items))):
        return f"{word}s {numbers[0]}–{numbers[-1]}"
    return f"{word}s {', '.join(words(str(item)) for item in items)}"
