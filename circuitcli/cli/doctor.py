"""`circuit doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import unwritten
from circuitcli.errors import CheckFailed

if TYPE_CHECKING:
    from circuitcli.core.fit import Fit, Numbers

HELP = "Check whether the dictionaries fit the model. They are tried on a sample of text, as stated and otherwise."
EXAMPLES = "circuit doctor --model gpt2 --release gpt2-small-res-jb --layers 8"

_NUMBERS = ("L0", "FVU", "CE clean", "CE spliced", "CE zero", "recovered", "KL", "dead")

# What is wrong with an SAE, and with others.
_MEND = {
    True: "its cfg.json or choose another model, layer or release; see “Do they fit?” in docs/saes.md",
    False: "its files or choose another model, layer or release; see “Doctor” in docs/transcoders.md",
}


def command(request: Request) -> None:
    """Show how each dictionary fits.

    Raises:
        CheckFailed: One is wrong.
        InputError: There is no run where one was named.
    """
    from circuitcli.runtime.quiet import hush

    hush()
    terminal = Terminal(as_json=request.as_json, quiet=request.quiet)
    tools, run = unwritten(request, terminal)
    from circuitcli.stages import doctor, fit, subject
    from circuitcli.stages.opened import spread

    with spread(tools) as spreading:
        findings = doctor.run(subject.chosen(spreading, run))
    fits = findings.fits
    for line in fit.warnings([found for found in fits if found.verdict == "doubtful"]):
        terminal.say(line)
    _show(fits, findings.engine, terminal)
    document = findings.document(tools.settings)
    wrong = [found for found in fits if found.verdict == "wrong"]
    if wrong:
        raise CheckFailed(
            f"{len(wrong)} of {len(fits)} {fit.plural({found.kind for found in fits})} "
            f"{'does' if len(wrong) == 1 else 'do'}n't fit {tools.settings.model}; {wrong[0].site}: {wrong[0].why}.",
            hint=f"Mend {_MEND[wrong[0].kind == 'SAE']}.",
            document=document,
        )
    terminal.document(document)


def _show(fits: Sequence[Fit], engine: str, terminal: Terminal) -> None:
    """One row a dictionary, then the changes of each that doesn't fit, and on how many positions each was tried."""
    from circuitcli.stages import fit

    elsewhere = any(f.writes != f.site for f in fits)  # where y is, if that isn't where x is
    rows = [(f.site, *((f.writes,) if elsewhere else ()), *_cells(f.numbers), f.verdict, engine) for f in fits]
    names = ("site", *(("judged at",) if elsewhere else ()), *_NUMBERS, "verdict", "engine")
    terminal.table(f"Do the {fit.plural({f.kind for f in fits})} fit?", names, rows)
    for found in fits:
        if found.verdict == "fits" or fit.untold(found):
            continue
        stated = ("as stated", found.site, *_cells(found.numbers), str(found.positions), "")
        others = [
            (a.name, a.site, *_cells(a.numbers), str(a.positions), "better" if a.better else "")
            for a in found.alternatives
        ]
        terminal.table(f"{found.site}: {found.why}", ("read", "at", *_NUMBERS, "positions", ""), [stated, *others])


def _cells(n: Numbers) -> tuple[str, ...]:
    nats = (_number(value) for value in (n.ce_clean, n.ce_spliced, n.ce_zero, n.recovered, n.kl_spliced))
    return (f"{n.l0:.1f}", _number(n.fvu), *nats, f"{n.dead:.1%}")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
