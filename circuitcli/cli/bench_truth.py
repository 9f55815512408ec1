"""`circuit bench --truth`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import unwritten
from circuitcli.core.words import amount
from circuitcli.errors import CheckFailed, UsageError

if TYPE_CHECKING:
    from circuitcli.core.recovered import Recovery
    from circuitcli.stages.bench_truth import Truth

MORE: dict[str, tuple[Any, Any]] = {
    "truth": (
        Annotated[
            bool,
            typer.Option(
                "--truth",
                help="How much is recovered of circuits that are known: of models whose weights are written down.",
            ),
        ],
        False,
    ),
}
_ITS_OWN = ("shape", "d_sae", "tokens", "budget", "num_prompts")


def command(request: Request, terminal: Terminal) -> None:
    """Show what is recovered.

    Raises:
        UsageError: What was asked for doesn't go together.
        CheckFailed: A circuit isn't recovered by what measures.
    """
    _check(request)
    tools, _ = unwritten(request, terminal)
    from circuitcli.stages import bench_truth

    found = bench_truth.run(tools)
    terminal.table(
        "Models whose circuits are known", ("model", "prompt", "nodes", "edges", "what it says"), _models(found)
    )
    title = f"What is recovered of them: |effect| at least {found.least:g} of the largest"
    names = [f"{what} {measure}" for what in ("node", "edge") for measure in ("precision", "recall", "AUROC")]
    terminal.table(title, ("model", "method", *names), _rows(found))
    if found.wrong:
        raise CheckFailed(
            f"{amount(len(found.wrong), 'known answer')} not recovered: {'; '.join(found.wrong)}.",
            hint="This is a fault of circuit or of a library below it: report it with this output.",
            document=bench_truth.document(found),
        )
    terminal.notes([f"exact and auto recover every circuit, with its effects, in {found.seconds:.0f} s."])
    terminal.document(bench_truth.document(found))


def _check(request: Request) -> None:
    options, flags = request.more, request.flags
    typed = {*flags, *(f"saes.{name}" for name in flags.get("saes", {}))}
    if typed & {"model", "saes", "texts", "attribute"} or any(options[name] is not None for name in _ITS_OWN):
        raise UsageError(
            "--truth has models, dictionaries and prompts of its own, whose circuits are known.",
            hint="Leave the other flags out, but for --device, --dtype and --seed.",
        )


def _models(found: Truth) -> list[tuple[str, ...]]:
    return [
        (
            one.name,
            one.prompt,
            f"{one.nodes} of {one.node_candidates}",
            f"{one.edges} of {one.edge_candidates:,}",
            one.says,
        )
        for one in found.models
    ]


def _rows(found: Truth) -> list[tuple[str, ...]]:
    return [
        (model.name, one.method, *_cells(one.nodes), *_cells(one.edges))
        for model in found.models
        for one in model.found
    ]


def _cells(one: Recovery) -> tuple[str, str, str]:
    return _share(one.precision), _share(one.recall), _share(one.auroc)


def _share(value: float | None) -> str:
    """Two decimals; only what is all is shown as 1."""
    return "–" if value is None else "1" if value == 1 else f"{min(value, 0.99):.2f}".removeprefix("0")
