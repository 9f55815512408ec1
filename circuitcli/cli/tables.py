"""The tables that commands show."""

from __future__ import annotations

from rich.text import Text

from circuitcli.cli import cut
from circuitcli.cli.console import Terminal
from circuitcli.cli.cut import Focused
from circuitcli.cli.layout import Column
from circuitcli.core.circuit import Context, Edge, TokenEffect
from circuitcli.core.tokens import ELLIPSIS, running, visible
from circuitcli.results import next_tokens, summaries
from circuitcli.results.next_tokens import Followed, NextToken
from circuitcli.results.reader import Reader

_FEATURES, _EDGES, _TOKENS, _SHOWN = 12, 10, 8, 4
_TOKEN_WIDTH = 16
_KEPT = "features that earlier settings led to"
# Characters of a prompt's end.
_TAIL = 24
SAID = Column("likeliest next tokens", cut.items)
FOLLOWED = ("prompt", "edited", "read", "next token", "p", "nats", "Δp")
PROMOTED, SUPPRESSED = Column("promoted", cut.items), Column("suppressed", cut.items)
# A faint, and the largest, activation.
_PALE, _FULL = (253, 237, 211), (245, 166, 35)


def features(results: Reader, terminal: Terminal) -> None:
    """The top features: density, largest activation, and the context where they fire most."""
    pinned = ", and the pinned" if results.settings.features.pinned else ""
    terminal.table(
        f"Top features of each site by largest activation{pinned}",
        ("feature", "density", "max activation", "best context"),
        [
            (f.feature, f"{f.density:.2%}", f"{f.max_activation:.2f}", context_text(f.context, terminal.styled))
            for f in summaries.top_features(results, _FEATURES)
        ],
    )


def edges(results: Reader, terminal: Terminal) -> None:
    """The largest mean effects with their intervals: of the features of the present plan, and of those that stay."""
    now, earlier = summaries.top_edges(results, _EDGES)
    for title, found in (("Largest effects", now), (f"Largest effects of {_KEPT}", earlier[:_SHOWN])):
        terminal.table(
            f"{title} (ablated − clean)",
            ("from", "to", "mean effect", "95% interval", "n"),
            [(e.source, e.target, f"{e.effect_mean:+.3f}", interval(e), str(e.n)) for e in found],
        )


def tokens(results: Reader, terminal: Terminal) -> None:
    """Promoted and suppressed tokens of the pinned, or the most important, features; and of those that stay."""
    now, earlier = summaries.top_tokens(results, _TOKENS)
    dp = next_tokens.on_prompts(results.settings)
    for title, found in (("Next tokens", now), (f"Next tokens of {_KEPT}", earlier[:_SHOWN])):
        terminal.table(
            f"{title}: promoted (ablation lowers them) and suppressed (ablation raises them), nats{' (Δp)' * dp}",
            ("feature", "KL", "n", PROMOTED, SUPPRESSED),
            [
                (t.feature, f"{t.kl_mean:.4f}", str(t.n), tokens_text(t.promoted, dp), tokens_text(t.suppressed, dp))
                for t in found
            ],
        )
    terminal.table(
        "What the ablations that matter most do to the likeliest next tokens (ablated − clean)",
        ("feature", *FOLLOWED),
        [(t.feature, *row) for t in now[:_SHOWN] if t.next_tokens for row in followed_rows(t.next_tokens)],
    )


def answers(results: Reader, terminal: Terminal) -> None:
    """What the model itself says at the end of each prompt."""
    terminal.table(
        "What the model itself says next",
        ("prompt", "ends in", SAID),
        [(str(a.seq), _end(a.text), said_text(a.tokens)) for a in next_tokens.answers(results)],
    )


def _end(text: str) -> str:
    """The last characters of a prompt behind `…`, its spaces as they are."""
    shown = text if len(text) <= _TAIL else ELLIPSIS + text[1 - _TAIL :]
    return visible(shown, 2 * _TAIL).replace("␣", " ").strip()


def said_text(tokens: tuple[NextToken, ...]) -> str:
    """Tokens and how likely they are."""
    return "  ".join(f"{token_text(t.token)} {t.prob:.1%}" for t in tokens)


def followed_rows(found: Followed) -> list[tuple[str, ...]]:
    """A row for each of the likeliest next tokens, for the columns `FOLLOWED`."""
    edited = "all" if found.pos < 0 else str(found.pos)
    place = (str(found.seq), edited, str(found.read))
    return [
        (*place, token_text(t.token), f"{t.prob:.1%}", f"{t.effect:+.3f}", delta_p(t.prob_effect)) for t in found.tokens
    ]


def delta_p(value: float | None) -> str:
    """A change of a probability."""
    return "–" if value is None else f"{value:+.4f}"


def context_text(context: Context, styled: bool, largest: float = 0.0) -> Focused:
    """The tokens of a context, the firing one highlighted: in reverse, or between « and » without colours.

    With the feature's `largest` activation tokens are shaded by their share of it instead, and the firing one is bold.
    """
    text, start, end = Text(), 0, 0
    for index, (token, activation) in enumerate(zip(context.tokens, context.activations, strict=True)):
        firing = index == context.firing
        shown = running(token, _TOKEN_WIDTH, firing=firing)
        start = len(text) if firing else start
        if styled:
            style = _shade(activation / largest, bold=firing) if largest > 0 else "bold reverse" if firing else ""
            text.append(shown, style=style)
        else:
            text.append(f"«{shown}»" if firing else shown)
        end = len(text) if firing else end
    return Focused(text, start, end)


def _shade(share: float, *, bold: bool) -> str:
    """Black on orange, the stronger the more; a terminal's own colours where a token doesn't fire."""
    if share <= 0:
        return "bold" if bold else ""
    red, green, blue = (round(pale + (full - pale) * min(share, 1)) for pale, full in zip(_PALE, _FULL, strict=True))
    return f"{'bold underline ' if bold else ''}rgb(0,0,0) on rgb({red},{green},{blue})"


def interval(edge: Edge) -> str:
    """The 95% interval of an effect, if it has one."""
    return "–" if edge.ci_low is None or edge.ci_high is None else f"[{edge.ci_low:+.3f}, {edge.ci_high:+.3f}]"


def token_text(token: str) -> str:
    """A token in a table."""
    return visible(token, _TOKEN_WIDTH)


def tokens_text(effects: tuple[TokenEffect, ...], dp: bool = False) -> str:
    """The strongest tokens and their effects in nats, with `dp` those on their probabilities too."""
    shown = []
    for effect in effects[:_SHOWN]:
        shown.append(f"{token_text(effect.token)} {effect.effect_mean:+.2f}")
        if dp:
            shown[-1] += f" ({delta_p(effect.prob_effect_mean)})"
    return "  ".join(shown)
