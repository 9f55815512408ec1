"""`circuit bench --estimates`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import unwritten
from circuitcli.core.words import amount, with_interval
from circuitcli.errors import UsageError

if TYPE_CHECKING:
    from circuitcli.stages.bench_estimates import Found

TOKENS, PROMPTS = 16, 48
MORE: dict[str, tuple[Any, Any]] = {
    "estimates": (
        Annotated[
            bool,
            typer.Option("--estimates", help="How good gradients' estimates of effects are, beside measured ones."),
        ],
        False,
    ),
    "num_prompts": (
        Annotated[
            int | None,
            typer.Option(
                "--num-prompts", min=1, help=f"Texts whose beginnings --estimates reads. [default: {PROMPTS}]"
            ),
        ],
        None,
    ),
}
_TITLES = {
    "pearson": "Pearson's correlation of effects with exact ones",
    "spearman": "Spearman's rank correlation with exact effects",
    "sign": "The share of effects with the sign of the exact one",
    "slope": "Slope: exact ≈ slope · effect",
    "recall": "Recall: of each prompt's {top} largest exact effects, the share among its {top} largest",
}


def command(request: Request, terminal: Terminal) -> None:
    """Show how good estimates are.

    Raises:
        UsageError: What was asked for doesn't go together.
    """
    options = request.more
    if (options["shape"], options["d_sae"]) != (None, None):
        raise UsageError(
            "--estimates is of a model with its own SAEs: random ones, --shape and --d-sae, tell nothing.",
            hint="Choose a --model and a --release, or leave them out for the demo.",
        )
    if options["budget"] is not None:
        raise UsageError(
            "--estimates measures all nodes, whatever it takes: it has no --budget.",
            hint="Give fewer prompts with --num-prompts, or shorter ones with --tokens.",
        )
    _check_baseline(request.flags.get("attribute", {}).get("baseline"))
    tools, _ = unwritten(request, terminal)
    _check_baseline(tools.settings.attribute.baseline)
    from circuitcli.stages import bench_estimates

    found = bench_estimates.run(tools, options["num_prompts"] or PROMPTS, options["tokens"] or TOKENS)
    terminal.table("Effects, estimated and measured", ("what", "value", ""), _about(found))
    for measure, title in _TITLES.items():
        grid = {(one.method, one.kind): with_interval(getattr(one, measure)) for one in found.agreements}
        terminal.table(title.format(top=found.top), *_grid("method", grid))
    terminal.table(
        "Pearson's correlation by site",
        *_grid("site", {(one.kind, one.method): with_interval(one.pearson) for one in found.by_site}),
    )
    terminal.document(bench_estimates.document(found))


def _check_baseline(kind: str | None) -> None:
    if kind == "patch":
        raise UsageError(
            "--baseline patch takes activations of a counterfactual, and beginnings of texts have none.",
            hint="Choose zero, mean or resample.",
        )


def _grid(name: str, grid: Mapping[tuple[str, str], str]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Columns and rows of cells by their row and column, in the order in which these come."""
    rows, columns = (list(dict.fromkeys(keys)) for keys in zip(*grid, strict=True))
    return (name, *columns), [(row, *(grid[row, column] for column in columns)) for row in rows]


def _about(found: Found) -> list[tuple[str, str, str]]:
    each = {name: f"{seconds:.2f} s" for name, seconds in found.seconds_each.items()}
    return [
        ("subject", found.subject, f"{found.device}, {amount(found.threads, 'CPU thread')}"),
        ("baseline", found.baseline, "attention patterns and norms' scales held" if found.frozen else ""),
        ("prompts", str(found.prompts), f"beginnings of texts, {amount(found.tokens, 'token')} each"),
        ("nodes", f"{found.nodes:,}", "features and errors; in brackets 95% intervals over prompts"),
        *((name, seconds, "a prompt") for name, seconds in each.items()),
        *((name, f"{share:.1%}", "of the nodes measured") for name, share in found.measured_share.items()),
        ("in all", f"{found.seconds:.0f} s", f"{found.peak_memory_bytes / 2**30:.2f} GiB at most"),
    ]
