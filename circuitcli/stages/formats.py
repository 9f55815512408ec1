"""Which formats a graph has: circuit.json always, those that are asked for, and those that are there already.

Asking for a format adds it. What is there is kept as long as it fits the numbers, else drawn again; what nobody asked
for now and can't be drawn again is removed, by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from circuitcli import plugins
from circuitcli.core.circuit import Circuit
from circuitcli.errors import InputError, ResourceError
from circuitcli.renderers import Renderer
from circuitcli.stages.stage import Job, Work
from circuitcli.store import circuits
from circuitcli.store.run import Run

DOCUMENT = "json"


@dataclass(frozen=True)
class Formats:
    """The formats of a run's graph.

    Attributes:
        asked: By the settings, in their order, and circuit.json.
        there: From before, by the names of their files.
        others: Files of before of which no format is known.
    """

    asked: tuple[str, ...]
    there: dict[str, list[str]]
    others: list[str]

    @property
    def all(self) -> tuple[str, ...]:
        """What the graph is to have, what is asked for first."""
        return tuple(dict.fromkeys((*self.asked, *self.there)))

    @property
    def added(self) -> str | None:
        """What to do about a graph that is done but lacks formats; None if it lacks none."""
        new = [name for name in self.asked if name not in self.there]
        return (
            f"{', '.join(new)} added, because {'it wasn' if len(new) == 1 else 'they weren'}'t there" if new else None
        )


def of_run(job: Job) -> Formats:
    """What is asked for, and what is there."""
    there, others = _there(job.run)
    return Formats(tuple(dict.fromkeys((*job.settings.graph.formats, DOCUMENT))), there, others)


def _there(run: Run) -> tuple[dict[str, list[str]], list[str]]:
    """The formats of an earlier drawing. One that was done has those whose files weren't taken away since then."""
    plan, done = run.plan("graph"), run.record("graph") is not None
    found: dict[str, list[str]] = {}
    others = []
    for name, said in (plan.shards if plan else {}).items():
        form = said or _format_of(name)
        if form in plugins.names("renderers"):
            found.setdefault(form, []).append(name)
        elif name.startswith("graph/circuit."):
            others.append(name)
    if done:
        found = {form: names for form, names in found.items() if all(run.path(name).is_file() for name in names)}
    return found, others


def _format_of(name: str) -> str | None:
    """The format of a file, by its name: the plans of version 0.1 don't say it. None of what isn't drawn."""
    path = PurePosixPath(name.removeprefix("graph/"))
    if len(path.parts) > 1:
        return path.parts[0]
    return path.suffix.removeprefix(".") if path.stem == "circuit" or path.suffix == ".csv" else None


def intact(todo: Work, formats: Formats) -> dict[str, list[str]]:
    """The formats that are there as they were recorded; none where circuit.json, from which others follow, isn't."""
    kept = {form: names for form, names in formats.there.items() if all(map(todo.unchanged, names))}
    return kept if DOCUMENT in kept else {}


def document(job: Job) -> Circuit:
    """The circuit as it was drawn last."""
    return circuits.read(job.run.path(circuits.CIRCUIT))


def draw(job: Job, circuit: Circuit, names: Sequence[str], formats: Formats) -> dict[str, dict[str, bytes]]:
    """The files of some formats. Of those that nobody asked for now the ones that fail are left out, by name."""
    drawn: dict[str, dict[str, bytes]] = {}
    with job.report.track("Drawing", len(names), "formats") as done:
        for name in names:
            renderer: Renderer = plugins.load("renderers", name)
            try:
                drawn[name] = {f"graph/{file}": data for file, data in renderer.files(circuit).items()}
            except (InputError, ResourceError) as error:
                if name in formats.asked:
                    raise
                job.report.say(f"{_listed(formats.there[name])} removed, which can't be drawn anew: {error.message}")
            done(1)
    return drawn


def say_what_became(job: Job, formats: Formats, drawn: dict[str, dict[str, bytes]]) -> None:
    """Of what is there and wasn't asked for now: what is drawn anew, and what is removed."""
    again = [file for name in drawn if name not in formats.asked for file in formats.there.get(name, ())]
    if again:
        job.report.say(f"Drawn anew as well, to fit the numbers: {_listed(again)}.")
    gone = [file for file in formats.others if not any(file in made for made in drawn.values())]
    if gone:
        job.report.say(f"Removed, because nothing says how to draw it anew: {_listed(gone)}.")


def _listed(names: Sequence[str], most: int = 6) -> str:
    short = [name.removeprefix("graph/") for name in names]
    return ", ".join(short[:most]) + (f" and {len(short) - most} more" if len(short) > most else "")
