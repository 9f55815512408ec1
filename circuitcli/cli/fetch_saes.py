"""`circuit fetch-saes`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.cli.session import one_stage

if TYPE_CHECKING:
    from circuitcli.stages.stage import Job

HELP = "Find, fetch, check and record SAEs, and fetch the model."
EXAMPLES = """\
circuit fetch-saes --list
circuit fetch-saes --run my-run --model gpt2 --layers 4:6"""
MORE: dict[str, tuple[Any, Any]] = {
    "listing": (
        Annotated[bool, typer.Option("--list", help="Show the known releases of SAEs and transcoders.")],
        False,
    )
}


def command(request: Request) -> None:
    """The stage, or the list of releases, which needs no run."""
    if request.more["listing"]:
        _list(Terminal(as_json=request.as_json, quiet=False))
    else:
        one_stage(request, show)


def show(job: Job, terminal: Terminal) -> None:
    """The SAEs of the run."""
    from circuitcli.cli import cut
    from circuitcli.cli.layout import Column
    from circuitcli.core.sites import span
    from circuitcli.core.words import dictionaries
    from circuitcli.results.dictionaries import entries_of

    entries = entries_of(job.run)
    elsewhere = any(e.facts.elsewhere for e in entries)
    rows = [
        (
            str(e.at),
            *([span(e.written), "yes" if e.facts.skip else "no"] if elsewhere else []),
            e.facts.architecture,
            e.facts.normalisation,
            str(e.facts.d_in),
            str(e.facts.d_sae),
            "yes" if e.facts.prepend_bos else "no",
            "yes" if e.facts.centre else "no",
            e.source if terminal.piped else _shortened(e.source),
        )
        for e in entries
    ]
    sites = ("reads", "writes", "skip") if elsewhere else ("site",)
    columns = (*sites, "architecture", "normalisation", "d_in", "d_sae", "BOS", "centred", Column("source", cut.path))
    called = dictionaries([e.written if e.facts.elsewhere else () for e in entries])
    terminal.table(f"{called[0].upper()}{called[1:]}", columns, rows)


def _shortened(source: str) -> str:
    """The folder of an SAE, in which its weights always have one name, seen from home."""
    whole = source.removesuffix("/sae_weights.safetensors")
    home = str(Path.home())
    return f"~{whole[len(home) :]}" if whole.startswith(f"{home}/") else whole


def _list(terminal: Terminal) -> None:
    from circuitcli.cli import cut
    from circuitcli.cli.layout import Column
    from circuitcli.stages.fetch_saes import known_releases

    offers = known_releases()
    rows = [
        (
            offer.name,
            cut.GAP.join(offer.sites),
            cut.GAP.join(f"{width:,}" for width in offer.widths) or "–",
            _ranges(offer.layers),
            f"{offer.bytes_each / 1e6:,.0f} MB" if offer.bytes_each else "–",
            offer.neuronpedia or "–",
        )
        for offer in offers
    ]
    sites, width = Column("sites", cut.items), Column("width", cut.items)
    columns = ("release", sites, width, "layers", "size of one", Column("Neuronpedia", spared=True))
    terminal.table("Releases of SAEs and transcoders", columns, rows)
    terminal.document({"releases": [asdict(offer) for offer in offers]})


def _ranges(layers: tuple[int, ...]) -> str:
    """0–11, or 2, 6, 10."""
    if len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}–{layers[-1]}"
    return ", ".join(map(str, layers))
