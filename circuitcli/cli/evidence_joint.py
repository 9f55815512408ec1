"""What `circuit validate` shows of the circuit ablated over text: the next tokens whose probability changes most."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from circuitcli.cli.console import Terminal
from circuitcli.cli.tables import context_text, delta_p, token_text
from circuitcli.results.joint import changed
from circuitcli.results.results import Results

_SHOWN = 20


def show_joint(results: Results, terminal: Terminal) -> None:
    """The largest changes, with the tokens around the position behind which they are."""
    terminal.table(
        "The next tokens that change most where the whole circuit is ablated over text (ablated − clean)",
        ("context", "next token", "p", "ablated", "Δp", "really follows"),
        [
            (
                context_text(one.context, terminal.styled),
                token_text(one.token),
                f"{one.base:.4f}",
                f"{one.altered:.4f}",
                delta_p(one.altered - one.base),
                "yes" if one.follows else "no",
            )
            for one in changed(results)[:_SHOWN]
        ],
    )


def document_joint(results: Results) -> list[dict[str, Any]]:
    """All that is kept of them, for --json."""
    return [asdict(one) for one in changed(results)]
