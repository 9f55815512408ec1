"""The plot of a validation: every curve against the number of nodes, side by side for what stays of the errors.

Drawn by matplotlib, an extra, in its own font, so that the same numbers give the same bytes on the same version of it.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from circuitcli.core.attributed import Measure
from circuitcli.core.evidence.measured import ERRORS
from circuitcli.core.evidence.summary import Point
from circuitcli.core.evidence.validated import REPLACED, Validation
from circuitcli.core.words import amount
from circuitcli.errors import InputError
from circuitcli.renderers._html import FACTS, INK, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZE = (12.8, 7.2)  # inches, 16:9
DPI = 150
RUN_LIMIT = 40  # characters of a run's name
LOWEST, HIGHEST = -0.5, 1.5  # of the axes: what lies beyond is said
MANY = 300  # nodes from which on only 1, 10, 100, … are written at the axis
# Colours of Okabe & Ito, which the colour-blind tell apart; features are whole lines, other components dotted.
LOOKS = {
    "circuit": ("#000000", "-", "o"),
    "exact": ("#0072b2", "-", "s"),
    "atp": ("#e69f00", "-", "^"),
    "activation": ("#009e73", "-", "v"),
    "random": ("#8c8c8c", "--", "D"),
    "neurons": ("#d55e00", ":", "P"),
    "dimensions": ("#cc79a7", ":", "X"),
}
OTHER = ("#56b4e9", "-.", "*")
_TITLES = {
    "kept": "errors of the dictionaries kept",
    "sites": "errors kept at the circuit's sites",
    "removed": "errors of the dictionaries removed",
}
_ROWS = {"faithfulness": "faithfulness f(C)", "completeness": "completeness f(M∖C)"}


def draw(record: Validation, points: Sequence[Point]) -> dict[str, bytes]:
    """The plot of one half, the evaluation where there is one, as `curves.svg` and `curves.png`.

    Raises:
        InputError: matplotlib isn't there.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise InputError(
            "A plot takes matplotlib, which isn't installed.", hint="Install it: `pip install 'circuitcli[plot]'`."
        ) from None
    half = record.budgets[0].half if record.budgets else points[0].half
    here = [point for point in points if point.half == half and point.n > 0]
    with _plain(matplotlib):
        figure = _figure(record, here)
        return {f"curves.{kind}": _written(figure, kind) for kind in ("svg", "png")}


@contextmanager
def _plain(matplotlib: Any) -> Iterator[None]:
    """Nobody's own settings, no mathematics in texts, and no random names in an svg."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.hashsalt": "circuit",
                "text.parse_math": False,
                "font.size": 11,
                "axes.spines.top": False,
                "axes.spines.right": False,
                "axes.edgecolor": FACTS,
                "text.color": INK,
            }
        )
        yield


def _figure(record: Validation, points: Sequence[Point]) -> Figure:
    """Variants of the errors side by side; faithfulness above, completeness below."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    variants = [errors for errors in ERRORS if any(point.errors == errors for point in points)]
    rows = [what for what in _ROWS if any(getattr(point, what).value is not None for point in points)] or list(_ROWS)
    figure = Figure(figsize=SIZE, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12))
    axes = figure.subplots(len(rows), len(variants), sharex=True, sharey="row", squeeze=False)
    curves = sorted({point.curve for point in points}, key=_place)
    for row, what in zip(axes, rows, strict=True):
        row[0].set_ylabel(_ROWS[what])
        row[0].set_ylim(*_ends(points, what))
        for ax, errors in zip(row, variants, strict=True):
            here = [point for point in points if point.errors == errors]
            _panel(ax, [(curve, _line(here, curve, what)) for curve in curves], record)
    for ax, errors in zip(axes[0], variants, strict=True):
        ax.set_title(_TITLES[errors], fontsize=11)
    for ax in axes[-1]:
        ax.set_xlabel("number of nodes")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(1, len(labels)), frameon=False)
    title, facts = _said(record, points[0])
    figure.suptitle(f"{title}\n{facts}", fontsize=12)
    return figure


