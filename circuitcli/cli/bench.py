"""`circuit bench`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli import bench_attribution, bench_estimates, bench_precisions, bench_truth
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import unwritten
from circuitcli.core.words import amount
from circuitcli.errors import UsageError

if TYPE_CHECKING:
    import torch

    from circuitcli.stages.bench import Timings
    from circuitcli.stages.cases import Case
    from circuitcli.stages.rounds import Ratio
    from circuitcli.stages.tools import Tools
    from circuitcli.store.run import Run

HELP = (
    "Time ablations here. They are compared with plain passes of the model, and with the machine's matrix products. Or "
    "time each precision of the device, or the attribution of a prompt, or find out how good estimates of effects are, "
    "or how much of circuits that are known is recovered."
)
EXAMPLES = """\
circuit bench
circuit bench --shape gpt2 --budget 120
circuit bench --precisions --shape gpt2
circuit bench --attribution
circuit bench --estimates
circuit bench --truth"""
D_SAE, TOKENS, BUDGET = 24_576, 50, 60
_PROMPT, _LONGER = bench_estimates.TOKENS, bench_attribution.BUDGET
MORE: dict[str, tuple[Any, Any]] = (
    {
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
                int | None,
                typer.Option(
                    "--tokens",
                    min=2,
                    help=f"Tokens of a random sequence, or a prompt. [default: {TOKENS}; of a prompt {_PROMPT}]",
                ),
            ],
            None,
        ),
        "budget": (
            Annotated[
                int | None,
                typer.Option(
                    "--budget",
                    min=1,
                    help=f"About how many seconds to time. [default: {BUDGET}; with --attribution {_LONGER}]",
                    metavar="SECONDS",
                ),
            ],
            None,
        ),
    }
    | bench_estimates.MORE
    | bench_attribution.MORE
    | bench_precisions.MORE
    | bench_truth.MORE
)


def command(request: Request) -> None:
    """Show what was timed, or how good estimates are.

    Raises:
        UsageError: What was asked for doesn't go together.
    """
    from circuitcli.runtime.quiet import hush

    hush()
    terminal = Terminal(as_json=request.as_json, quiet=request.quiet)
    options = request.more
    benches = [f"--{name}" for name in ("estimates", "attribution", "precisions", "truth") if options[name]]
    if len(benches) > 1:
        raise UsageError(f"{' and '.join(benches)} are {_NUMBERS[len(benches)]} benches.", hint="Give one of them.")
    if options["truth"]:
        bench_truth.command(request, terminal)
        return
    if options["estimates"]:
        bench_estimates.command(request, terminal)
        return
    _check(request)
    if options["attribution"]:
        bench_attribution.command(request, terminal)
        return
    if options["precisions"]:
        bench_precisions.command(request, terminal, case_of, float(options["budget"] or BUDGET))
        return
    tools, run = unwritten(request, terminal)
    case = case_of(request, tools, run, tools.runtime.device)
    from circuitcli.stages import bench

    found = bench.run(case, tools.runtime, tools.report, float(options["budget"] or BUDGET))
    terminal.table("Where time goes", ("what", "value", ""), _rows(found))
    terminal.document(bench.document(found))


def case_of(request: Request, tools: Tools, run: Run | None, timed: torch.device) -> Case:
    """What is timed on a device: what was chosen, or random weights."""
    from circuitcli.stages import cases, subject

    options = request.more
    if options["shape"] is None:
        return cases.of(subject.chosen(tools, run), timed)
    return cases.synthetic(tools, options["shape"], options["d_sae"] or D_SAE, options["tokens"] or TOKENS, timed)


def _check(request: Request) -> None:
    """That flags go together, where time is what is asked for."""
    options = request.more
    if options["num_prompts"] is not None or "attribute" in request.flags:
        raise UsageError("--num-prompts, --baseline and --freeze are for effects of prompts.", hint="Add --estimates.")
    drawn = options["shape"] is not None or options["attribution"]
    if not drawn and (options["d_sae"], options["tokens"]) != (None, None):
        raise UsageError(
            "--d-sae and --tokens are for random weights.", hint="Name a --shape, such as gpt2, or leave them out."
        )
    typed = {*request.flags, *request.flags.get("saes", {})}
    if drawn and typed & {"model", "texts", "release"}:
        flag = "--attribution" if options["attribution"] else "--shape"
        raise UsageError(
            f"{flag} draws weights and tokens: it takes no --model, no --release and no text.",
            hint=f"Leave {flag} out to time what you chose.",
        )


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


_NUMBERS = {2: "two", 3: "three", 4: "four"}
_ENGINES = {
    "places": "computes again only the positions that an edit changes",
    "whole": "computes whole sequences again, which is slower and as exact",
}


def _ranged(ratio: Ratio, shown: Callable[[float], str]) -> str:
    """A ratio with its interval: 172 (168–176), or 172 (–) where too few rounds were timed for one."""
    if ratio.low is None or ratio.high is None:
        return f"{shown(ratio.value)} (–)"
    return f"{shown(ratio.value)} ({shown(ratio.low)}–{shown(ratio.high)})"
