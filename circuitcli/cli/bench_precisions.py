"""`circuit bench --precisions`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli.bench_attribution import times
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import unwritten
from circuitcli.core.words import amount
from circuitcli.errors import UsageError

if TYPE_CHECKING:
    import torch

    from circuitcli.stages.bench_precisions import Row, Timings
    from circuitcli.stages.cases import Case
    from circuitcli.stages.tools import Tools
    from circuitcli.store.run import Run

    CaseOf = Callable[[Request, Tools, Run | None, torch.device], Case]

MORE: dict[str, tuple[Any, Any]] = {
    "precisions": (
        Annotated[
            bool,
            typer.Option(
                "--precisions", help="Time each precision of the device, and how far it is from float32 on the CPU."
            ),
        ],
        False,
    ),
}


def command(request: Request, terminal: Terminal, case_of: CaseOf, budget: float) -> None:
    """Show each precision's time, and its distance from float32 on the CPU.

    Args:
        request: The command line.
        terminal: Where it is shown.
        case_of: What is timed.
        budget: Seconds.

    Raises:
        UsageError: What was asked for doesn't go together.
    """
    if "dtype" in request.flags.get("runtime", {}):
        raise UsageError("--precisions times each dtype in turn.", hint="Leave --dtype out.")
    tools, run = unwritten(request, terminal)
    there = replace(tools.settings.runtime, device="cpu", dtype="float32")
    here = replace(tools, settings=replace(tools.settings, runtime=there))
    case = case_of(request, here, run, tools.runtime.device)
    from circuitcli.stages import bench_precisions

    found = bench_precisions.run(case, tools.runtime, tools.report, budget)
    terminal.table("What is timed", ("what", "value", ""), _about(found))
    columns = ("precision", "engine", "an ablation", "a second", "times float32", "worst difference", "left out")
    terminal.table("Ablations with logits, in each precision of the device", columns, [*map(_row, found.precisions)])
    terminal.notes(
        [
            "The worst difference is from whole passes in float32 on the CPU: of a row's largest value, among the "
            f"effects of {amount(found.held_against, 'ablation')} on all latents and all tokens. Latents that nearly "
            "fire may flip, and are left out."
        ]
    )
    terminal.document(bench_precisions.document(found))


def _about(t: Timings) -> list[tuple[str, str, str]]:
    return [
        ("subject", t.subject, f"{t.site} → {', '.join(t.downstream) or 'nothing'}"),
        ("device", t.device, amount(t.threads, "CPU thread")),
        (
            "workload",
            amount(t.ablations, "ablation"),
            f"at {amount(t.contexts, 'context')} in {t.sequences} × {amount(t.tokens, 'token')}",
        ),
        ("timed for", f"{t.seconds:.0f} s", f"{amount(t.rounds, 'round')}; in brackets 95% intervals over them"),
    ]


def _row(one: Row) -> tuple[str, ...]:
    return (
        one.precision,
        one.engine,
        f"{one.ablation_ms:.3g} ms",
        f"{one.ablations_per_second:,.0f}",
        "" if one.times_faster is None else times(one.times_faster),
        f"{one.worst_relative_difference:.1e}",
        f"{one.latents_left_out} of {amount(one.latents_compared, 'latent')}",
    )
