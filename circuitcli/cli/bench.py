"""`circuit bench`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import unwritten
from circuitcli.core.words import amount
from circuitcli.errors import UsageError

if TYPE_CHECKING:
    from circuitcli.stages.bench import Timings
    from circuitcli.stages.rounds import Ratio

HELP = "Time ablations here. They are compared with plain passes of the model, and with the machine's matrix products."
EXAMPLES = """\
circuit bench
circuit bench --shape gpt2 --budget 120"""
D_SAE, TOKENS, BUDGET = 24_576, 50, 60
MORE: dict[str, tuple[Any, Any]] = {
    "shape": (
        Annotated[
            str | None,
            typer.Option("--shape", help="Time random weights of this shape; nothing is fetched.", metavar="NAME"),
        ],
        None,
    ),
    "d_sae": (
        Annotated[int | None, typer.Option("--d-sae", min=64, help=f"Features of random SAEs. [default: {D_SAE}]")],
        None,
    ),
    "tokens": (
        Annotated[
            int | None, typer.Option("--tokens", min=2, help=f"Tokens of a random sequence. [default: {TOKENS}]")
        ],
        None,
    ),
    "budget": (
        Annotated[int, typer.Option("--budget", min=1, help="About how many seconds to time.", metavar="SECONDS")],
        BUDGET,
    ),
}


def command(request: Request) -> None:
    """Show what was timed.

    Raises:
        UsageError: Sizes of random weights where none were asked for, or the other way round.
    """
    from circuitcli.runtime.quiet import hush

    hush()
    terminal = Terminal(as_json=request.as_json, quiet=request.quiet)
    options = request.more
    if options["shape"] is None and (options["d_sae"], options["tokens"]) != (None, None):
        raise UsageError(
            "--d-sae and --tokens are for random weights.", hint="Name a --shape, such as gpt2, or leave them out."
        )
    typed = {*request.flags, *request.flags.get("saes", {})}
    if options["shape"] is not None and typed & {"model", "texts", "release"}:
        raise UsageError(
            "--shape draws weights and tokens: it takes no --model, no --release and no text.",
            hint="Leave --shape out to time what you chose.",
        )
    tools, run = unwritten(request, terminal)
    from circuitcli.stages import bench, cases, subject

    if options["shape"] is None:
        case = cases.of(subject.chosen(tools, run))
    else:
        case = cases.synthetic(tools, options["shape"], options["d_sae"] or D_SAE, options["tokens"] or TOKENS)
    found = bench.run(case, tools.runtime, tools.report, float(options["budget"]))
    terminal.table("Where time goes", ("what", "value", ""), _rows(found))
    terminal.document(bench.document(found))


def _rows(t: Timings) -> list[tuple[str, str, str]]:
    downstream = ", ".join(t.downstream) or "nothing"

    def times(name: str) -> str:
        return _ranged(t.ratios[name], lambda x: f"{x:.0f}" if x >= 100 else f"{x:.3g}")

    def share(name: str) -> str:
        return f"{_ranged(t.ratios[name], lambda x: f'{100 * x:.0f}')}%"

    return [
        ("subject", t.subject, f"{t.site} → {downstream}"),
        ("device", t.device, f"{t.dtype}, {amount(t.threads, 'CPU thread')}"),
        ("engine", t.engine, _ENGINES[t.engine]),
        (
            "workload",
            amount(t.ablations, "ablation"),
            f"at {amount(t.contexts, 'context')} in {t.sequences} × {amount(t.tokens, 'token')}",
        ),
        ("mean L0", f"{t.mean_l0:.1f}", f"at {t.site}"),
        ("products", f"{t.gemm_gflops:.0f} GFLOP/s", "the machine's rate in float32, measured in between"),
        ("raw forward", f"{t.raw_forward_ms:.1f} ms", "one pass of transformers over a sequence"),
        ("plain", f"{t.plain_ms:.1f} ms", f"an ablation in two passes, {times('plain_over_raw')} times two raw ones"),
        (
            "no logits",
            f"{t.engine_ms:.3f} ms",
            f"{times('speedup')} times faster, {share('gemm_share')} of products",
        ),
        (
            "with logits",
            f"{t.engine_ms_with_logits:.3f} ms",
            f"{times('speedup_with_logits')} times faster, {share('gemm_share_with_logits')} of products, "
            f"{t.ablations_per_second:.0f} ablations/s",
        ),
        (
            "clean pass",
            f"{t.clean_ms_per_sequence:.1f} ms",
            f"a sequence, counted in: {share('clean_share')} of the time; "
            f"{t.clean_ms_per_sequence_with_logits:.1f} ms with logits: {share('clean_share_with_logits')}",
        ),
        ("cache-acts", f"{t.cache_tokens_per_second:.0f} tokens/s", f"{share('cache_gemm_share')} of products"),
        ("peak memory", f"{t.peak_memory_bytes / 2**30:.2f} GiB", "of this process"),
        (
            "agreement",
            f"{t.worst_relative_difference:.1e}",
            f"of a row's largest value, engine and plain, {amount(t.latents_compared, 'latent')}, "
            f"{t.latents_left_out} left out",
        ),
        (
            "timed for",
            f"{t.seconds:.0f} s",
            f"{amount(t.rounds, 'round')}; in brackets 95% intervals over them, – where they are too few",
        ),
    ]  # fmt: skip


_ENGINES = {
    "places": "computes again only the positions that an edit changes",
    "whole": "computes whole sequences again, which is slower and as exact",
}


def _ranged(ratio: Ratio, shown: Callable[[float], str]) -> str:
    """A ratio with its interval: 172 (168–176), or 172 (–) where too few rounds were timed for one."""
    if ratio.low is None or ratio.high is None:
        return f"{shown(ratio.value)} (–)"
    return f"{shown(ratio.value)} ({shown(ratio.low)}–{shown(ratio.high)})"
