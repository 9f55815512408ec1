"""graph: pick the largest mean effects, and draw the features that they join."""

from __future__ import annotations

import datetime
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from circuitcli import __version__
from circuitcli.core.circuit import SCHEMA_VERSION, Circuit, Context, Edge, Node, TokenEffect, share_drawn
from circuitcli.core.neuronpedia import page
from circuitcli.core.sites import FeatureId, parse_feature, resolve_pins
from circuitcli.core.tokens import readable, visible
from circuitcli.errors import InputError
from circuitcli.stages import edits as written
from circuitcli.stages import effects as effects_stage
from circuitcli.stages import formats as formatting
from circuitcli.stages import growth, next_tokens, passages
from circuitcli.stages import labels as labelling
from circuitcli.stages.fetch_saes import entries_of
from circuitcli.stages.formats import Formats
from circuitcli.stages.stage import Job, Outcome, Work, stage
from circuitcli.store import acts, circuits, files, tables

NAME = "graph"
_EDITED = "graph/circuit.edited.json"
# Tokens of each colour shown in a box.
_TOKENS_SHOWN = 6


def run(job: Job, edited: Path | None = None) -> Outcome:
    """Draw the circuit in every chosen format, with the labels and groups of an edited circuit.json if one is given."""
    job.parents(NAME)  # a stage that is missing is told before graphs and labels that can't be read
    edits, earlier, source = written.edits(job, edited), growth.earlier(job), labelling.check(job)
    inputs = {
        "extended": growth.digests(job),
        "edits": written.document(edits),
        **labelling.inputs(source),
    }
    if edited is None:
        _keep_edited(job)
    formats, relabel = formatting.of_run(job), labelling.again(job)

    def work(todo: Work) -> None:
        kept = {} if todo.anew or relabel else formatting.intact(todo, formats)
        if kept and labelling.intact(todo):
            _add(job, todo, formats, kept)
        else:
            _draw(job, todo, edits, earlier, source, formats)
        written.keep(job, edits)

    return stage(job, NAME, inputs, work, again=relabel or formats.added)


def _keep_edited(job: Job) -> None:
    """Put a circuit.json that somebody edited in its place aside, before another is drawn there."""
    record, path = job.run.record(NAME), job.run.path(circuits.CIRCUIT)
    entry = record.files.get(circuits.CIRCUIT) if record else None
    if entry is None or not path.is_file() or job.run.as_recorded(path, entry):
        return
    try:
        circuits.read(path)
    except InputError:
        return  # damaged: there is nothing to keep
    aside = job.run.path(_EDITED)
    path.replace(aside)
    job.report.say(f"graph: {path.name} was edited; it is kept as {aside.name}, whose labels `graph --load` takes.")


def _add(job: Job, todo: Work, formats: Formats, kept: dict[str, list[str]]) -> None:
    """Draw what isn't there yet from circuit.json, and keep the rest as it is."""
    record, circuit = job.run.require(NAME), formatting.document(job)
    missing = [name for name in formats.all if name not in kept]
    drawn = formatting.draw(job, circuit, missing, formats)
    _write(job, todo, formats, drawn, kept)
    todo.files |= {name: todo.known[name] for name in (labelling.SAVED,) if name in todo.known}
    todo.facts.update(record.facts)


def _draw(
    job: Job, todo: Work, edits: written.Edits, earlier: list[Circuit], source: labelling.Source, formats: Formats
) -> None:
    """Make the circuit, and draw it in all formats, those that are there from before among them."""
    circuit = written.applied(build(job, earlier), edits)
    labels = labelling.find(job, source, circuit.nodes)
    if labels is not None:
        circuit = labels.put_on(circuit)
    drawn = formatting.draw(job, circuit, formats.all, formats)
    formatting.say_what_became(job, formats, drawn)
    _write(job, todo, formats, drawn, {})
    if labels is not None:
        labelling.save(todo, circuit, labels)
    todo.facts.update(nodes=len(circuit.nodes), edges=len(circuit.edges), share_drawn=circuit.metadata["share_drawn"])


def _write(
    job: Job, todo: Work, formats: Formats, drawn: dict[str, dict[str, bytes]], kept: dict[str, list[str]]
) -> None:
    """Write what was drawn and note what was kept, in the order of the formats."""
    todo.expect({path: name for name in drawn for path in drawn[name]})
    for name in formats.all:
        for path, data in drawn.get(name, {}).items():
            files.write(job.run.path(path), data)
            todo.files[path] = job.run.entry(job.run.path(path))
        todo.files |= {path: todo.known[path] for path in kept.get(name, ())}


