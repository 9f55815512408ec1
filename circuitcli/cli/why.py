"""How the answer to a question is shown: what pushes the target, or several, what holds it down, and along which paths.

First come the sentences that stand over the pictures as well: what was asked, how it was answered, and how far
estimates can be believed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from circuitcli.cli import cut, tables
from circuitcli.cli.console import Terminal
from circuitcli.cli.layout import Column
from circuitcli.core.attributed import Calibration, Measure
from circuitcli.core.circuit import Context
from circuitcli.core.sites import Site
from circuitcli.renderers import _question as said
from circuitcli.renderers._node import percent
from circuitcli.results import answer
from circuitcli.results.attribution import Attributed
from circuitcli.results.contexts import around
from circuitcli.results.labels import labelled
from circuitcli.results.results import Results

_NODES, _PATHS = 10, 5
_NOTHING = "–"
# What calibration has beside r.
_MEASURES = {"ρ": "spearman", "signs": "sign", "slope": "slope", "recall": "recall"}


def show(results: Results, terminal: Terminal) -> None:
    """What a run's attribution says, strongest first."""
    asked = results.attribution
    circuit = answer.build(results, asked, described=False)  # sentences say nothing of single features
    sentences = (said.question, said.shown, said.calibration, said.warning)
    terminal.notes([line for sentence in sentences if (line := sentence(circuit))])
    _targets(asked, terminal)
    _strongest(results, terminal)
    _calibration(asked, terminal)
    _paths(asked, terminal)


def document(results: Results) -> dict[str, Any]:
    """The same for --json: the question, the strongest nodes and paths, and how good estimates are."""
    asked = results.attribution
    table = asked.pooled.nodes
    size = np.abs(np.nan_to_num(table["effect"]))
    written = {entry.at: [str(site) for site in entry.written] for entry in results.saes if entry.facts.elsewhere}
    order = [i for i in np.argsort(-size, kind="stable").tolist() if table["kind"][i] != "target"][: 2 * _NODES]
    return {
        "question": asdict(answer.question(asked)),
        **({"targets": [asdict(one) for one in asked.targets]} if asked.targets else {}),
        "strongest": [
            {
                "id": str(table["id"][i]),
                "token": asked.tokens[i],
                "activation": float(table["activation"][i]),
                "effect": float(table["effect"][i]),
                "method": str(table["method"][i]),
                **_writes(written, table, i),
            }
            for i in order
        ],
        "calibration": [asdict(row) for row in asked.calibrations],
        "paths": [
            {"nodes": [asked.called(i) for i in path.nodes], "share": path.strength}
            for path in asked.selection.paths(_PATHS)
        ],
    }


def _writes(written: Mapping[Site, list[str]], table: Mapping[str, Any], i: int) -> dict[str, list[str]]:
    """The sites that a transcoder's feature writes; of other nodes nothing."""
    sites = written.get(Site(int(table["layer"][i]), str(table["site"][i])))
    return {"writes": sites} if sites and table["kind"][i] == "feature" else {}


def _targets(asked: Attributed, terminal: Terminal) -> None:
    """The next tokens that are explained together, where they are several, and what each counts."""
    logits = asked.pooled.nodes["activation"][len(asked.pooled.nodes["id"]) - len(asked.targets) :]
    terminal.table(
        "Next tokens that are explained together",
        ("token", "id", "p", "share", "logit − mean logit"),
        [
            (
                tables.token_text(one.token),
                str(one.token_id),
                percent(one.prob, 3),
                percent(one.weight, 3),
                f"{logit:.3f}",
            )
            for one, logit in zip(asked.targets, logits.tolist(), strict=True)
        ],
    )


