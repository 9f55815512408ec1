"""The tables that commands show."""

from __future__ import annotations

from rich.text import Text

from circuitcli.cli.console import Terminal
from circuitcli.core.circuit import Context, TokenEffect
from circuitcli.core.tokens import visible
from circuitcli.stages import summaries
from circuitcli.stages.stage import Job

_FEATURES, _EDGES, _TOKENS, _SHOWN = 12, 10, 8, 4
_TOKEN_WIDTH = 16


def features(job: Job, terminal: Terminal) -> None:
    """The top features: density, largest activation, and the context where they fire most."""
    terminal.table(
        "Top features",
        ("feature", "density", "max activation", "best context"),
        [
            (f.feature, f"{f.density:.2%}", f"{f.max_activation:.2f}", context_text(f.context, terminal.styled))
            for f in summaries.top_features(job, _FEATURES)
        ],
    )


def edges(job: Job, terminal: Terminal) -> None:
    """The largest mean effects with their intervals."""
    terminal.table(
        "Largest effects (ablated − clean)",
        ("from", "to", "mean effect", "95% interval", "n"),
        [
            (e.source, e.target, f"{e.effect_mean:+.3f}", _interval(e.ci_low, e.ci_high), str(e.n))
            for e in summaries.top_edges(job, _EDGES)
        ],
    )


def tokens(job: Job, terminal: Terminal) -> None:
    """Promoted and suppressed tokens of the pinned, or the most important, features."""
    terminal.table(
        "Next tokens: promoted (ablation lowers them) and suppressed (ablation raises them), nats",
        ("feature", "KL", "n", "promoted", "suppressed"),
        [
            (t.feature, f"{t.kl_mean:.4f}", str(t.n), _tokens(t.promoted), _tokens(t.suppressed))
            for t in summaries.top_tokens(job, _TOKENS)
        ],
    )


def context_text(context: Context, styled: bool) -> Text:
    """The tokens of a context, the firing one highlighted: in reverse, or between « and » without colours."""
    text = Text()
    for index, token in enumerate(context.tokens):
        shown = visible(token, _TOKEN_WIDTH).replace("␣", " ")
        if index != context.firing:
            text.append(shown)
        elif styled:
            text.append(shown, style="bold reverse")
        else:
            text.append(f"«{shown}»")
    return text


def _interval(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"[{low:+.3f}, {high:+.3f}]"


def _tokens(effects: tuple[TokenEffect, ...]) -> str:
    return "  ".join(f"{visible(e.token, _TOKEN_WIDTH)} {e.effect_mean:+.2f}" for e in effects[:_SHOWN])
