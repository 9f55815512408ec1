"""Text for files that other programs read: whole, on one line, and in characters that every format can hold."""

from __future__ import annotations

from collections.abc import Sequence

from circuitcli.core.circuit import Context, TokenEffect
from circuitcli.core.tokens import running, visible

TOKEN_LIMIT = 40


def readable(text: str) -> str:
    """Text with its spaces; what else doesn't print is a picture (⏎ ␀) or an escape (`\\ud800`).

    XML can't hold control characters, UTF-8 no lone surrogates, and a cell no newline that stays in it.
    """
    return "".join(char if char == " " or char.isprintable() else visible(char, 16) for char in text)


def context_text(context: Context) -> str:
    """The tokens of a context on one line, the firing one between « and »."""
    shown = [running(token, TOKEN_LIMIT, firing=i == context.firing) for i, token in enumerate(context.tokens)]
    shown[context.firing] = f"«{shown[context.firing]}»"
    return "".join(shown)


def tokens_text(effects: Sequence[TokenEffect]) -> str:
    """Tokens and their effects in nats: `␣haven -3.52  ␣know -3.27`."""
    return "  ".join(f"{visible(effect.token, TOKEN_LIMIT)} {effect.effect_mean:+.3f}" for effect in effects)