def _strongest(results: Results, terminal: Terminal) -> None:
    """The nodes whose replacing lowers the metric most, and those whose replacing raises it."""
    effect, question = results.attribution.pooled.nodes["effect"], answer.question(results.attribution)
    for sign, title in ((-1, "Strongest nodes for"), (1, "Strongest nodes against")):
        order = np.argsort(-sign * np.nan_to_num(effect), kind="stable")[:_NODES]
        moves = "lowers" if sign < 0 else "raises"
        _nodes(
            results,
            terminal,
            f"{title} it: replacing them {moves} {question.metric}",
            [i for i in order.tolist() if sign * effect[i] > 0],
            question.unit,
        )


def _nodes(results: Results, terminal: Terminal, title: str, rows: list[int], unit: str) -> None:
    """Some nodes of all prompts, with the tokens around them where they have a position."""
    asked = results.attribution
    table, view = asked.pooled.nodes, results.settings.contexts.view
    labels = labelled(results.run).labels
    names = [str(table["id"][i]).partition("@")[0] for i in rows]
    known = [labels.get(str(table["id"][i]), labels.get(name, "")) for i, name in zip(rows, names, strict=True)]
    columns: list[tuple[str | Column, list[object]]] = [("node", list(names))]
    if asked.separate:
        places = [tables.context_text(_around(asked, i, view), terminal.styled) for i in rows]
        columns += [("position", [str(table["pos"][i]) for i in rows]), ("token", list(places))]
    else:
        columns += [("places", [str(table["n"][i]) for i in rows])]
    columns += [
        (Column("activation", spared=True), [f"{table['activation'][i]:.2f}" for i in rows]),
        (f"effect, {unit}", [f"{table['effect'][i]:+.3f}" for i in rows]),
        ("how", [_how(table, i) for i in rows]),
    ]
    if any(known):
        columns.append((Column("label", cut.at_end), [label or _NOTHING for label in known]))
    terminal.table(title, [name for name, _ in columns], list(zip(*(cells for _, cells in columns), strict=True)))


def _how(table: Mapping[str, Any], i: int) -> str:
    """The method of an effect; of a sum how many parts of it were measured."""
    method, measured = str(table["method"][i]), int(table["measured"][i])
    return f"{method}, {measured} of {table['n'][i]} exact" if 0 < measured < table["n"][i] else method


def _around(asked: Attributed, i: int, view: int) -> Context:
    """The tokens of the first prompt around a node's position."""
    prompt, pos = asked.place(i)
    return around(prompt.tokens, 0, pos, view)


def _calibration(asked: Attributed, terminal: Terminal) -> None:
    """How good each estimate is, by kind of site; on a terminal the other intervals go first where there's no room."""
    for of, title in (("nodes", "effects"), ("edges", "edges")):
        terminal.table(
            f"How well estimates of {title} agree with what was measured",
            (
                "estimate",
                "sites",
                "n",
                "r",
                "95% interval",
                *_MEASURES,
                *(Column(f"{name}: 95% interval", spared=True) for name in _MEASURES),
                Column("recall of top", spared=True),
                Column("of", spared=True),
            ),
            [_measured(row) for row in asked.calibrations if row.of == of],
        )


def _measured(row: Calibration) -> tuple[str, ...]:
    others = [getattr(row, name) for name in _MEASURES.values()]
    return (
        row.method,
        row.kind,
        f"{row.n:,}",
        _value(row.pearson),
        _interval(row.pearson),
        *map(_value, others),
        *map(_interval, others),
        str(row.top),
        f"{row.total:,}",
    )


def _value(measure: Measure) -> str:
    return _NOTHING if measure.value is None else f"{measure.value:.2f}"


def _interval(measure: Measure) -> str:
    return _NOTHING if measure.low is None or measure.high is None else f"[{measure.low:.2f}, {measure.high:.2f}]"


def _paths(asked: Attributed, terminal: Terminal) -> None:
    """From tokens to targets, and how much of what these are fed comes this way."""
    terminal.table(
        f"Strongest paths from tokens to {'targets' if asked.targets else 'the target'}",
        (Column("path", cut.hops), "share"),
        [
            (cut.ARROW.join(asked.called(i) for i in path.nodes), percent(path.strength))
            for path in asked.selection.paths(_PATHS)
        ],
    )