def _place(curve: str) -> tuple[int, str]:
    """In the order of the legend; the circuit is drawn last, on top of the others."""
    return (list(LOOKS).index(curve) if curve in LOOKS else len(LOOKS), curve)


def _ends(points: Sequence[Point], what: str) -> tuple[float, float]:
    """From the lowest to the highest of a row, intervals and 0 and 1 among them, but no farther than is readable."""
    measures = [getattr(point, what) for point in points]
    values = [end for m in measures for end in (m.value, m.low, m.high) if end is not None]
    low, high = min([0.0, *values]), max([1.0, *values])
    margin = 0.05 * (min(high, HIGHEST) - max(low, LOWEST))
    return max(low, LOWEST) - margin, min(high, HIGHEST) + margin


def _line(points: Iterable[Point], curve: str, what: str) -> list[tuple[int, Measure]]:
    """A curve where it is defined, by the number of nodes."""
    found = ((point.n, getattr(point, what)) for point in points if point.curve == curve)
    return sorted(((n, measure) for n, measure in found if measure.value is not None), key=lambda pair: pair[0])


def _panel(ax: Axes, lines: Sequence[tuple[str, list[tuple[int, Measure]]]], record: Validation) -> None:
    """Curves with their intervals as bands, over a logarithmic axis; the circuit's own size is marked."""
    from matplotlib.ticker import LogLocator, NullLocator

    for level in (0.0, 1.0):
        ax.axhline(level, color=FACTS, linewidth=0.8, alpha=0.5)
    ax.axvline(max(record.n, 1), color=FACTS, linewidth=0.8, linestyle=(0, (2, 3)))
    beyond = 0
    for order, (curve, line) in enumerate(lines):
        color, style, marker = LOOKS.get(curve, OTHER)
        sizes, values = [n for n, _ in line], [measure.value or 0.0 for _, measure in line]
        ends = [(n, m.low, m.high) for n, m in line if m.low is not None and m.high is not None]
        if ends:
            at, low, high = zip(*ends, strict=True)
            ax.fill_between(at, low, high, color=color, alpha=0.15, linewidth=0)
        width = 2.4 if curve == record.curve else 1.4
        label = words(curve)
        looks: dict[str, Any] = {"color": color, "linestyle": style, "marker": marker, "markersize": 4}
        ax.plot(sizes, values, **looks, linewidth=width, label=label, zorder=3 + len(lines) - order)
        beyond += sum(not LOWEST <= value <= HIGHEST for value in values)
    ax.set_xscale("log")
    most = max([record.n, *(n for _, line in lines for n, _ in line)])
    ax.set_xlim(0.9, most * 1.1 + 1)
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if most < MANY else (1.0,)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter("{x:,g}")
    if beyond:
        said = f"{beyond} {'value lies' if beyond == 1 else 'values lie'} beyond this axis"
        paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8}
        ax.text(0.98, 0.5, said, transform=ax.transAxes, size=9, color=FACTS, ha="right", bbox=paper, zorder=20)


def _said(record: Validation, point: Point) -> tuple[str, str]:
    """On what, and what the marks mean."""
    examples = f"{point.examples:,} {point.half} {'example' if point.examples == 1 else 'examples'}"
    instead = f" · what is left out becomes {REPLACED[record.baseline]}" if record.baseline in REPLACED else ""
    return (
        f"What the first nodes of each ranking carry: {examples}, run {words(record.run, RUN_LIMIT)[:RUN_LIMIT]}",
        f"bands: 95% intervals · vertical line: the circuit's {amount(record.n, 'node')}{instead}",
    )


def _written(figure: Figure, kind: str) -> bytes:
    """A picture's bytes, without the date and the program's version."""
    said: dict[str, dict[str, Any]] = {
        "svg": {"Date": None, "Creator": None, "Title": "Faithfulness by number of nodes"},
        "png": {"Software": None},
    }
    with io.BytesIO() as file:
        figure.savefig(file, format=kind, dpi=DPI, facecolor="white", metadata=said[kind])
        return file.getvalue()