def build(job: Job, earlier: list[Circuit]) -> Circuit:
    """The circuit of a run's plan: its largest effects, and the features at their ends; added to earlier circuits.

    Of an edge that an earlier one has, the run's own measurement is taken as well, however small it is.
    """
    table = tables.read(job.run.verified("effects", effects_stage.EFFECTS))
    table = effects_stage.rows_where(table, effects_stage.planned(job, table))
    measured = np.abs(table["effect_mean"], dtype=np.float64)
    edges = [
        edge
        for edge in largest_edges(table, job.settings.graph.max_edges)
        if abs(edge.effect_mean) >= job.settings.graph.min_effect and edge.effect_mean != 0
    ]
    known = {(edge.source, edge.target) for edge in edges}
    wanted = {(edge.source, edge.target) for circuit in earlier for edge in circuit.edges} - known
    edges += _edges_between(table, wanted)
    run, created = _measured_by(job)
    edges = [replace(edge, run=run, created=created) for edge in edges]
    features = sorted({parse_feature(name) for e in edges for name in (e.source, e.target)}, key=lambda f: f.order)
    own = Circuit(_metadata(job, edges, measured), tuple(nodes(job, features)), tuple(edges))
    return growth.grown(earlier, own)


def _measured_by(job: Job) -> tuple[str, str]:
    """The run's name, and when its ablations were done."""
    return job.run.title, job.run.require("ablate").finished


def of_run(job: Job) -> Circuit:
    """The circuit as it was last drawn, with what people wrote on it and the labels that were found for it then."""
    return labelling.saved(job.run).put_on(written.applied(build(job, growth.earlier(job)), written.edits(job, None)))


def largest_edges(table: tables.Columns, count: int) -> list[Edge]:
    """The `count` rows of effects/effects with the largest |mean effect|, largest first."""
    order = np.argsort(-np.abs(table["effect_mean"]), kind="stable")
    return list(edges_of(table, [int(i) for i in order[:count]]))


def edges_of(table: tables.Columns, rows: Sequence[int]) -> tuple[Edge, ...]:
    """Some rows of effects/effects."""
    return tuple(_edge(table, i) for i in rows)


def _edges_between(table: tables.Columns, pairs: Collection[tuple[str, str]]) -> list[Edge]:
    """The rows of effects/effects that join these pairs of features, largest first."""
    ends = [[_index(pair[i]) for pair in pairs] for i in (0, 1)]
    rows = np.flatnonzero(np.isin(table["up_feature"], ends[0]) & np.isin(table["down_feature"], ends[1]))
    edges = [edge for i in rows if ((edge := _edge(table, int(i))).source, edge.target) in pairs]
    return sorted(edges, key=lambda e: -abs(e.effect_mean))


def _index(name: str) -> int:
    """The index at the end of a feature's name; −1 of what is no feature."""
    found = re.fullmatch(r"\d+\.\w+\.([0-9]{1,9})", name)
    return int(found[1]) if found else -1


def _edge(table: tables.Columns, i: int) -> Edge:
    ends = [f"{table[f'{e}_layer'][i]}.{table[f'{e}_site'][i]}.{table[f'{e}_feature'][i]}" for e in ("up", "down")]
    low, high = (None if np.isnan(table[name][i]) else float(table[name][i]) for name in ("ci_low", "ci_high"))
    return Edge(ends[0], ends[1], float(table["effect_mean"][i]), low, high, int(table["n"][i]))


def _metadata(job: Job, edges: Sequence[Edge], measured: np.ndarray) -> dict[str, Any]:
    """What `core.document.Metadata` says, of one run."""
    settings, sites = job.settings, [entry.at for entry in entries_of(job.run)]
    total = float(measured.sum())
    facts = {
        "release": settings.saes.release,
        "num_sequences": job.run.require("cache-acts").facts["sequences"],
        "seed": settings.seed,
        "edges_measured": len(measured),
    }
    name, created = _measured_by(job)
    words = str(job.run.require("ablate").facts.get("start", ""))
    about = {"run": name, "fingerprint": job.run.require("ablate").fingerprint, "created": created}
    return {
        "schema_version": SCHEMA_VERSION,
        **growth.identity(job),
        **facts,
        "layers": sorted({site.layer for site in sites}),
        "sites": sorted({site.name for site in sites}),
        **growth.measured(job),
        "min_effect": settings.graph.min_effect,
        "share_drawn": share_drawn(edges, total),
        "run": name,
        "runs": [{**about, **facts, "abs_effect_measured": total, "start": words}],
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "start": words,
        "prompts": list(settings.texts.prompt) if settings.texts.source == "prompt" else [],
        "answers": _answers(job),
    }


