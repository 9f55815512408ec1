"""`circuit bench --attribution`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import unwritten
from circuitcli.core.words import amount

if TYPE_CHECKING:
    from circuitcli.stages.bench_attribution import Timings
    from circuitcli.stages.rounds import Ratio

SHAPE, D_SAE, TOKENS, BUDGET = "gpt2", 24_576, 16, 300
MORE: dict[str, tuple[Any, Any]] = {
    "attribution": (
        Annotated[
            bool,
            typer.Option(
                "--attribution", help=f"Time the attribution of a prompt; of --shape {SHAPE} if none is named."
            ),
        ],
        False,
    ),
}


def command(request: Request, terminal: Terminal) -> None:
    """Show what an attribution takes."""
    options = request.more
    tools, _ = unwritten(request, terminal)
    from circuitcli.stages import bench_attribution, cases

    sizes = options["d_sae"] or D_SAE, options["tokens"] or TOKENS
    case = cases.synthetic_prompt(tools, options["shape"] or SHAPE, *sizes)
    found = bench_attribution.run(case, tools.runtime, tools.report, float(options["budget"] or BUDGET))
    terminal.table("What is attributed", ("what", "value", ""), _about(found))
    terminal.table("Where time goes", ("what", "time", "plain loop", "times faster", ""), _rows(found))
    terminal.document(bench_attribution.document(found))


def _about(t: Timings) -> list[tuple[str, str, str]]:
    worst = t.worst_relative_difference
    return [
        ("subject", t.subject, amount(t.dictionaries, "SAE")),
        ("device", t.device, f"{t.dtype}, {amount(t.threads, 'CPU thread')}"),
        ("engine", t.engine, ""),
        (
            "prompt",
            amount(t.tokens, "token"),
            f"{amount(t.nodes, 'node')}, features and errors; mean L0 {t.mean_l0:.1f}",
        ),
        ("peak memory", f"{t.peak_memory_bytes / 2**30:.2f} GiB", "of this process"),
        (
            "agreement",
            f"{worst['nodes']:.1e}",
            f"of m, with the plain loop; of edges {worst['edges']:.1e} of the largest",
        ),
        ("timed for", f"{t.seconds:.0f} s", f"{amount(t.rounds, 'round')}; in brackets 95% intervals over them"),
    ]


def _rows(t: Timings) -> list[tuple[str, str, str, str, str]]:
    known = "" if t.exact_measured == t.nodes else f"from {t.exact_measured:,} of them, by operations"
    estimates = [(name, _seconds(seconds), "", "", "") for name, seconds in t.estimate_seconds.items()]
    edges = [
        (
            f"edges of {most:,}",
            _seconds(seconds),
            _seconds(t.plain_edges_seconds * (most + 1)),
            times(t.ratios["edges"]),
        )
        for most, seconds in t.edges_seconds.items()
    ]
    return [
        ("opening", _seconds(t.open_seconds), "", "", "the clean pass, and its nodes"),
        *estimates,
        (
            "exact",
            _seconds(t.exact_seconds),
            _seconds(t.plain_node_seconds * t.nodes),
            times(t.ratios["nodes"]),
            known,
        ),
        *((*row, "nodes, into each from all") for row in edges),
    ]


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.3g} s"


def times(ratio: Ratio) -> str:
    """A ratio with its interval, or – where too few rounds were timed for one."""
    ends = "–" if ratio.low is None or ratio.high is None else f"{ratio.low:.3g}–{ratio.high:.3g}"
    return f"{ratio.value:.3g} ({ends})"
