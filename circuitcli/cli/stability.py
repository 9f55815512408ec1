"""`circuit stability`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from circuitcli.cli import dry_run, session
from circuitcli.cli.console import Terminal
from circuitcli.cli.options import Request
from circuitcli.core.words import duration, quantity, spread, with_interval

if TYPE_CHECKING:
    from circuitcli.results.stability import Stability, Survival
    from circuitcli.stages.stage import Job

HELP = "Repeat a discovery, and count what comes up again. Over seeds, halves of the data, and interventions."
EXAMPLES = """\
circuit stability --run my-run
circuit stability --run my-run --seeds 10 --halves 0 --interventions zero,mean"""
MORE: dict[str, tuple[Any, Any]] = dict(dry_run.MORE)

_SHOWN = 12
_CAUSES = ("seed", "half", "intervention")


def command(request: Request) -> None:
    """The stage and what came of it; or what it would take."""
    if request.more["dry_run"]:
        session.work(request, _expect, writes=False)
        return

    def body(job: Job, terminal: Terminal) -> None:
        from circuitcli.stages import stability

        outcome = stability.run(job)
        show(job, terminal)
        terminal.document({**session.document(job, [outcome]), **_found(job).document()})

    session.work(request, body)


def show(job: Job, terminal: Terminal) -> None:
    """What came of it in words, how alike repeats are, and which nodes survive most and least."""
    found = _found(job)
    terminal.notes(found.words())
    terminal.table(
        "How alike repeated discoveries are",
        ("over", "repeats", "nodes in all", "Jaccard of nodes", "edges in all", "Jaccard of edges", "same on top"),
        [
            (
                one.cause,
                str(one.repeats),
                f"{one.nodes_in_all}/{found.facts['nodes']}",
                with_interval(one.nodes),
                f"{one.edges_in_all}/{found.facts['edges']}",
                with_interval(one.edges),
                f"{one.on_top}/{one.repeats}",
            )
            for one in found.agreements
        ],
    )
    drawn = found.drawn()
    causes = [cause for cause in _CAUSES if found.nodes(cause)]
    some = drawn if len(drawn) <= _SHOWN or terminal.piped else [*drawn[: _SHOWN // 2], *drawn[-_SHOWN // 2 :]]
    which = "" if len(some) == len(drawn) else f", the {_SHOWN // 2} that survive most and the {_SHOWN // 2} least"
    terminal.table(
        f"Nodes of the circuit{which}; rank by {found.facts['ranked_by']}",
        ("node", "survival", *causes, "rank", "mean effect", "spread"),
        [_row(found, node, causes) for node in some],
    )
    if job.run.record("stability"):
        for name in job.run.require("stability").files:
            if not name.endswith((".parquet", ".json")):
                terminal.line(str(job.run.root / name))


def _row(found: Stability, node: Survival, causes: list[str]) -> tuple[str, ...]:
    each = [found.nodes(cause)[node.id] for cause in causes]
    return (
        node.id,
        f"{node.survival:.0%}",
        *(f"{one.survived}/{one.repeats}" for one in each),
        "–" if node.ranks is None else spread(*node.ranks),
        _number(node.mean),
        _number(node.std, sign=""),
    )


def _number(value: float | None, sign: str = "+") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"


def _found(job: Job) -> Stability:
    from circuitcli.results.stability import Stability

    return Stability(job.results())


def _expect(job: Job, terminal: Terminal) -> None:
    from circuitcli.stages import stability

    rows = stability.dry_run(job)
    terminal.table(
        "What it would take, by what the run itself took",
        ("over", "repeats", "to make", "time", "disk"),
        [
            (
                row["cause"],
                ", ".join(row["repeats"]),
                str(row["missing"]),
                duration(row["seconds"]),
                quantity(row["bytes"]),
            )
            for row in rows
        ],
    )
    seconds, free = sum(row["seconds"] for row in rows), job.run.free_disk()
    terminal.say(f"stability: about {duration(seconds)} in all; {quantity(free)} of disk are free.")
    terminal.document(
        {"run": str(job.run.root), "dry_run": True, "stability": rows, "seconds": seconds, "free_disk_bytes": free}
    )