def _answers(job: Job) -> list[str]:
    """What the model itself says at the end of each prompt, in words; of none, if not all of them were read."""
    answers = next_tokens.answers(job)
    said = [", ".join(f"{visible(t.token, 16)} {t.prob:.1%}" for t in answer.tokens) for answer in answers]
    return said if len(said) == len(job.settings.texts.prompt) else []


def nodes(job: Job, features: Sequence[FeatureId], tokens_shown: int = _TOKENS_SHOWN) -> Iterable[Node]:
    """All that the run knows of some features, with so many promoted, and suppressed, tokens at most."""
    pins = set(resolve_pins(job.settings.features.pinned, {e.at: e.d_sae for e in entries_of(job.run)}))
    statistics = rows_of(tables.read(job.run.verified("cache-acts", acts.FEATURES)), features)
    totals = rows_of(tables.read(job.run.verified("effects", effects_stage.FEATURES)), features)
    logits = rows_of(tables.read(job.run.verified("effects", effects_stage.LOGITS)), features)
    contexts = top_contexts(job, features)
    sources = {entry.at: entry.neuronpedia for entry in entries_of(job.run)}
    run, created = _measured_by(job)
    for feature in features:
        total, source = totals[feature], sources[feature.site]
        kl = float(total["kl_mean"][0]) if len(total["n"]) else np.nan
        promoted, suppressed = token_effects(logits[feature])
        yield Node(
            id=str(feature),
            kind="feature",
            layer=feature.site.layer,
            site=feature.site.name,
            feature=feature.index,
            density=float(statistics[feature]["density"][0]),
            max_activation=float(statistics[feature]["max_activation"][0]),
            kl_mean=None if np.isnan(kl) else kl,
            n=int(total["n"][0]) if len(total["n"]) else 0,
            pinned=feature in pins,
            contexts=tuple(contexts[feature]),
            promoted=promoted[:tokens_shown],
            suppressed=suppressed[:tokens_shown],
            neuronpedia=page(job.settings.model, source, feature.index) if source else None,
            run=run,
            created=created,
        )


def token_effects(rows: tables.Columns) -> tuple[tuple[TokenEffect, ...], tuple[TokenEffect, ...]]:
    """Promoted and suppressed tokens of one feature, strongest first, from its rows of effects/logits."""
    columns = (rows[name].tolist() for name in ("rank", "token", "token_id", "effect_mean", "prob_effect_mean"))
    ranked = sorted(zip(*columns, strict=True), key=lambda row: abs(row[0]))
    effects = [(row[0], TokenEffect(row[1], row[2], row[3], None if np.isnan(row[4]) else row[4])) for row in ranked]
    return tuple(effect for rank, effect in effects if rank > 0), tuple(effect for rank, effect in effects if rank < 0)


def top_contexts(job: Job, features: Sequence[FeatureId]) -> dict[FeatureId, list[Context]]:
    """The top contexts of some features: `contexts.view` tokens on each side, with the feature's activations."""
    table = rows_of(tables.read(job.run.verified("cache-acts", acts.CONTEXTS)), features)
    texts = passages.read(job, {int(seq) for rows in table.values() for seq in rows["seq"]})
    found: dict[FeatureId, list[Context]] = {}
    for site in {feature.site for feature in features}:
        indices = [feature.index for feature in features if feature.site == site]
        for index, firings in acts.firings_of(job.run, site, indices).items():
            values = dict(
                zip(zip(firings.seq.tolist(), firings.pos.tolist(), strict=True), firings.value.tolist(), strict=True)
            )
            rows = table[FeatureId(site, index)]
            found[FeatureId(site, index)] = [
                _context(int(rows["seq"][i]), int(rows["pos"][i]), values, texts, job.settings.contexts.view)
                for i in np.argsort(rows["rank"])
            ]
    return found


def _context(
    seq: int, pos: int, values: dict[tuple[int, int], float], texts: dict[int, list[str]], view: int
) -> Context:
    first = max(0, pos - view)
    places = range(first, min(len(texts[seq]), pos + view + 1))
    return Context(
        tokens=tuple(readable(texts[seq][places.start : places.stop], pos - first)),
        activations=tuple(float(values.get((seq, p), 0.0)) for p in places),
        firing=pos - first,
        seq=seq,
        pos=pos,
    )


def rows_of(table: tables.Columns, features: Sequence[FeatureId]) -> dict[FeatureId, tables.Columns]:
    """The rows of each feature in a table."""
    picked = {}
    for feature in features:
        mask = (table["feature"] == feature.index) & (table["layer"] == feature.site.layer)
        mask &= table["site"] == feature.site.name
        picked[feature] = {name: column[mask] for name, column in table.items()}
    return picked
