"""Steering, from what was typed to what is shown: `circuit effects --steer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request, typed_beside
from circuitcli.cli.session import unwritten
from circuitcli.errors import UsageError

if TYPE_CHECKING:
    from circuitcli.stages.steered import Asked, Continuation, Found

# Characters of a token, so many that none is cut.
_WHOLE = 10_000
_FLAGS = ("steer", "prompt", "generate")
MORE: dict[str, tuple[Any, Any]] = {
    "steer": (
        Annotated[
            list[str] | None,
            typer.Option(
                "--steer",
                help="Multiply a feature's activation wherever it fires in --prompt, and show what the model says next "
                "then, in place of the tables: `4:112=2.0`; 0 takes it away (repeat for several).",
                metavar="FEATURE=FACTOR",
                show_default=False,
            ),
        ],
        None,
    ),
    "prompt": (
        Annotated[
            str | None,
            typer.Option(
                "--prompt",
                help="With --steer: the text that the model goes on with. [default: none]",
                metavar="TEXT",
                show_default=False,
            ),
        ],
        None,
    ),
    "generate": (
        Annotated[
            int | None,
            typer.Option(
                "--generate",
                help="With --steer: show so many tokens that follow, each the likeliest, clean and steered.",
                metavar="N",
                min=1,
                show_default=False,
            ),
        ],
        None,
    ),
}


def wanted(request: Request) -> bool:
    """Whether steering was asked for.

    Raises:
        UsageError: It wasn't, but something was typed that goes with it.
    """
    if request.more["steer"]:
        return True
    flags = [f"--{name}" for name in _FLAGS if request.more[name] is not None] + typed_beside(request)
    if flags:
        raise UsageError(
            f"{flags[0]} goes with --steer here.",
            hint="Say what is steered, --steer 4:112=2.0, or leave it out: the tables are of what the run has.",
        )
    return False


def command(request: Request) -> None:
    """Steer with the dictionaries that a run recorded, or with those that settings choose; nothing is written.

    Raises:
        UsageError: What was typed isn't whole, or not as it should be.
        InputError: There is no run where one was named, or the prompt is too short.
    """
    from circuitcli.runtime.quiet import hush

    hush()
    terminal = Terminal(as_json=request.as_json, quiet=request.quiet)
    question = _asked(request)
    tools, run = unwritten(request, terminal)
    from circuitcli.stages import steered, subject

    found = steered.run(subject.recorded(tools, run) if run else subject.chosen(tools), question)
    _show(found, terminal)
    about = {"run": str(run.root) if run else None, "model": tools.settings.model}
    terminal.document({**about, "release": tools.settings.saes.release, **found.document()})


def _asked(request: Request) -> Asked:
    """What was typed."""
    more = request.more
    beside = typed_beside(request)
    if request.run is not None and beside:
        raise UsageError(
            f"A run has its own model and SAEs: {beside[0]} goes with --steer where no run is named.",
            hint=f"Leave {beside[0]} out, or --run and CIRCUIT_RUN.",
        )
    for typed, flag, does in (
        (request.force, "--force", "does a stage again"),
        (request.verify, "--verify", "looks at what stages have done"),
    ):
        if typed:
            raise UsageError(f"{flag} {does}: --steer is no stage.", hint=f"Leave {flag} out.")
    if more["features"] or more["by_position"]:
        raise UsageError("--steer shows no cards and no positions.", hint="Leave --feature and --by-position out.")
    if more["prompt"] is None or not more["prompt"].strip():
        raise UsageError("--steer needs a prompt.", hint='Give it: --prompt "In the beginning God created".')
    from circuitcli.stages import steered

    return steered.Asked(steered.parsed(more["steer"]), more["prompt"], more["generate"] or 0)


def _show(found: Found, terminal: Terminal) -> None:
    from circuitcli.cli.tables import token_text

    for one in found.features:
        if not one.fires:
            terminal.say(f"{one.feature} doesn't fire in this prompt: scaling it changes nothing there.")
    terminal.table(
        "What is steered",
        ("feature", "factor", "positions", "max activation"),
        [(f.feature, f"{f.factor:g}", str(f.fires), f"{f.max_activation:.2f}") for f in found.features],
    )
    terminal.table(
        f"Next tokens, clean and steered: KL(clean ‖ steered) {max(found.kl, 0.0):.4f} nats",
        ("token", "p clean", "p steered", "Δ log p"),
        [(token_text(t.token), f"{t.prob:.2%}", f"{t.steered_prob:.2%}", f"{t.effect:+.3f}") for t in found.tokens],
    )
    if found.clean is not None and found.steered is not None:
        _continuations({"clean": found.clean, "steered": found.steered}, terminal)
        terminal.say(f"Generated {found.tokens_per_second:.1f} tokens a second.")


def _continuations(found: dict[str, Continuation], terminal: Terminal) -> None:
    """Texts, which take as many lines as they need."""
    from circuitcli.core.tokens import running

    texts = {name: "".join(running(piece, _WHOLE) for piece in one.pieces) for name, one in found.items()}
    if terminal.piped:
        terminal.table("How it goes on", ("", "continuation"), list(texts.items()))
    else:
        terminal.notes([f"{name}: {text}" for name, text in texts.items()])
